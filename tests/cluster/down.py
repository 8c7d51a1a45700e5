"""Takes the cluster down and checks that nothing of it is left on the machine."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

from tests.cluster import machine, network, paths
from tests.cluster.processes import ClusterError, Supervisor, end, marked

if TYPE_CHECKING:
    from pathlib import Path


def down() -> list[str]:
    """Deletes everything but the binaries' cache; returns what remains all the same, in words."""
    machine.require_root()
    started = time.monotonic()
    state = paths.state()
    with machine.exclusive(state):
        if state.exists() and any(state.iterdir()) and not machine.ours(state):
            msg = f"{state} is not a cluster's folder: nothing was touched"
            raise ClusterError(msg)
        if machine.ours(state):
            _stop_all(Supervisor(state))
            _clean(state)
        left = remains()
    if not left:
        print(f"nothing is left of the cluster, after {time.monotonic() - started:.0f} s", file=sys.stderr)
    return left


def remains() -> list[str]:
    """Everything of ours that is still on the machine."""
    state = paths.state()
    return [
        *(f"process {identity.pid}" for identity in {*marked(state), *machine.contained()}),
        *(f"mount {point}" for point in machine.mounts(state)),
        *(f"cgroup {group}" for group in machine.cgroups() if group.name == machine.CGROUP),
        *network.remains(),
        *(f"file {path}" for path in machine.leftovers(state)),
        *([f"folder {state}"] if state.exists() else []),
    ]


def _stop_all(supervisor: Supervisor) -> None:
    """The kubelet first, so that nothing is started anew; containerd after the pods, to tidy up behind them."""
    for name in ("kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager"):
        supervisor.stop(name, grace=5)
    machine.kill_contained()
    if supervisor.alive("containerd"):
        with contextlib.suppress(ClusterError):  # what shims do not tidy up in time is done by hand below
            supervisor.wait("the pods' shims to end", lambda: not _shims(supervisor), seconds=10, needs=["containerd"])
    supervisor.stop("containerd")
    supervisor.stop("kube-apiserver")  # its graceful end needs etcd
    supervisor.stop("etcd")
    end(list(marked(paths.state())), grace=2)


def _shims(supervisor: Supervisor) -> bool:
    known = {record.identity for record in supervisor.records().values()}
    return any(identity not in known for identity in marked(paths.state()))


def _clean(state: Path) -> None:
    machine.unmount(state)
    machine.remove_cgroups()
    network.down(state / "network.json")
    machine.tidy_places(state)
    machine.disclaim(state)
    if parent := machine.parent_of(state):
        parent.rmdir()
