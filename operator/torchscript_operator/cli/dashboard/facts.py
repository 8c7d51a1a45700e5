"""What the page is told of models: a line for the list, and all of one. All pure; words are those of `tsm status`."""

from collections.abc import Iterator
from datetime import datetime

from torchscript_operator.api import conditions
from torchscript_operator.cli import output, revisions, status, waiting
from torchscript_operator.cli.ages import duration
from torchscript_operator.cli.cluster.access import Json
from torchscript_operator.cli.cluster.progress import Earlier, Run
from torchscript_operator.cli.cluster.read import ModelView, State
from torchscript_operator.cli.dashboard import parity

ATTENTION: tuple[State, ...] = (
    "Failed",
    "Degraded",
    "Waiting",
    "Working",
    "Updating",
    "Suspended",
    "Deleting",
    "Ready",
)
"""States, the one first that needs a person most."""
ABOUT = {"Failed": conditions.STALLED, "Degraded": conditions.STALLED, "Updating": conditions.RECONCILING}
"""The condition whose message says why a model is in a state; Ready for all others."""


def row(view: ModelView) -> Json:
    """A model's line in the list."""
    about = view.condition(ABOUT.get(view.state, conditions.READY))
    return {
        "namespace": view.model.namespace,
        "name": view.model.name,
        "state": view.state,
        "attention": ATTENTION.index(view.state),
        "reason": view.reason,
        "message": about.message if about else "",
        "created": view.created,
        "task": view.model.spec.task,
        "source": status.source_of(view),
        "targets": len(view.targets),
        "proven": sum(target.state == "Proven" for target in view.targets),
        "replicas": status.replicas_of(view),
        "worst": parity.worst(parity.of_model(view)),
    }


def detail(view: ModelView, runs: dict[str, Run], earlier: dict[str, Earlier | None], now: datetime) -> Json:
    """All of a model: what `tsm status -o json` has, and what only a page has room for."""
    found = status.facts(view)
    created = [pod["metadata"].get("creationTimestamp") for pod in view.pods()]
    return {
        **found,
        "message": row(view)["message"],
        "shapes": [f"b{shape.batch}-s{shape.sequence}" for shape in view.model.spec.inputs.shapes],
        "policy": view.model.spec.parity.policy,
        "isCurrent": view.is_current,
        "moves": _moves(view),
        "steps": [_step(step) for step in waiting.steps(view, runs, earlier, now) if _is_under_way(view, step)],
        "parity": parity.of_model(view),
        "candidates": [made for target in found["targets"] if (made := _candidates(target, view))],
        "rollouts": list(_rollouts(view)),
        "revisions": [_revision(revision) for revision in revisions.of_model(view)],
        "pods": [pod | {"created": time} for pod, time in zip(found["pods"], created, strict=True)],
        "events": [_event(event) for event in reversed(view.events)],
    }


def _moves(view: ModelView) -> bool:
    """Whether something is under way that is worth looking at again and again."""
    return view.holds(conditions.RECONCILING) or view.state == "Working"


def _is_under_way(view: ModelView, step: waiting.Step) -> bool:
    serving = view.serving(step.target)
    return step.estimate is not None or (serving is not None and serving.rolling_to is not None)


def _step(step: waiting.Step) -> Json:
    known = step.estimate
    return {
        "target": step.target,
        "doing": step.doing,
        "message": step.message,
        "share": known.share if known else None,
        "percentage": waiting.percentage(known),
        "elapsed": duration(known.elapsed) if known else None,
        "expected": duration(known.expected) if known and known.expected else None,
    }


def _candidates(target: Json, view: ModelView) -> Json | None:
    """The forms that a search for a precision has measured: speed, and error as a distance from eager."""
    listed = target.get("candidates") or []
    if not listed:
        return None
    bound = view.model.spec.parity.minimum_cosine_similarity
    return {
        "target": target["name"],
        "bound": parity.distance(bound or parity.DEFAULT_COSINE),
        "rows": [
            {
                **candidate,
                "speed": parity.number(candidate.get("textsPerSecond")),
                "distance": parity.distance(candidate.get("minimumCosineSimilarity")),
            }
            for candidate in listed
        ],
    }


def _rollouts(view: ModelView) -> Iterator[Json]:
    serving = view.model.status.serving
    for found in serving.targets if serving else ():
        yield {
            "target": found.name,
            "deployment": found.deployment,
            "active": status.short_digest(found.active.artifact.digest) if found.active else None,
            "rollingTo": status.short_digest(found.rolling_to) if found.rolling_to else None,
            "failed": status.short_digest(found.failed_digest) if found.failed_digest else None,
            "pinned": found.pinned.to if found.pinned and not found.pinned.ended else None,
            "ready": found.ready_replicas,
            "replicas": found.replicas,
        }


def _revision(revision: revisions.Revision) -> Json:
    entry = revision.entry
    return {
        "target": revision.target,
        "digest": entry.artifact.digest,
        "short": status.short_digest(entry.artifact.digest),
        "key": entry.key,
        "uri": entry.artifact.uri,
        "precision": entry.precision,
        "verdict": entry.verdict,
        "size": output.size(entry.artifact.size_bytes),
        "proven": entry.proven_time,
        "source": entry.source_revision,
        "notes": list(revision.notes),
        "servable": revision.servable,
    }


def _event(event: Json) -> Json:
    return {
        "time": event.get("lastTimestamp"),
        "type": event.get("type"),
        "reason": event.get("reason"),
        "message": event.get("message"),
        "count": event.get("count") or 1,
    }
