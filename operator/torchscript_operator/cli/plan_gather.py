"""What a plan is made against: the cluster as it is, or a base from the repository, and the operator's settings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from pathlib import Path

import yaml
from pydantic import ValidationError

from torchscript_operator.api.v1alpha1 import API_VERSION, PLURAL
from torchscript_operator.api.v1alpha1.spec import Artifact
from torchscript_operator.cli import plan_base, planning, requests
from torchscript_operator.cli.cluster import installation, read
from torchscript_operator.cli.cluster.access import ApiError, Cluster, Json
from torchscript_operator.cli.cluster.read import ModelView
from torchscript_operator.cli.errors import REFUSED, CliError
from torchscript_operator.cli.plan_facts import ModelPlan
from torchscript_operator.cli.planning import Surroundings
from torchscript_operator.controller import scaling
from torchscript_operator.controller.model import Model
from torchscript_operator.controller.settings import Settings

NO_SETTINGS = "The operator's settings are not known here, so its defaults for images and placement are left out."
NO_STORE = "Without spec.artifact the operator's default store is used, which is not known here."


@dataclass(frozen=True)
class Settled:
    """The operator's settings where they are known, and what is to be said about them."""

    settings: Settings | None
    note: str | None = None


def read_settings(path: Path) -> Settings:
    """Settings from a file: the operator's own, or the ConfigMap that has them. CliError for anything else."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("kind") == "ConfigMap":
            found = yaml.safe_load(found["data"][installation.SETTINGS_KEY])
        return Settings.model_validate(found)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError, KeyError, TypeError) as error:
        said = str(error).splitlines()[0]
        advice = "Give the operator's settings.yaml, or the chart's ConfigMap that has it."
        raise CliError(f"{path}: these are no settings of the operator: {said}", REFUSED, advice) from error


def offline(
    models: Sequence[tuple[Model, bool]],
    base: Sequence[Model],
    settings: Settings | None,
    namespace: str | None,
    now: datetime,
) -> list[ModelPlan]:
    """Plans without a cluster. What the base has is taken to be exported, proven and rolled out."""
    known = settings or requests.SETTINGS
    plans = []
    for model, is_named in models:
        mine = model if is_named or namespace is None else replace(model, namespace=namespace)
        notes = [] if settings else [NO_SETTINGS]
        if settings is None and model.spec.artifact is None:
            notes.append(NO_STORE)
        before = next((it for it in base if it.name == model.name), None)
        view = None if before is None else _rolled_out(replace(before, namespace=mine.namespace), known, now)
        plans.append(planning.plan(mine, view, Surroundings(known, notes=tuple(notes)), now))
    return plans


def _rolled_out(base: Model, settings: Settings, now: datetime) -> ModelView:
    model, observed = plan_base.settled(base, settings, now)
    return ModelView({"metadata": {"name": base.name, "namespace": base.namespace}}, model, children=observed)


def online(
    cluster: Cluster,
    models: Sequence[tuple[Model, bool]],
    settings: Settings | None,
    operator_namespace: str | None,
    now: datetime,
) -> list[ModelPlan]:
    """Plans against a cluster. ApiError; what may not be read is told in a note."""
    notes: list[str] = []
    nodes = _list(cluster, notes, "v1", "nodes", None)
    others = _others(cluster, notes)
    # Each namespace may have an operator of its own.
    settled: dict[str, Settled] = {}
    plans = []
    for model, is_named in models:
        mine = model if is_named else replace(model, namespace=cluster.namespace or model.namespace)
        if mine.namespace not in settled:
            here = cluster.within(mine.namespace)
            settled[mine.namespace] = Settled(settings) if settings else _settings(here, operator_namespace)
        known = settled[mine.namespace]
        own = [*([known.note] if known.note else []), *notes]
        if known.settings is None and model.spec.artifact is None:
            own.append(NO_STORE)
        live = _live(cluster, mine)
        around = Surroundings(
            known.settings or shown(live), others, None if nodes is None else tuple(nodes), tuple(own)
        )
        plans.append(planning.plan(mine, live, around, now))
    return plans


def shown(live: ModelView | None) -> Settings:
    """What a model's own artifacts show of settings that may not be read: images, store and trust.

    Without them an unchanged file would be told as a new export, since the image is an input of each artifact.
    """
    if live is None:
        return requests.SETTINGS
    made = {
        target.compiler: (status.worker_image, status.artifact)
        for target in live.model.spec.targets
        if (status := live.model.target_status(target.name)).artifact is not None and target.job.image is None
    }
    found = requests.SETTINGS.model_copy(update={"trust": live.model.spec.source.trust or ()})
    for compiler, (image, artifact) in made.items():
        defaults = found.defaults(compiler).model_copy(update={"image": image})
        found = found.model_copy(update={"compilers": {**found.compilers, compiler: defaults}})
        if artifact is not None and artifact.uri.startswith("s3://"):
            store = Artifact(
                uri=artifact.uri.rpartition("/")[0], endpoint=artifact.store.endpoint, region=artifact.store.region
            )
            found = found.model_copy(update={"artifact_store": store})
    return found


def _settings(cluster: Cluster, namespace: str | None) -> Settled:
    """Those of the operator that looks after the cluster's namespace."""
    found = installation.find(cluster, namespace)
    if found is None:
        return Settled(None, f"There is no operator to be seen in {cluster.context}. {NO_SETTINGS}")
    if found.settings is None:
        return Settled(None, f"{found.problem} {NO_SETTINGS}")
    if found.watches(cluster.namespace):
        return Settled(found.settings)
    said = f"The operator {found.namespace}/{found.name} does not watch the namespace {cluster.namespace}"
    return Settled(found.settings, f"{said}: nothing is done about its models.")


