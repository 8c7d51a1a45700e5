"""How far an export is, as the log of its Job tells, and how long such a one has taken before. All pure."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import ValidationError

from torchscript_operator.artifact.outcome import ExportOutcome
from torchscript_operator.cli.cluster.access import Json
from torchscript_operator.cli.cluster.read import ModelView
from torchscript_operator.controller.model import COMPONENT_LABEL, TARGET_LABEL
from torchscript_operator.controller.observed import is_true, label

SHARES = {
    "resolve": 10,
    "fetch": 10,
    "load": 10,
    "golden": 10,
    "trace": 30,
    "axes": 10,
    "precision": 40,
    "parity": 20,
    "package": 5,
    "upload": 5,
}
"""What each stage usually takes of an export, where no earlier one can be asked; only their proportions count."""
USUAL = ("resolve", "load", "golden", "trace", "axes", "parity", "package", "upload")
"""Stages of an export of one precision."""
MOST = 0.99
"""Of the whole, while it still runs."""


@dataclass
class Run:
    """One run of an export, read from the lines of its log as they come."""

    began: datetime | None = None
    stage: str | None = None
    stage_began: datetime | None = None
    message: str = ""
    """What it says it is doing."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of the stages that have ended."""

    def see(self, line: str) -> None:
        """Take in a line; one that is no line of a worker's own is passed over."""
        try:
            found = json.loads(line)
            time = datetime.fromisoformat(found["time"])
        except (ValueError, TypeError, KeyError):
            return
        self.began = self.began or time
        stage, said = found.get("stage"), str(found.get("message", ""))
        if stage is None:
            return
        if "elapsedSeconds" in found:
            self.seconds[stage] = float(found["elapsedSeconds"])
            self.stage, self.stage_began = None, None
            return
        if stage != self.stage:
            self.stage, self.stage_began = stage, time
        self.message = said.rstrip("…")

    @property
    def is_whole(self) -> bool:
        """Whether it went from beginning to end, so that others can be measured by it; a cache hit did not."""
        return "upload" in self.seconds


def read(lines: Iterable[str]) -> Run:
    """A run whose log is there as a whole."""
    run = Run()
    for line in lines:
        run.see(line)
    return run


@dataclass(frozen=True)
class Estimate:
    """How far it is."""

    share: float | None
    """From 0 to 1; None where nothing is known."""
    elapsed: float
    """Seconds since the Job was created."""
    expected: float | None
    """Seconds that an earlier Job took."""


@dataclass(frozen=True)
class Earlier:
    """What an earlier Job of the same target took."""

    seconds: float
    run: Run | None = None
    """Its log, where it is still there."""


def estimate(elapsed: float, run: Run | None, earlier: Earlier | None, now: datetime) -> Estimate:
    """How far a running export is. By its stages where its log can be read, else by the time that has passed."""
    expected = earlier.seconds if earlier else None
    if run is None or run.began is None:
        return Estimate(min(elapsed / expected, MOST) if expected else None, elapsed, expected)
    known = earlier.run.seconds if earlier and earlier.run and earlier.run.is_whole else None
    measured = known or {stage: float(SHARES[stage]) for stage in USUAL}
    total = sum(measured.values())
    done = sum(measured.get(stage, 0.0) for stage in run.seconds)
    if run.stage is not None and run.stage not in run.seconds:
        takes = measured.get(run.stage, 0.0)
        since = (now - run.stage_began).total_seconds() if run.stage_began else 0.0
        done += min(since, takes) if known else takes / 2
    if known and expected:
        # The pod's start and its end are part of what the Job took.
        around = max(expected - total, 0.0)
        until_began = elapsed - (now - run.began).total_seconds()
        done, total = done + min(max(until_began, 0.0), around), total + around
    return Estimate(min(done / total, MOST) if total else None, elapsed, expected)


def started(job: Json) -> datetime:
    """When a Job began to count."""
    return datetime.fromisoformat(job["metadata"]["creationTimestamp"])


def took(job: Json) -> float | None:
    """Seconds that a Job took that ended well."""
    ended = job.get("status", {}).get("completionTime")
    return (
        (datetime.fromisoformat(ended) - started(job)).total_seconds() if ended and is_true(job, "Complete") else None
    )


def outcomes(pods: Iterable[Json]) -> Iterator[ExportOutcome]:
    """What the pods of a Job have reported, in their order."""
    for pod in pods:
        for container in pod.get("status", {}).get("containerStatuses") or []:
            ending = container.get("state", {}).get("terminated") or {}
            try:
                yield ExportOutcome.model_validate_json(ending.get("message") or "")
            except ValidationError:
                continue


def earlier_jobs(view: ModelView, target: str, component: str, but: str | None) -> list[Json]:
    """Jobs of a target's step that ended well, other than the present one."""
    return [
        job
        for job in view.children.jobs
        if label(job, TARGET_LABEL) == target
        and label(job, COMPONENT_LABEL) == component
        and job["metadata"]["name"] != but
        and took(job) is not None
    ]


def newest(view: ModelView, jobs: Iterable[Json]) -> Json | None:
    """The newest Job that did its work; one that had a cache hit is no measure."""
    found = [job for job in jobs if not any(it.cache_hit for it in outcomes(view.children.job_pods(job)))]
    return max(found, key=started, default=None)


def now() -> datetime:
    """The time, as Kubernetes counts it."""
    return datetime.now(UTC)
