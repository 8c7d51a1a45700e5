"""tsm status: all models in a table, one of them in full. All pure but for the printing."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Console
from rich.markup import escape

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1 import GROUP, SINGULAR
from torchscript_operator.api.v1alpha1.base import StatusModel
from torchscript_operator.api.v1alpha1.status import Condition, TargetStatus
from torchscript_operator.artifact.manifest import OutputParity
from torchscript_operator.cli import failures, output
from torchscript_operator.cli.ages import age
from torchscript_operator.cli.cluster.access import Json
from torchscript_operator.cli.cluster.read import ModelView, Reading
from torchscript_operator.cli.failures import Trouble
from torchscript_operator.cli.formats import Format, View
from torchscript_operator.controller import diagnose
from torchscript_operator.controller.model import COMPONENT_LABEL, SERVING, TARGET_LABEL
from torchscript_operator.controller.observed import is_true, label

STATE_STYLES = {
    "Ready": "green",
    "Updating": "cyan",
    "Working": "cyan",
    "Waiting": "cyan",
    "Degraded": "bold yellow",
    "Failed": "bold red",
    "Suspended": "yellow",
    "Deleting": "dim",
    "Proven": "green",
    "Exporting": "cyan",
    "Verifying": "cyan",
    "Pending": "dim",
}
GOOD_WHEN_FALSE = (conditions.RECONCILING, conditions.STALLED)
SHORT = 12
"""Digits of a digest or key in a table: enough for `tsm rollback`, too."""
DIGEST_CHARACTERS = len("sha256:") + SHORT
EVENTS = 5
"""The newest ones shown."""
Rows = Iterable[Sequence[str]]


def styled(text: str) -> str:
    """A state in its colour."""
    style = STATE_STYLES.get(text)
    return f"[{style}]{text}[/]" if style else escape(text)


def source_of(view: ModelView) -> str:
    """The model's source in one word."""
    source = view.model.spec.source
    if not view.is_readable:
        return "-"
    if source.hugging_face is not None:
        return f"hf://{source.hugging_face.repository}@{source.hugging_face.revision}"
    if source.s3 is not None:
        return source.s3.uri
    claim = source.persistent_volume_claim
    return f"pvc://{claim.claim_name}/{claim.path}" if claim else "-"


def replicas_of(view: ModelView) -> str:
    """Ready pods of those that are there."""
    serving = view.model.status.serving
    return f"{serving.ready_replicas}/{serving.replicas}" if serving else "-"


def show_list(reading: Reading, form: View, now: datetime, console: Console, namespace: str | None) -> None:
    """Print all models."""
    if form is View.NAME:
        for view in reading.models:
            console.print(f"{SINGULAR}.{GROUP}/{view.model.name}", highlight=False)
        return
    if form.form is not Format.TABLE:
        output.write({"models": [facts(view) for view in reading.models]}, form.form)
        return
    if not reading.models:
        console.print(f"There is no model in {'any namespace' if namespace is None else f'namespace {namespace}'}.")
        console.print("[dim]`tsm init REPOSITORY` writes one; `kubectl apply -f` brings it here.[/]")
        return
    wide, everywhere = form is View.WIDE, namespace is None
    header = ["name", "state", "reason", "targets", "parity", "ready", "age"]
    header = ["namespace"] * everywhere + header + ["task", "precision", "artifact", "source", "url"] * wide
    console.print(output.table(header, [_row(view, now, wide=wide, everywhere=everywhere) for view in reading.models]))


def _row(view: ModelView, now: datetime, *, wide: bool, everywhere: bool) -> list[str]:
    proven = sum(target.state == "Proven" for target in view.targets)
    parity = view.condition(conditions.PARITY_VERIFIED)
    verdict = {"True": "Passed", "False": "Failed"}.get(parity.status if parity else "", "-")
    row = [escape(view.model.namespace)] * everywhere + [
        escape(view.model.name),
        styled(view.state),
        escape(view.reason or "-"),
        f"{proven}/{len(view.targets)}",
        output.verdict(verdict),
        replicas_of(view),
        age(view.created, now),
    ]
    if wide:
        serving = view.model.status.serving
        row += [
            view.model.spec.task,
            ",".join(target.precision or "-" for target in view.targets),
            ",".join((target.key or "-")[:SHORT] for target in view.targets),
            escape(source_of(view)),
            escape((serving.url if serving else None) or "-"),
        ]
    return row


