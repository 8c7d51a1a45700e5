"""Figures from the audit log and from /proc. All pure but for the reading."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Json = dict[str, Any]

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
READS = frozenset({"get", "list"})
TICKS = os.sysconf("SC_CLK_TCK")
CONTROLLER = "system:serviceaccount:kube-system:"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mib(pid: int) -> float:
    """Most memory that a process ever had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    msg = f"process {pid} has no VmHWM"
    raise LookupError(msg)


def percentile(values: list[float], share: float) -> float | None:
    """The value below which that share of all lies; None of nothing."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None


@dataclass(frozen=True)
class Call:
    """One call of the API server that has been answered."""

    user: str
    verb: str
    resource: str
    """With its subresource: `jobs`, `jobs/status`."""
    name: str
    code: int
    received: float
    """Seconds since the epoch."""
    answered: float


def calls(audit_log: Path, offset: int = 0) -> Iterator[Call]:
    """Answered calls, from a byte of the log on."""
    with audit_log.open("rb") as lines:
        lines.seek(offset)
        for line in lines:
            event = orjson.loads(line)
            about = event.get("objectRef") or {}
            if event["stage"] != "ResponseComplete" or "resource" not in about:
                continue
            resource = about["resource"]
            yield Call(
                event["user"]["username"],
                event["verb"],
                f"{resource}/{about['subresource']}" if "subresource" in about else resource,
                about.get("name", ""),
                event["responseStatus"]["code"],
                _time(event["requestReceivedTimestamp"]),
                _time(event["stageTimestamp"]),
            )


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@dataclass
class Run:
    """What the audit log tells of one run."""

    first: float = float("inf")
    """When the first object was asked for."""
    loaded: float = 0.0
    made: list[float] = field(default_factory=list)
    """When each child was there."""
    by_verb: Counter[str] = field(default_factory=Counter)
    by_resource: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    """Seconds from a child's event to the status that tells of it."""

    @property
    def seconds_to_all(self) -> float:
        """From the first object to the last child. Raises LookupError where the log tells of none."""
        if not self.made or self.first > max(self.made):
            msg = f"the audit log tells of {len(self.made)} children and of no object before them"
            raise LookupError(msg)
        return max(self.made) - self.first


def read(found: Iterable[Call], user: str, parent: str, child: str) -> Run:
    """Read a run: objects are created, a user makes a child of each, and maybe writes statuses."""
    run = Run()
    news: dict[str, float] = {}
    told: dict[str, list[float]] = defaultdict(list)
    children: dict[str, list[float]] = defaultdict(list)
    for call in found:
        good = call.code < HTTPStatus.MULTIPLE_CHOICES
        if call.verb == "create" and call.resource == parent and good:
            run.first = min(run.first, call.received)
            run.loaded = max(run.loaded, call.answered)
        elif call.user == user:
            run.by_verb[call.verb] += 1
            run.by_resource[f"{call.verb} {call.resource} {call.code}"] += 1
            if call.verb == "create" and call.resource == child and good:
                run.made.append(call.answered)
            if call.verb == "patch" and call.resource == "torchscriptmodels/status":
                told[call.name].append(call.answered)
        elif call.resource in {"jobs/status", "deployments/status"} and call.verb in {"update", "patch"}:
            news[f"{call.resource}/{call.name}"] = call.answered
    for name, when in news.items():
        resource, _, child_name = name.partition("/status/")
        owner = child_name.rpartition("-export-")[0] if resource == "jobs" else child_name.rpartition("-")[0]
        children[owner].append(when)
    for owner, times in children.items():
        for when in times:
            later = [answered for answered in told[owner] if answered > when]
            run.latencies += [min(later) - when] if later else []
    return run
