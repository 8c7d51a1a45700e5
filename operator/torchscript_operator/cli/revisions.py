"""tsm history and tsm rollback: artifacts that were proven, and which one is served. All pure but for the printing."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.markup import escape

from torchscript_operator.api.v1alpha1.status import HistoryStatus, TargetStatus
from torchscript_operator.artifact.digest import PREFIX
from torchscript_operator.cli import output
from torchscript_operator.cli.ages import age
from torchscript_operator.cli.cluster.access import Json
from torchscript_operator.cli.cluster.read import ModelView
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.formats import Format
from torchscript_operator.cli.status import SHORT, short_digest
from torchscript_operator.controller import history
from torchscript_operator.controller.model import ROLLBACK_ANNOTATION


@dataclass(frozen=True)
class Revision:
    """One proven artifact of one target."""

    target: str
    entry: HistoryStatus
    notes: tuple[str, ...]
    """newest, serving, pinned, rolling out, failed."""
    servable: bool
    """Whether `tsm rollback` may go to it."""


def of_model(view: ModelView, target: str | None = None) -> list[Revision]:
    """All that a model's status names, each target's newest first."""
    return [found for status in view.targets if target in {None, status.name} for found in _of_target(view, status)]


def _of_target(view: ModelView, status: TargetStatus) -> Iterator[Revision]:
    newest = history.entry(status)
    serving = view.serving(status.name)
    allowed = {entry.artifact.digest for entry in history.candidates(view.model, status)}
    pin = serving.pinned if serving else None
    failed = {found.failed_digest for found in (serving, pin) if found is not None}
    for entry in [*([newest] if newest else []), *status.history]:
        digest = entry.artifact.digest
        named = pin is not None and not pin.ended and _fits(entry, pin.to)
        notes = {
            "newest": entry is newest,
            "serving": bool(serving and serving.active and serving.active.artifact.digest == digest),
            "rolling out": bool(serving and serving.rolling_to == digest),
            "pinned": named,
            "failed": digest in failed,
        }
        shown = tuple(note for note, holds in notes.items() if holds)
        yield Revision(status.name, entry, shown, digest in allowed)


def _fits(entry: HistoryStatus, wanted: str) -> bool:
    digest = entry.artifact.digest
    return any(name.startswith(wanted) for name in (digest, digest.removeprefix(PREFIX), entry.key or ""))


def show(view: ModelView, target: str | None, form: Format, now: datetime, console: Console) -> None:
    """Print a model's revisions. CliError for a target that is not there."""
    _check_target(view, target)
    found = of_model(view, target)
    if form is not Format.TABLE:
        output.write({"name": view.model.name, "revisions": [_facts(revision) for revision in found]}, form)
        return
    if not found:
        console.print(f"No artifact of {escape(view.model.name)} has been proven yet.")
        return
    header = ("target", "artifact", "key", "precision", "parity", "size", "proven", "source", "")
    rows = [
        (
            escape(revision.target),
            short_digest(revision.entry.artifact.digest),
            (revision.entry.key or "-")[:SHORT],
            revision.entry.precision or "-",
            output.verdict(revision.entry.verdict or "-"),
            output.size(revision.entry.artifact.size_bytes),
            f"{age(revision.entry.proven_time, now)} ago" if revision.entry.proven_time else "-",
            (revision.entry.source_revision or "-")[:SHORT],
            ", ".join(revision.notes),
        )
        for revision in found
    ]
    console.print(output.table(header, rows, frozenset({"size"})))


def _facts(revision: Revision) -> Json:
    entry: Json = revision.entry.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {"target": revision.target, **entry, "notes": list(revision.notes), "servable": revision.servable}


def _check_target(view: ModelView, target: str | None) -> None:
    names = [status.name for status in view.targets]
    if target is not None and target not in names:
        raise CliError(f"{view.model.name} has no target {target!r}.", advice=f"Its targets: {', '.join(names)}.")


def chosen(view: ModelView, wanted: str | None, target: str | None) -> Revision:
    """The artifact to go back to: the one that is named, or the newest one proven before the one that serves.

    CliError where none or several fit, or where that one serves already.
    """
    _check_target(view, target)
    every = of_model(view, target)
    listed = f"`tsm history {view.model.name}` lists them."
    if wanted is not None:
        fitting = [revision for revision in every if _fits(revision.entry, wanted)]
        digests = {revision.entry.artifact.digest for revision in fitting}
        if len(digests) != 1:
            found = f"{len(digests)} artifacts fit" if digests else "No artifact fits"
            raise CliError(f"{found} {wanted}.", advice=f"Give more digits of a digest or key; {listed}")
        (revision, *_) = fitting
        if not revision.servable:
            message = f"{short_digest(revision.entry.artifact.digest)} failed its parity."
            raise CliError(message, advice="It is served only while spec.parity.policy is Warn.")
        return revision
    served = [name for name in dict.fromkeys(revision.target for revision in every) if view.serving(name)]
    if len(served) > 1:
        names = ", ".join(served)
        raise CliError(f"{view.model.name} serves several targets: {names}.", advice="Choose one with --target.")
    mine = [revision for revision in every if revision.target in served]
    place = next((index for index, revision in enumerate(mine) if "serving" in revision.notes), 0)
    earlier = [revision for revision in mine[place + 1 :] if revision.servable]
    if not earlier:
        raise CliError(f"{view.model.name} has no earlier artifact to go back to.", 1, listed)
    return earlier[0]


def annotation(value: str | None) -> Json:
    """The patch that asks for a rollback, or takes the wish back."""
    return {"metadata": {"annotations": {ROLLBACK_ANNOTATION: value}}}