def show(view: ModelView, form: View, now: datetime, console: Console) -> None:
    """Print one model in full."""
    if form is View.NAME:
        console.print(f"{SINGULAR}.{GROUP}/{view.model.name}", highlight=False)
        return
    if form.form is not Format.TABLE:
        output.write(facts(view), form.form)
        return
    model, serving = view.model, view.model.status.serving
    console.print(f"[bold]{escape(model.name)}[/]  {styled(view.state)}  {escape(view.reason)}".rstrip())
    console.print()
    generation = f"{model.generation}" + ("" if view.is_current else " (the operator has not seen it yet)")
    about = {
        "namespace": model.namespace,
        "source": source_of(view),
        "task": model.spec.task,
        "shapes": ", ".join(f"b{shape.batch}-s{shape.sequence}" for shape in model.spec.inputs.shapes),
        "generation": generation,
        "age": age(view.created, now),
        "suspended": "yes: no export and no rollout starts" if model.spec.suspend else None,
        "url": serving.url if serving else None,
        "rollback": _pinned(view),
        "deletion": _deletion(view),
    }
    console.print(output.pairs({name: value for name, value in about.items() if value is not None}))
    for title, header, rows in (
        ("conditions", ("", "status", "reason", "since", "message"), _conditions(model.status.conditions, now)),
        ("targets", ("", "state", "precision", "parity", "worst", "artifact", "size", "proven"), _targets(view, now)),
        ("serving", ("", "ready", "serves", "rolling to", "failed"), _serving(view)),
        ("pods", ("", "of", "target", "state", "restarts", "node", "age"), _pods(view, now)),
        ("events", ("age", "reason", "message"), _events(view, now, wide=form is View.WIDE)),
    ):
        listed = list(rows)
        if listed:
            console.print()
            console.print(output.table((title if header[0] == "" else header[0], *header[1:]), listed))
    for trouble in failures.of_model(view):
        console.print()
        show_trouble(trouble, now, console, tail=form is View.WIDE)


def show_trouble(trouble: Trouble, now: datetime, console: Console, *, tail: bool = False) -> None:
    """Print a failure and its next step."""
    code = f", exit code {trouble.exit_code}" if trouble.exit_code is not None else ""
    stage = f" at {trouble.stage}" if trouble.stage else ""
    when = f", {age(trouble.time, now)} ago" if trouble.time else ""
    heading = f"[bold red]{escape(trouble.where)}: {escape(trouble.reason)}[/]"
    console.print(f"{heading}{escape(f'{stage}{code}{when}')}")
    console.print(f"  {escape(trouble.message)}")
    if tail and trouble.log_tail:
        for line in trouble.log_tail.splitlines():
            console.print(f"  [dim]{escape(line)}[/]")
    if trouble.step:
        console.print(f"  [bold]next:[/] {escape(trouble.step)}")


def _pinned(view: ModelView) -> str | None:
    serving = view.model.status.serving
    pins = [found.pinned for found in (serving.targets if serving else ()) if found.pinned is not None]
    if not pins:
        return None
    ended = " (ended: another spec has been proven since)" if all(pin.ended for pin in pins) else ""
    return f"to {pins[0].to}{ended}"


def _deletion(view: ModelView) -> str | None:
    """What goes with a model that asks for its artifacts' removal, or why they stay."""
    status = view.model.status
    if status.deletion_policy is None:
        return None
    return status.deletion_policy_message or "removes the artifacts that no other model refers to"


def _conditions(listed: Iterable[Condition], now: datetime) -> Rows:
    said: set[str] = set()
    for found in listed:
        good = "False" if found.type in GOOD_WHEN_FALSE else "True"
        style = "dim" if found.status == "Unknown" else "green" if found.status == good else "red"
        if found.type == conditions.RECONCILING and found.status == "True":
            style = "cyan"
        yield (
            found.type,
            f"[{style}]{found.status}[/]",
            escape(found.reason),
            age(found.last_transition_time, now),
            # Most conditions of a failed model say the same, at length.
            "[dim]as above[/]" if found.message in said else escape(found.message),
        )
        said.add(found.message)


def worst(target: TargetStatus) -> str:
    """The largest difference of a target's artifact, and where."""
    if target.parity is None or not target.parity.outputs:
        return "-"
    first = target.parity.outputs[0]
    return f"{first.maximum_absolute_difference} ({first.output}, {first.shape})"


