"""A bare API server for tests that need no node: etcd and kube-apiserver on free ports, in a folder of their own.

    with control_plane(tmp_path) as plane:
        plane.kubectl.run("get", "namespaces")

Any number run beside each other and beside the full cluster, without root, and all die with the process that
started them. (Linux ties that to the starting thread: start one from the main thread, as pytest's fixtures are.)
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster import binaries, network
from tests.cluster.components import Plane
from tests.cluster.kubectl import Kubectl
from tests.cluster.processes import ClusterError, Component, Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ATTEMPTS = 3
"""A free port can be taken between finding and using it."""


class ControlPlane:
    """A running control plane."""

    def __init__(self, plane: Plane, supervisor: Supervisor, components: Sequence[Component]) -> None:
        """Use control_plane() instead."""
        self._plane = plane
        self._supervisor = supervisor
        self._components = {component.name: component for component in components}

    @property
    def url(self) -> str:
        """Of the API server."""
        return self._plane.url

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self._plane.kubeconfig

    @property
    def kubectl(self) -> Kubectl:
        """Runs kubectl as the administrator."""
        return Kubectl(self.kubeconfig)

    @property
    def audit_log(self) -> Path:
        """One JSON event a line, level Metadata; written before the response is sent."""
        return self._plane.audit_log or self._plane.folder / "logs" / "audit.log"

    def log(self, component: str) -> Path:
        """The output of `etcd`, `kube-apiserver`, `kube-controller-manager` or `kube-scheduler`."""
        return self._supervisor.log(component)

    def stop(self, component: str = "kube-apiserver", grace: float = 0) -> None:
        """Ends one component, as a fault does; `grace` in seconds before SIGKILL."""
        self._supervisor.stop(component, grace)

    def start(self, component: str = "kube-apiserver") -> None:
        """Starts a stopped component again, on the same port, and waits for the API server."""
        self._supervisor.ensure(self._components[component])
        self._plane.wait_ready(self._supervisor)


@contextmanager
def control_plane(
    directory: Path | None = None,
    *,
    controllers: bool = False,
    scheduler: bool = False,
    audit_log: Path | None = None,
    extra_apiserver: Sequence[str] = (),
    extra_controllers: Sequence[str] = (),
    extra_scheduler: Sequence[str] = (),
) -> Iterator[ControlPlane]:
    """Starts etcd and kube-apiserver, and the controllers or the scheduler when asked; stops all at the end.

    `directory` is made if need be and kept; without one, a temporary folder is used and deleted.
    """
    binaries.build(["kubernetes", "etcd"])
    folder = directory or Path(tempfile.mkdtemp(prefix="tsm-plane-"))
    folder.mkdir(parents=True, exist_ok=True)
    supervisor = Supervisor(folder.resolve(), bound=True)
    described = Plane(
        folder.resolve(),
        bind="127.0.0.1",
        audit_log=audit_log,
        extra_apiserver=tuple(extra_apiserver),
        extra_controllers=tuple(extra_controllers),
        extra_scheduler=tuple(extra_scheduler),
    )
    try:
        yield _start(described, supervisor, controllers=controllers, scheduler=scheduler)
    finally:
        _stop(supervisor)
        if directory is None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(described: Plane, supervisor: Supervisor, *, controllers: bool, scheduler: bool) -> ControlPlane:
    for attempt in range(_ATTEMPTS):
        ports = network.free_ports(5)
        plane = replace(
            described,
            api_port=ports[0],
            etcd_port=ports[1],
            etcd_peer_port=ports[2],
            controllers_port=ports[3],
            scheduler_port=ports[4],
        )
        plane.prepare()
        extra = [plane.controllers()] * controllers + [plane.scheduler()] * scheduler
        try:
            supervisor.ensure(plane.etcd())
            supervisor.wait("etcd", plane.etcd_ready, seconds=30, needs=["etcd"])
            supervisor.ensure(plane.apiserver())
            plane.wait_ready(supervisor)
            for component in extra:
                supervisor.ensure(component)
        except ClusterError:
            _stop(supervisor)
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return ControlPlane(plane, supervisor, [plane.etcd(), plane.apiserver(), *extra])
    raise AssertionError("unreachable")


def _stop(supervisor: Supervisor) -> None:
    for name in ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
        supervisor.stop(name, grace=0)
