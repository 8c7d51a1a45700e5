"""The node: containerd, kubelet and kube-proxy, and the images that containerd holds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.cluster import binaries, machine, network, paths, scratch
from tests.cluster.components import answers
from tests.cluster.pki import Certificate
from tests.cluster.processes import ClusterError, Component

BUSYBOX = "localhost/busybox:debian"
"""Debian's static busybox with its applets in /bin: the sandbox of every pod, and handy for tests."""

_APPLETS = (
    *("cat", "dd", "df", "du", "echo", "env", "grep", "head", "id", "kill", "ls", "mkdir", "nc", "nslookup"),
    *("ps", "rm", "sh", "sha256sum", "sleep", "tail", "touch", "wget"),
)

CERTIFICATES = (
    Certificate(
        "kubelet",
        f"/O=system:nodes/CN=system:node:{paths.NODE}",
        [f"DNS:{paths.NODE}", f"IP:{network.NODE_ADDRESS}"],
    ),
    Certificate("proxy", "/CN=system:kube-proxy"),
)

_CONTAINERD = """\
version = 2
root = "{state}/containerd"
state = "{state}/containerd-run"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Where root lacks CAP_SYS_RESOURCE every sandbox would die: it may not lower its oom_score_adj.
  restrict_oom_score_adj = true
  # So that `down` finds them by their place.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{state}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
      Root = "{state}/runc"
"""


def containerd() -> Component:
    """Its own root, state and socket, beside whatever containerd the machine has."""
    state = paths.state()
    config = state / "containerd.toml"
    text = _CONTAINERD.format(state=state, socket=paths.containerd_socket(), pause=BUSYBOX)
    attachment = {
        "cniVersion": "1.0.0",
        "name": network.CNI_NETWORK,
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": network.POD_RANGE}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": str(state / "cni-addresses"),
                },
            }
        ],
    }
    return Component(
        "containerd",
        ["containerd", "--config", str(config)],
        files={config: text, state / "cni" / "10-pods.conflist": json.dumps(attachment, indent=1)},
    )


def kubelet(generation: str) -> Component:
    """With every folder below the state folder that has a setting."""
    state, pki = paths.state(), paths.pki()
    resolver = state / "resolv.conf"
    servers = [f"nameserver {server}\n" for server in network.resolvers()]
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.NODE_ADDRESS,
        "port": network.KUBELET_PORT,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": network.KUBELET_HEALTH_PORT,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{paths.containerd_socket()}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{machine.CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [network.DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolver),
        "podLogsDir": str(state / "pod-logs"),
        "volumePluginDir": str(state / "volume-plugins"),
        "staticPodPath": "",
        # Its only use of iptables; kube-proxy's and ours are nftables.
        "makeIPTablesUtilChains": False,
        # A developer's disk is often nearly full: no pod is evicted for it, no image collected.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
        # Images are put into the node by hand: one that a registry has, too, is not to be asked for there.
        "imagePullCredentialsVerificationPolicy": "NeverVerify",
    }
    argv = [
        str(binaries.binary("kubelet")),
        f"--config={state / 'kubelet.json'}",
        f"--kubeconfig={pki / 'kubelet.kubeconfig'}",
        f"--hostname-override={paths.NODE}",
        f"--node-ip={network.NODE_ADDRESS}",
        f"--root-dir={state / 'kubelet'}",
        f"--cert-dir={pki}",
    ]
    files = {state / "kubelet.json": json.dumps(config, indent=1), resolver: "".join(servers)}
    return Component("kubelet", argv, files=files, generation=generation)


def proxy(generation: str) -> Component:
    """Services by nftables."""
    state = paths.state()
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(paths.pki() / "proxy.kubeconfig")},
        "clusterCIDR": network.POD_RANGE,
        "hostnameOverride": paths.NODE,
        "bindAddress": network.NODE_ADDRESS,
        "healthzBindAddress": f"127.0.0.1:{network.PROXY_HEALTH_PORT}",
        "metricsBindAddress": f"127.0.0.1:{network.PROXY_METRICS_PORT}",
        "conntrack": {"maxPerCore": 0},  # leaves the machine's own limit
        "nftables": {"minSyncPeriod": "100ms"},  # the default, 1 s, is for clusters with thousands of Services
    }
    argv = [str(binaries.binary("kube-proxy")), f"--config={state / 'proxy.json'}"]
    files = {state / "proxy.json": json.dumps(config, indent=1)}
    return Component("kube-proxy", argv, files=files, generation=generation)


def kubelet_ready() -> bool:
    """Whether the kubelet's main loops run."""
    return answers(f"http://127.0.0.1:{network.KUBELET_HEALTH_PORT}/healthz")


def containerd_ready() -> bool:
    """Whether containerd answers."""
    return paths.containerd_socket().exists() and _ctr("version", check=False) is not None


def import_archive(archive: Path) -> str:
    """Puts an OCI archive's image into the node; returns its name. Does nothing when its content is there."""
    name, config = scratch.describe(archive)
    if not name:
        msg = f"{archive} names no image: push it as oci-archive:FILE:localhost/NAME:TAG"
        raise ClusterError(msg)
    if _stored_config(name) == config:
        return name
    _ctr("images", "import", str(archive.resolve()))
    return name


def forget_images(prefix: str) -> None:
    """Takes names that begin so from the node; what runs of them goes on."""
    names = [name for name in (_ctr("images", "list", "--quiet", check=False) or "").split() if name.startswith(prefix)]
    if names:
        _ctr("images", "remove", *names)


def _stored_config(name: str) -> str | None:
    """The config digest of the node's image of that name, which compressing its layers anew does not change."""
    listed = (_ctr("images", "list", f"name=={name}") or "").splitlines()[1:]
    if not listed:
        return None
    manifest = json.loads(_ctr("content", "get", listed[0].split()[2]) or "{}")
    digest: str | None = manifest.get("config", {}).get("digest")
    return digest


def system_images() -> list[Path]:
    """Archives of what the cluster itself runs, made when their content is new."""
    shell: dict[str, Path | str | bytes] = {"/bin/busybox": _busybox()}
    shell |= {f"/bin/{applet}": "busybox" for applet in _APPLETS}
    busybox = scratch.scratch_image(
        BUSYBOX, shell, ["/bin/sleep", "2147483647"], archive=paths.images() / "busybox.tar"
    )
    coredns = paths.images() / f"{coredns_image().rpartition('/')[2].replace(':', '-')}.tar"
    if not coredns.exists():  # its name says what is in it; writing 80 MB takes a second
        scratch.scratch_image(coredns_image(), {"/coredns": paths.binary("coredns")}, ["/coredns"], archive=coredns)
    return [busybox, coredns]


def coredns_image() -> str:
    """Tagged with the folder of its binary, so that another build is another image."""
    return f"localhost/coredns:{paths.binary('coredns').parent.name.removeprefix('coredns-')}"


def _busybox() -> Path:
    return next(path for path in (Path("/bin/busybox"), Path("/usr/bin/busybox")) if path.exists())


def _ctr(*arguments: str, check: bool = True) -> str | None:
    command = ["ctr", "--address", str(paths.containerd_socket()), "--namespace", "k8s.io", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout
    if check:
        msg = f"`{' '.join(command)}` failed: {done.stderr.strip()}"
        raise ClusterError(msg)
    return None
