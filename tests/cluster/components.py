"""The control plane's processes: which flags, in which order. Shared by the full cluster and the light one."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cluster import binaries, network
from tests.cluster.pki import Certificate, ensure, write_kubeconfig
from tests.cluster.processes import Component, Supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
"""
"""Who asked for what and was it allowed, without bodies: what a proof about RBAC needs."""


@dataclass(frozen=True)
class Plane:
    """Where one control plane lives and listens."""

    folder: Path
    bind: str
    """Address of the API server's socket, and of the URL in kubeconfigs."""
    advertise: str = network.NODE_ADDRESS
    """Endpoint of the Service `kubernetes`: must not be loopback, though only pods ever use it."""
    api_port: int = network.API_PORT
    etcd_port: int = network.ETCD_PORT
    etcd_peer_port: int = network.ETCD_PEER_PORT
    controllers_port: int = network.CONTROLLERS_PORT
    scheduler_port: int = network.SCHEDULER_PORT
    audit_log: Path | None = None
    """None: `<folder>/logs/audit.log`."""
    extra_apiserver: Sequence[str] = ()
    """More flags of kube-apiserver; a flag given again wins."""
    extra_controllers: Sequence[str] = ()
    """The same for kube-controller-manager."""
    extra_scheduler: Sequence[str] = ()
    """The same for kube-scheduler."""
    extra_certificates: Sequence[Certificate] = ()
    generation: str = ""
    """The certificates' fingerprint: new ones restart everything that read the old."""

    @property
    def url(self) -> str:
        """Where clients on this machine reach the API server."""
        return f"https://{self.bind}:{self.api_port}"

    @property
    def pki(self) -> Path:
        """Certificates and kubeconfigs."""
        return self.folder / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "kubeconfig"

    def certificates(self) -> list[Certificate]:
        """Everyone who serves or logs in."""
        scopes = ("", ".default", ".default.svc", ".default.svc.cluster.local")
        hosts = [*(f"DNS:kubernetes{scope}" for scope in scopes), "DNS:localhost"]
        used = ("127.0.0.1", network.API_SERVICE_ADDRESS, self.advertise, self.bind)
        addresses = [f"IP:{address}" for address in dict.fromkeys(used)]
        return [
            Certificate("apiserver", "/CN=kube-apiserver", [*hosts, *addresses]),
            Certificate("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client"),
            Certificate("admin", "/O=system:masters/CN=admin"),
            Certificate("controllers", "/CN=system:kube-controller-manager"),
            Certificate("scheduler", "/CN=system:kube-scheduler"),
            *self.extra_certificates,
        ]

    def prepare(self) -> str:
        """Certificates and kubeconfigs; returns the certificates' fingerprint."""
        fingerprint = ensure(self.pki, self.certificates())
        write_kubeconfig(self.kubeconfig, self.pki, "admin", self.url)
        for user in ("controllers", "scheduler"):
            write_kubeconfig(self.pki / f"{user}.kubeconfig", self.pki, user, self.url)
        return fingerprint

    def etcd(self) -> Component:
        """The store. Without fsync: a crash of the machine may lose it, which a test cluster can afford."""
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.etcd_port, self.etcd_peer_port))
        argv = [
            str(binaries.binary("etcd")),
            f"--data-dir={self.folder / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
        ]
        return Component("etcd", argv)

    def apiserver(self) -> Component:
        """The API, with Node and RBAC authorization and an audit log."""
        pki = self.pki
        policy = pki / "audit-policy.yaml"
        audit = self.audit_log or self.folder / "logs" / "audit.log"
        argv = [
            str(binaries.binary("kube-apiserver")),
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--bind-address={self.bind}",
            f"--secure-port={self.api_port}",
            f"--advertise-address={self.advertise}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
            f"--service-cluster-ip-range={network.SERVICE_RANGE}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--endpoint-reconciler-type=lease",
            # Names of nodes are not in any DNS: `kubectl logs` and `exec` go to the node's address.
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
            f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={audit}",
            "--audit-log-maxsize=200",  # MB, before it is rotated
            "--audit-log-maxbackup=2",
            "--profiling=false",
            *self.extra_apiserver,
        ]
        return Component("kube-apiserver", argv, files={policy: AUDIT_POLICY}, generation=self.generation)

    def controllers(self) -> Component:
        """All controllers, each as its own service account, so that RBAC holds for them too."""
        return self._client(
            "kube-controller-manager",
            "controllers",
            self.controllers_port,
            f"--service-account-private-key-file={self.pki / 'service-accounts.key'}",
            f"--root-ca-file={self.pki / 'ca.crt'}",
            "--use-service-account-credentials",
            # It makes this folder, by default below /usr/libexec.
            f"--flex-volume-plugin-dir={self.folder / 'volume-plugins'}",
            *self.extra_controllers,
        )

    def scheduler(self) -> Component:
        """The default scheduler."""
        return self._client("kube-scheduler", "scheduler", self.scheduler_port, *self.extra_scheduler)

    def _client(self, name: str, user: str, port: int, *more: str) -> Component:
        kubeconfig = self.pki / f"{user}.kubeconfig"
        argv = [
            str(binaries.binary(name)),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            "--leader-elect=false",  # there is one of each
            *more,
        ]
        return Component(name, argv, generation=self.generation)

    def ready(self) -> bool:
        """Whether the API server says it is."""
        return answers(f"{self.url}/readyz", self.pki / "ca.crt")

    def etcd_ready(self) -> bool:
        """Whether etcd has a leader and answers."""
        return answers(f"http://127.0.0.1:{self.etcd_port}/health")

    def wait_ready(self, supervisor: Supervisor, seconds: float = 60) -> None:
        """Returns once the API server serves; ClusterError with the end of its log if it does not."""
        supervisor.wait("the API server", self.ready, seconds=seconds, needs=["etcd", "kube-apiserver"])


def answers(url: str, authority: Path | None = None) -> bool:
    """Whether a GET gives 200 within two seconds; never through a proxy that the environment names."""
    context = ssl.create_default_context(cafile=str(authority)) if authority else None
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False
