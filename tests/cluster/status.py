"""What runs of the cluster, as a table, and what to do next."""

from __future__ import annotations

import time

from tests.cluster import binaries, paths
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.processes import Supervisor
from tests.cluster.up import COMPONENTS


def status() -> tuple[str, bool]:
    """The text to show, and whether all is well."""
    supervisor = Supervisor(paths.state())
    rows = [("COMPONENT", "STATE", "PID", "SINCE")]
    for name in COMPONENTS:
        record = supervisor.record(name)
        if record is None:
            rows.append((name, "not started", "-", "-"))
        elif record.identity.alive():
            rows.append((name, "up", str(record.identity.pid), _ago(time.time() - record.since)))
        else:
            rows.append((name, "ENDED", str(record.identity.pid), _ago(time.time() - record.since)))
    running = sum(state == "up" for _, state, _, _ in rows)
    lines = [f"{name:<25}{state:<13}{pid:<9}{since}" for name, state, pid, since in rows]
    lines += ["", f"{'versions':<12}{_versions()}", f"{'state':<12}{paths.state()}"]
    if running == 0:
        return "\n".join([*lines, "", "The cluster is down. Next: python -m tests.cluster up"]), False
    lines += [f"{'kubeconfig':<12}{paths.kubeconfig()}", f"{'logs':<12}{paths.logs()}", "", _node()]
    if running < len(COMPONENTS):
        ended = [name for name, state, _, _ in rows[1:] if state != "up"]
        lines += ["", f"Not up: {', '.join(ended)} (see {paths.logs()}). Next: python -m tests.cluster up"]
        return "\n".join(lines), False
    return "\n".join([*lines, "", f"Next: export KUBECONFIG={paths.kubeconfig()}"]), True


def _versions() -> str:
    return ", ".join(f"{tool.name} {binaries.version(tool)}" for tool in binaries.TOOLS.values() if tool.default)


def _node() -> str:
    try:
        return Kubectl(paths.kubeconfig()).run("get", "nodes", "--request-timeout=5s").rstrip()
    except (KubectlError, FileNotFoundError) as error:
        return f"the API server does not answer: {error}"


def _ago(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min ago" if hours else f"{minutes} min {rest} s ago"
