"""tsm report NAME: the parity report of a model in the cluster, from its store, or the figures that its status has."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from torchscript_operator.api.v1alpha1.status import StoreStatus, TargetStatus
from torchscript_operator.artifact.failures import WorkerError
from torchscript_operator.artifact.outcome import CandidateSummary, ParitySummary
from torchscript_operator.artifact.request import ARTIFACT_CREDENTIALS_PREFIX, StoreLocation
from torchscript_operator.artifact.store import Credentials
from torchscript_operator.cli import advice, artifacts, locations, output, status
from torchscript_operator.cli.cluster import progress
from torchscript_operator.cli.cluster.access import Cluster, Json
from torchscript_operator.cli.cluster.read import ModelView
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.formats import Format

PAGE = f"/{artifacts.HTML_NAME}"


@dataclass(frozen=True)
class Found:
    """Where the report of a target lies."""

    target: TargetStatus
    uri: str | None
    """Of the folder; None where the status and the pods tell of none."""
    store: StoreStatus
    refused: bool
    """Of the present attempt, which was not published."""


@dataclass(frozen=True)
class Wish:
    """Which report, and how it is shown."""

    target: str | None = None
    proven: bool = False
    """That of the artifact, also where a newer attempt was refused."""
    secret: bool = False
    """Read the store's credentials from the Secret that the status names, with the user's own rights."""
    endpoint: str | None = None
    """URL of the store as this machine sees it."""
    browse: bool = False
    form: Format = Format.TABLE


def find(view: ModelView, wish: Wish) -> Found:
    """The report of one target: of the present attempt where that was refused, else of the artifact.

    CliError where several targets could be meant, or there is no report yet.
    """
    known = [target for target in view.targets if wish.target in {None, target.name}]
    names = ", ".join(target.name for target in view.targets)
    if not known:
        raise CliError(f"{view.model.name} has no target {wish.target!r}.", advice=f"Its targets: {names}.")
    found = [place for target in known if (place := _of_target(view, target, proven=wish.proven)) is not None]
    if len(found) > 1:
        raise CliError(f"{view.model.name} has several targets: {names}.", advice="Choose one with --target.")
    if not found:
        message = f"{view.model.name} has no parity report yet."
        raise CliError(message, 1, f"`tsm status {view.model.name}` says how far it is.")
    return found[0]


def _of_target(view: ModelView, target: TargetStatus, *, proven: bool) -> Found | None:
    store = target.artifact.store if target.artifact else _store(view)
    failed = None if proven else of_failed_attempt(view, target)
    if failed is not None and failed.report is not None:
        return Found(target, failed.report.removesuffix(PAGE), _store(view), refused=True)
    if target.parity is None:
        return None
    folder = target.parity.report.removesuffix(PAGE) if target.parity.report else None
    return Found(target, folder, store, refused=False)


def of_failed_attempt(view: ModelView, target: TargetStatus) -> ParitySummary | None:
    """The parity that the present attempt was measured with, where it failed and its pod is still there."""
    if target.state != "Failed":
        return None
    told = progress.outcomes(reversed(view.job_pods(target.job or "")))
    return next((outcome.parity for outcome in told if outcome.parity is not None), None)


def page(cluster: Cluster, view: ModelView, wish: Wish) -> bytes:
    """The HTML of a report. CliError, or WorkerError as the store's own."""
    return _place(cluster, view, find(view, wish), wish).store.read_bytes(artifacts.HTML_NAME)


def _store(view: ModelView) -> StoreStatus:
    """The store that the spec names; what the operator's default one needs is not to be seen here."""
    artifact = view.model.spec.artifact
    if artifact is None:
        held = [target.artifact.store for target in view.targets if target.artifact]
        return held[0] if held else StoreStatus()
    secret = artifact.credentials_secret.name if artifact.credentials_secret else None
    return StoreStatus(endpoint=artifact.endpoint, region=artifact.region, credentials_secret=secret)


def show(cluster: Cluster, view: ModelView, wish: Wish, console: Console, remarks: Console) -> None:
    """Print or open a report. Where its store cannot be read, the figures in the status are printed instead.

    CliError, or WorkerError as the store's own, where the whole report was asked for (--open, -o json).
    """
    found = find(view, wish)
    try:
        place = _place(cluster, view, found, wish)
    except (WorkerError, CliError) as error:
        if wish.browse or wish.form is not Format.TABLE or found.target.parity is None or found.refused:
            raise
        remarks.print(f"[yellow]![/] {escape(error.message)}")
        if isinstance(error, WorkerError):
            remarks.print(f"  {escape(advice.on(error.reason))} --secret takes the credentials that the pods have.")
        _print_figures(view, found.target, console)
        return
    artifacts.report(place, wish.form, console, browse=wish.browse)


def _place(cluster: Cluster, view: ModelView, found: Found, wish: Wish) -> locations.Place:
    if found.uri is None or not found.uri.startswith("s3://"):
        where = f"the volume {found.store.claim_name}" if found.store.claim_name else "a volume"
        raise CliError(
            f"The whole report lies on {where}, which only the cluster has.", 1, "Mount it in a pod to read it."
        )
    endpoint = wish.endpoint or found.store.endpoint
    location = StoreLocation(uri=found.uri, endpoint=endpoint, region=found.store.region)
    credentials = _credentials(cluster, view, found.store) if wish.secret else None
    return locations.look(location, credentials)


def _credentials(cluster: Cluster, view: ModelView, store: StoreStatus) -> Credentials | None:
    if store.credentials_secret is None:
        message = f"The pods of {view.model.name} use no Secret for their store, but a cloud identity."
        raise CliError(message, 1, "Leave --secret out and use your own AWS credentials.")
    secret = cluster.get("v1", "secrets", view.model.namespace, store.credentials_secret)
    if secret is None:
        raise CliError(f"There is no Secret {store.credentials_secret} in {view.model.namespace}.", 1)
    return Credentials.from_environment(ARTIFACT_CREDENTIALS_PREFIX, _decoded(secret))


def _decoded(secret: Json) -> Mapping[str, str]:
    values = secret.get("data") or {}
    return {f"{ARTIFACT_CREDENTIALS_PREFIX}{key}": base64.b64decode(value).decode() for key, value in values.items()}


def _print_figures(view: ModelView, target: TargetStatus, console: Console) -> None:
    parity = target.parity
    if parity is None:
        return
    console.print(f"Parity {output.verdict(parity.verdict)}: {escape(view.model.name)}, target {escape(target.name)}")
    console.print()
    console.print(output.figures(status.figures(target)))
    if parity.omitted:
        console.print(f"[dim]{parity.omitted} more figures are in the report.[/]")
    if target.candidates:
        console.print()
        console.print(output.candidates(CandidateSummary(**row.model_dump()) for row in target.candidates))
    console.print()
    console.print(output.pairs({"report": parity.report or "-", "versions": _named(target.versions or {})}))


def _named(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