def _targets(view: ModelView, now: datetime) -> Rows:
    for target in view.targets:
        yield (
            escape(target.name),
            styled(target.state),
            target.precision or "-",
            output.verdict(target.parity.verdict) if target.parity else "-",
            escape(worst(target)),
            (target.key or "-")[:SHORT],
            output.size(target.artifact.size_bytes) if target.artifact else "-",
            f"{age(target.proven_time, now)} ago" if target.proven_time else "-",
        )


def short_digest(digest: str | None) -> str:
    """The beginning of a digest."""
    return (digest or "-")[:DIGEST_CHARACTERS]


def _serving(view: ModelView) -> Rows:
    for found in view.model.status.serving.targets if view.model.status.serving else ():
        yield (
            escape(found.deployment),
            f"{found.ready_replicas}/{found.replicas}",
            short_digest(found.active.artifact.digest if found.active else None),
            short_digest(found.rolling_to),
            short_digest(found.failed_digest),
        )


def pod_state(pod: Json) -> str:
    """A pod in one word: its trouble, or how far it is."""
    if "deletionTimestamp" in pod["metadata"]:
        return "Ending"
    fields = diagnose.SERVING_FIELDS if label(pod, COMPONENT_LABEL) == SERVING else diagnose.JOB_FIELDS
    phase = str(pod.get("status", {}).get("phase", "Unknown"))
    if is_true(pod, "Ready"):
        return "Ready"
    trouble = diagnose.pod_trouble(pod, fields)
    return trouble.reason if trouble is not None else phase


def restarts(pod: Json) -> int:
    """How often a pod's containers have been started again."""
    return sum(status.get("restartCount", 0) for status in pod.get("status", {}).get("containerStatuses") or [])


def _pods(view: ModelView, now: datetime) -> Rows:
    for pod in view.pods():
        yield (
            escape(pod["metadata"]["name"]),
            label(pod, COMPONENT_LABEL) or "-",
            label(pod, TARGET_LABEL) or "-",
            pod_state(pod),
            str(restarts(pod)),
            pod.get("spec", {}).get("nodeName") or "-",
            age(pod["metadata"].get("creationTimestamp"), now),
        )


def _events(view: ModelView, now: datetime, *, wide: bool) -> Rows:
    shown = view.events if wide else view.events[-EVENTS:]
    for event in shown:
        colour = "yellow" if event.get("type") == "Warning" else "dim"
        yield (
            age(event.get("lastTimestamp"), now),
            f"[{colour}]{escape(str(event.get('reason')))}[/]",
            escape(str(event.get("message", ""))),
        )


def figures(target: TargetStatus) -> tuple[OutputParity, ...]:
    """A target's parity as the manifest has it."""
    rows = target.parity.outputs if target.parity else ()
    return tuple(OutputParity(**row.model_dump()) for row in rows)


def facts(view: ModelView) -> Json:
    """One model for programs; names and forms of the status's own fields are the API's."""
    model, serving = view.model, view.model.status.serving
    found: Json = {
        "name": model.name,
        "namespace": model.namespace,
        "state": view.state,
        "reason": view.reason,
        "generation": model.generation,
        "observedGeneration": model.status.observed_generation,
        "created": view.created,
        "source": source_of(view),
        "task": model.spec.task,
        "suspended": model.spec.suspend,
        "conditions": [_dump(condition) for condition in model.status.conditions],
        "targets": [_dump(target) for target in view.targets],
        "serving": _dump(serving) if serving else None,
        "pods": [
            {
                "name": pod["metadata"]["name"],
                "component": label(pod, COMPONENT_LABEL),
                "target": label(pod, TARGET_LABEL),
                "state": pod_state(pod),
                "restarts": restarts(pod),
                "node": pod.get("spec", {}).get("nodeName"),
            }
            for pod in view.pods()
        ],
        "failures": [
            {
                "where": trouble.where,
                "reason": trouble.reason,
                "stage": trouble.stage or None,
                "message": trouble.message,
                "nextStep": trouble.step,
                "exitCode": trouble.exit_code,
                "time": trouble.time,
            }
            for trouble in failures.of_model(view)
        ],
    }
    return found


def _dump(value: StatusModel) -> Json:
    dumped: Json = value.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped
