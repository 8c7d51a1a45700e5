"""Earlier proven artifacts: how long they stay referenced, and which one an annotation puts back. All pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from torchscript_operator.api.v1alpha1.spec import Target
from torchscript_operator.api.v1alpha1.status import (
    HistoryStatus,
    PinStatus,
    ServedArtifact,
    ServingTargetStatus,
    TargetStatus,
)
from torchscript_operator.artifact import digest
from torchscript_operator.controller import jobs
from torchscript_operator.controller.export_plan import stamp
from torchscript_operator.controller.export_report import good_ending
from torchscript_operator.controller.model import ROLLBACK_ANNOTATION, Model
from torchscript_operator.controller.observed import Observed
from torchscript_operator.controller.settings import Settings


@dataclass(frozen=True)
class Pin:
    """What the annotation means for one target."""

    status: PinStatus
    served: ServedArtifact | None
    """The artifact to serve in place of the newest; None once the pin has ended."""


def entry(status: TargetStatus) -> HistoryStatus | None:
    """A target's newest artifact as an entry of its history."""
    if status.artifact is None or status.worker_image is None:
        return None
    return HistoryStatus(
        key=status.key,
        artifact=status.artifact,
        worker_image=status.worker_image,
        source_revision=status.source_revision,
        precision=status.precision,
        verdict=status.parity.verdict if status.parity else None,
        proven_time=status.proven_time,
    )


def _reachable(held: HistoryStatus, newest: TargetStatus) -> HistoryStatus:
    """Credentials are no part of an artifact: for the store that the spec names, they are those it names now."""
    if newest.artifact is None:
        return held
    mine, now = held.artifact, newest.artifact
    same = mine.uri.rpartition("/")[0] == now.uri.rpartition("/")[0] and mine.store.claim_name == now.store.claim_name
    return held.model_copy(update={"artifact": mine.model_copy(update={"store": now.store})}) if same else held


def _time_of_proof(status: TargetStatus, observed: Observed, now: datetime) -> str:
    """When the Job's container ended: a time that is the same however often it is looked at."""
    job = observed.job(status.job or "")
    ending = good_ending(observed.job_pods(job)) if job else None
    return (ending or {}).get("finishedAt") or stamp(now)


def carry(model: Model, status: TargetStatus, observed: Observed, now: datetime) -> TargetStatus:
    """Add to a target's new status what was proven before, newest first; what serves stays beyond the limit."""
    known = model.target_status(status.name)
    newest = status.artifact.digest if status.artifact else None
    replaced = entry(known) if known.artifact and known.artifact.digest != newest else None
    held = [*([replaced] if replaced else []), *known.history]
    others = list({item.artifact.digest: item for item in reversed(held) if item.artifact.digest != newest}.values())
    others.reverse()
    unchanged = known.artifact is not None and known.artifact.digest == newest
    proven_time = known.proven_time if unchanged or newest is None else _time_of_proof(status, observed, now)
    history = tuple(_reachable(item, status) for item in others)
    carried = status.model_copy(update={"history": history, "proven_time": proven_time, "lost": known.lost})
    return trimmed(model, carried, _serving(model, status.name))


def trimmed(model: Model, status: TargetStatus, serving: ServingTargetStatus | None) -> TargetStatus:
    """Leave out of a target's history what is beyond the limit and does not serve."""
    active = serving.active.artifact.digest if serving and serving.active else None
    limit = model.spec.revision_history_limit
    kept = tuple(it for place, it in enumerate(status.history) if place < limit or it.artifact.digest == active)
    return status if kept == status.history else status.model_copy(update={"history": kept})


def _serving(model: Model, target: str) -> ServingTargetStatus | None:
    listed = model.status.serving.targets if model.status.serving else ()
    return next((item for item in listed if item.name == target), None)


def _matches(item: HistoryStatus, wanted: str) -> bool:
    named = (item.artifact.digest, item.artifact.digest.removeprefix(digest.PREFIX), item.key or "")
    return any(name.startswith(wanted) for name in named)


def candidates(model: Model, status: TargetStatus) -> list[HistoryStatus]:
    """Artifacts that a target may go back to; one that failed parity only while the policy lets it pass."""
    newest = entry(status)
    every = [*([newest] if newest else []), *status.history]
    return [item for item in every if item.verdict != "Failed" or model.spec.parity.policy == "Warn"]


def asked(model: Model, target: Target, settings: Settings) -> str:
    """Digest of what the spec asks a target's export for; another default image is no change of the spec."""
    wanted = jobs.export_request(model, target, settings)
    return wanted.model_copy(update={"worker_image": target.job.image or ""}).digest()


def _asked(model: Model, target: Target, settings: Settings) -> str | None:
    """The same; None where nothing can be exported, and what is asked for is not known."""
    try:
        return asked(model, target, settings)
    except (jobs.NoArtifactStoreError, jobs.NotTrustedError):
        return None


def pins(model: Model, statuses: Mapping[str, TargetStatus], settings: Settings) -> tuple[dict[str, Pin], str | None]:
    """What the annotation means for each served target, and what is wrong with it.

    A pin holds until the annotation goes, or until an artifact of another spec than the one it was set on is proven:
    in between the newest artifact is the one that was rolled back from.
    """
    wanted = model.annotations.get(ROLLBACK_ANNOTATION, "")
    if not wanted:
        return {}, None
    found: dict[str, Pin] = {}
    problems, waits = [], False
    for target in model.spec.targets:
        status, serving = statuses[target.name], _serving(model, target.name)
        if target.name not in model.served or status.artifact is None:
            continue
        before = serving.pinned if serving and serving.pinned and serving.pinned.to == wanted else None
        request = _asked(model, target, settings) or (before.request if before else None)
        if request is None:
            # Another spec could not be told from this one later: the annotation waits.
            waits = True
            continue
        if before and (before.ended or (before.request != request and status.state == "Proven")):
            found[target.name] = Pin(PinStatus(to=wanted, request=before.request, ended=True), None)
            continue
        fitting = {item.artifact.digest: item for item in candidates(model, status) if _matches(item, wanted)}
        if len(fitting) == 1:
            (item,) = fitting.values()
            served = ServedArtifact(artifact=item.artifact, worker_image=item.worker_image)
            found[target.name] = Pin(before or PinStatus(to=wanted, request=request), served)
        elif fitting:
            problems.append(f"{wanted} fits several artifacts of target {target.name}: {', '.join(fitting)}.")
    known = [item.artifact.digest for status in statuses.values() for item in candidates(model, status)]
    if not (found or problems or waits) and known:
        problems.append(f"No artifact fits {wanted}; status.targets[].history has {', '.join(dict.fromkeys(known))}.")
    problem = f"The annotation {ROLLBACK_ANNOTATION} cannot be followed: {' '.join(problems)}" if problems else None
    return found, problem