def _list(
    cluster: Cluster, notes: list[str], api_version: str, plural: str, namespace: str | None
) -> list[Json] | None:
    try:
        return cluster.list(api_version, plural, namespace)
    except ApiError as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
        notes.append(error.message)
        return None


def _others(cluster: Cluster, notes: list[str]) -> tuple[ModelView, ...]:
    """All models that the user may see: those of the cluster, or of the namespace."""
    ignored: list[str] = []
    found = _list(cluster, ignored, API_VERSION, PLURAL, None)
    if found is None:
        found = _list(cluster, notes, API_VERSION, PLURAL, cluster.namespace or "default")
    return tuple(read.parse(body) for body in found or ())


def _live(cluster: Cluster, model: Model) -> ModelView | None:
    """The model as it is, with all children that the planner looks at; None where there is none of its name."""
    if cluster.get(API_VERSION, PLURAL, model.namespace, model.name) is None:
        return None
    here = cluster.within(model.namespace)
    found = read.read(here, model.name, "children")
    if found.missing:
        message = f"A plan needs all of the model's children: {found.missing[0]}"
        raise CliError(message, REFUSED, "Ask for the right to list them, or plan with --offline --base FILE.")
    (view,) = found.models
    if view.unreadable is not None:
        message = f"{model.namespace}/{model.name} has what this tsm does not know: {view.unreadable}."
        raise CliError(message, REFUSED, "Install the tsm of the operator's release; `tsm doctor` tells which it is.")
    children = view.children
    # Somebody else's Service of the model's name bears no label of ours.
    service = children.service or here.get("v1", "services", model.namespace, model.name)
    names = scaling.looked_for(view.model, children.deployments)
    beside = {
        plural: tuple(item for name in names if (item := here.get(version, plural, model.namespace, name)) is not None)
        for version, plural in (
            ("autoscaling/v2", "horizontalpodautoscalers"),
            ("policy/v1", "poddisruptionbudgets"),
        )
    }
    children = replace(
        children,
        service=service,
        autoscalers=beside["horizontalpodautoscalers"],
        budgets=beside["poddisruptionbudgets"],
    )
    return replace(view, children=children)
