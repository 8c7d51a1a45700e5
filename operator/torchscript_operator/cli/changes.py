"""tsm retry, rollback, suspend and resume: one small patch each, of the model and of nothing else."""

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape

from torchscript_operator.api.v1alpha1 import API_VERSION, PLURAL
from torchscript_operator.cli import failures, revisions
from torchscript_operator.cli.cluster.access import Cluster, Json
from torchscript_operator.cli.cluster.read import ModelView, parse
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.status import short_digest
from torchscript_operator.controller.model import RETRY_ANNOTATION, ROLLBACK_ANNOTATION

GITOPS = {
    "kustomize-controller": "Flux",
    "helm-controller": "Flux",
    "argocd-controller": "Argo CD",
    "argocd-application-controller": "Argo CD",
}
"""Field managers of tools that put back what is not in their repository."""


def _patch(cluster: Cluster, view: ModelView, patch: Json) -> ModelView:
    where = (API_VERSION, PLURAL, view.model.namespace, view.model.name)
    return parse(cluster.merge(*where, patch))


def found(cluster: Cluster, name: str) -> ModelView:
    """The model as it is. ApiError where it is not there; CliError where the namespace is left open."""
    if cluster.namespace is None:
        raise CliError("A change is made to one model.", advice="Give its namespace with -n in place of -A.")
    return parse(cluster.model(cluster.namespace, name))


def retry(cluster: Cluster, name: str, console: Console, *, force: bool) -> ModelView:
    """Ask for a new attempt of what failed. CliError where nothing has."""
    view = found(cluster, name)
    troubles = failures.of_model(view)
    if not troubles and not force:
        message = f"Nothing of {name} has failed, so there is nothing to try again."
        raise CliError(message, 1, "--force exports it again all the same; the store answers if it has the artifact.")
    # To the microsecond: the value of an earlier attempt in the same second would ask for nothing.
    value = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    changed = _patch(cluster, view, {"metadata": {"annotations": {RETRY_ANNOTATION: value}}})
    console.print(f"{escape(name)} is tried again ({RETRY_ANNOTATION}={value}).")
    if changed.model.spec.suspend:
        console.print(f"[yellow]![/] It is suspended: tsm resume {escape(name)} lets it start.")
    return changed


def rollback(cluster: Cluster, name: str, to: str | None, target: str | None, console: Console) -> ModelView:
    """Ask for an earlier artifact. CliError where none, or more than one, is meant."""
    view = found(cluster, name)
    revision = revisions.chosen(view, to, target)
    digest = revision.entry.artifact.digest
    changed = _patch(cluster, view, revisions.annotation(digest))
    console.print(f"{escape(name)}: target {escape(revision.target)} goes to {short_digest(digest)}.")
    console.print(f"[dim]It stays until another spec is proven, or until: tsm rollback {escape(name)} --undo[/]")
    return changed


def undo(cluster: Cluster, name: str, console: Console) -> ModelView:
    """Take the wish for an earlier artifact back. CliError where there is none."""
    view = found(cluster, name)
    if ROLLBACK_ANNOTATION not in view.model.annotations:
        raise CliError(f"{name} is not rolled back.", 1, f"`tsm history {name}` lists what it serves and could serve.")
    changed = _patch(cluster, view, revisions.annotation(None))
    console.print(f"{escape(name)} serves its newest proven artifact again.")
    return changed


def suspend(cluster: Cluster, name: str, console: Console, *, wanted: bool) -> ModelView:
    """Hold new exports and rollouts, or let them go on; saying so twice changes nothing."""
    view = found(cluster, name)
    if view.model.spec.suspend == wanted:
        console.print(f"{escape(name)} is {'suspended already' if wanted else 'not suspended'}.")
        return view
    changed = _patch(cluster, view, {"spec": {"suspend": wanted}})
    said = "is suspended: no export and no rollout starts; what runs and serves goes on" if wanted else "is resumed"
    console.print(f"{escape(name)} {said}.")
    for tool in sorted(set(keepers(changed.body))):
        console.print(f"[yellow]![/] {tool} keeps this model: write spec.suspend in its repository, or it is put back.")
    return changed


def keepers(body: Json) -> Iterator[str]:
    """GitOps tools that apply an object's spec."""
    for entry in body["metadata"].get("managedFields") or []:
        if entry.get("manager") in GITOPS and "f:spec" in entry.get("fieldsV1", {}):
            yield GITOPS[entry["manager"]]
