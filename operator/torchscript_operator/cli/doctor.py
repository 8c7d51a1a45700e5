"""tsm doctor: everything that has to be right around the models, each with its remedy where it is not."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, get_args

from rich.console import Console
from rich.markup import escape

from torchscript_operator import __version__
from torchscript_operator.api import crd
from torchscript_operator.api.v1alpha1 import GROUP, PLURAL, VERSION
from torchscript_operator.api.v1alpha1.spec import Compiler, Target
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import StoreLocation
from torchscript_operator.artifact.store import open_store
from torchscript_operator.cli import output
from torchscript_operator.cli.cluster import installation, nodes, read, rights
from torchscript_operator.cli.cluster.access import ApiError, Cluster, Json
from torchscript_operator.cli.cluster.installation import Installation
from torchscript_operator.cli.cluster.read import ModelView
from torchscript_operator.cli.formats import Format
from torchscript_operator.controller import placement
from torchscript_operator.controller.placement import FAMILIES, INSTANCE_TYPE, NEURON_RESOURCES, Place
from torchscript_operator.controller.settings import Settings

Verdict = Literal["ok", "warn", "fail", "unknown"]
"""unknown: it could not be looked at, for want of a right or of what comes before it."""
STYLES: dict[Verdict, str] = {"ok": "green", "warn": "yellow", "fail": "bold red", "unknown": "dim"}
MARKS: dict[Verdict, str] = {"ok": "✓", "warn": "!", "fail": "✗", "unknown": "?"}
OLDEST = (1, 31)
"""The oldest Kubernetes that the chart takes."""
STORE_REASONS = frozenset(
    reason.value
    for reason in (FailureReason.STORE_NOT_FOUND, FailureReason.STORE_ACCESS_DENIED, FailureReason.STORE_UNREACHABLE)
)


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
    """What to do; empty where nothing is to be done."""


@dataclass
class Patient:
    """What has been found out so far, for the checks that rest on it."""

    cluster: Cluster
    operator_namespace: str | None = None
    operator: Installation | None = None
    models: tuple[ModelView, ...] = ()
    nodes: tuple[Json, ...] | None = None


def examine(cluster: Cluster, operator_namespace: str | None = None) -> list[Check]:
    """Make all checks. One that cannot be made says so; nothing is raised but for a fault of our own."""
    patient = Patient(cluster, operator_namespace)
    found: list[Check] = []
    for name, look in CHECKS:
        try:
            found += list(look(patient))
        except ApiError as error:
            verdict: Verdict = "unknown" if error.status == HTTPStatus.FORBIDDEN else "fail"
            found.append(Check(name, verdict, error.message, error.advice))
            if name == "cluster":
                return found
    return found


def _cluster(patient: Patient) -> Iterator[Check]:
    version = patient.cluster.version()
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    where = f"{patient.cluster.context} answers, Kubernetes {version}"
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        yield Check("cluster", "fail", where, f"Upgrade to Kubernetes {wanted} or newer.")
    else:
        yield Check("cluster", "ok", where)


def _definition(patient: Patient) -> Iterator[Check]:
    found = patient.cluster.get("apiextensions.k8s.io/v1", "customresourcedefinitions", None, f"{PLURAL}.{GROUP}")
    yield judge_definition(found)


def judge_definition(found: Json | None) -> Check:
    """The CRD in the cluster against the one of this release."""
    if found is None:
        return Check("CRD", "fail", f"{PLURAL}.{GROUP} is not there", "Install the chart, or kubectl apply -f crds/.")
    versions = {version["name"]: version for version in found["spec"]["versions"]}
    mine = crd.build()["spec"]["versions"][0]
    theirs = versions.get(VERSION)
    if theirs is None or not theirs.get("served"):
        names = ", ".join(versions)
        return Check("CRD", "fail", f"it serves {names}, not {VERSION}", "Install the tsm of the chart's release.")
    same = theirs.get("schema") == mine["schema"]
    if not same and _fields(theirs["schema"]) != _fields(mine["schema"]):
        more, less = (
            sorted(_fields(mine["schema"]) - _fields(theirs["schema"])),
            sorted(_fields(theirs["schema"]) - _fields(mine["schema"])),
        )
        told = "; ".join(
            f"{what} {', '.join(fields[:3])}" + (" …" if len(fields) > 3 else "")  # noqa: PLR2004
            for what, fields in (("it lacks", more), ("it also has", less))
            if fields
        )
        remedy = "Upgrade the older of the two: the CRD with the chart (kubectl apply -f crds/), or tsm."
        return Check("CRD", "warn", f"{VERSION} of another release than tsm {__version__}: {told}", remedy)
    return Check("CRD", "ok", f"{PLURAL}.{GROUP} {VERSION}, as tsm {__version__} has it")


def _fields(schema: Json) -> set[str]:
    """Paths of all fields."""

    def walk(at: Json, prefix: str) -> Iterator[str]:
        for name, inner in (at.get("properties") or {}).items():
            yield f"{prefix}{name}"
            yield from walk(inner, f"{prefix}{name}.")
        if isinstance(at.get("items"), dict):
            yield from walk(at["items"], prefix)

    return set(walk(schema["openAPIV3Schema"], ""))


def _rights(patient: Patient) -> Iterator[Check]:
    namespace = patient.cluster.namespace
    lacking = rights.lacking(patient.cluster)
    where = f"in {namespace}" if namespace else "in all namespaces"
    if not lacking:
        yield Check("your rights", "ok", f"every command may do its work {where}")
        return
    said = "; ".join(f"{command}: no {', '.join(found)}" for command, found in lacking.items())
    remedy = "Ask for a RoleBinding to the chart's view or edit role, or to the verbs named."
    yield Check("your rights", "fail" if rights.FIRST in lacking else "warn", f"{where}: {said}", remedy)


def _operator(patient: Patient) -> Iterator[Check]:
    patient.operator = found = installation.find(patient.cluster, patient.operator_namespace)
    if found is None:
        where = f"in {patient.operator_namespace}" if patient.operator_namespace else "where you may look"
        remedy = "Install the chart, or name its namespace: --operator-namespace."
        yield Check("operator", "fail", f"there is none {where}", remedy)
        return
    yield judge_operator(found)
    if found.watches(patient.cluster.namespace) is False and found.settings is not None:
        watched = ", ".join(found.settings.watch_namespaces)
        here = patient.cluster.namespace or "all namespaces"
        remedy = "Look there with -n, or add the namespace to the chart's value watchNamespaces."
        yield Check("operator's namespaces", "warn", f"it watches {watched}, not {here}", remedy)
    if found.settings is None:
        remedy = "Ask for get on that ConfigMap: without it plan and doctor know no defaults."
        yield Check("operator's settings", "unknown", found.problem or "", remedy)


def judge_operator(found: Installation) -> Check:
    """Whether it runs, and whether it is of this release."""
    status = found.deployment.get("status", {})
    wanted, ready = found.deployment["spec"].get("replicas", 1), status.get("readyReplicas", 0)
    what = f"{found.namespace}/{found.name}, {found.image}, {ready} of {wanted} ready"
    logs = f"kubectl --namespace {found.namespace} logs deployment/{found.name}"
    if ready == 0:
        return Check("operator", "fail", what, f"See why it does not run: {logs}")
    if ready < wanted:
        return Check("operator", "warn", what, f"See why not all of it runs: {logs}")
    if found.version not in {None, __version__}:
        return Check("operator", "warn", f"{what}; it is {found.version}", f"tsm is {__version__}: upgrade the older.")
    return Check("operator", "ok", what)


def _operator_rights(patient: Patient) -> Iterator[Check]:
    name = "operator's rights"
    if patient.operator is None:
        yield Check(name, "unknown", "no operator was found")
        return
    user, lacking = patient.operator.user, rights.lacking_of(patient.operator, patient.cluster)
    if lacking:
        remedy = "Let the chart create them (rbac.create), or add them to the operator's role."
        yield Check(name, "fail", f"{user} may not: {', '.join(lacking)}", remedy)
    else:
        yield Check(name, "ok", f"{user} may do all that the chart gives it")


def _models(patient: Patient) -> Iterator[Check]:
    patient.models = read.read(patient.cluster, depth="models").models
    yield judge_models(patient.models)


def judge_models(models: Sequence[ModelView]) -> Check:
    """Whether the operator keeps up, and what has failed."""
    late = [view.model.name for view in models if view.state == "Waiting"]
    bad = [view.model.name for view in models if view.state in {"Failed", "Degraded"}]
    if late:
        remedy = "An operator that runs takes seconds: see its log, and whether it watches this namespace."
        return Check("models", "fail", f"not seen by the operator yet: {', '.join(late)}", remedy)
    if bad:
        return Check("models", "warn", f"failed: {', '.join(bad)}", "tsm status NAME says why and what to do.")
    return Check("models", "ok", f"{len(models)} of them, none failed")


def _store(patient: Patient) -> Iterator[Check]:
    settings = patient.operator.settings if patient.operator else None
    yield from judge_store(patient.models, settings)
    artifact = settings.artifact_store if settings else None
    if artifact is not None and artifact.uri is not None:
        yield _reach(StoreLocation(uri=artifact.uri.rstrip("/"), endpoint=artifact.endpoint, region=artifact.region))
    secret = artifact.credentials_secret.name if artifact and artifact.credentials_secret else None
    if secret is not None and patient.cluster.namespace is not None:
        found = patient.cluster.get("v1", "secrets", patient.cluster.namespace, secret)
        if found is None:
            remedy = f"Create it with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in {patient.cluster.namespace}."
            yield Check("store's Secret", "fail", f"there is no Secret {secret} for the default store", remedy)
        else:
            lacking = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} - set(found.get("data") or {})
            missing = f"Secret {secret} lacks {', '.join(sorted(lacking))}"
            remedy = "Add the keys." if lacking else ""
            said = missing if lacking else f"Secret {secret} is there, with its keys"
            yield Check("store's Secret", "fail" if lacking else "ok", said, remedy)


def judge_store(models: Sequence[ModelView], settings: Settings | None) -> Iterator[Check]:
    """What the models' pods have found out about their stores, and whether every model has one."""
    denied = [
        f"{view.model.name} ({failure.reason})"
        for view in models
        for failure in (target.last_failure for target in view.model.status.targets)
        if failure is not None and failure.reason in STORE_REASONS
    ]
    stored = max((t.proven_time for view in models for t in view.model.status.targets if t.proven_time), default=None)
    if denied:
        yield Check(
            "store, from pods", "fail", f"failed: {', '.join(denied)}", "tsm status NAME says what was refused."
        )
    elif stored is not None:
        yield Check("store, from pods", "ok", f"the newest artifact was stored before {stored}")
    else:
        yield Check("store, from pods", "unknown", "no Job has stored anything yet", "The first export will tell.")
    if settings is not None and settings.artifact_store is None:
        without = [view.model.name for view in models if view.is_readable and view.model.spec.artifact is None]
        remedy = "Set the chart's value artifactStore, or spec.artifact in each model."
        if without:
            yield Check("default store", "fail", f"none is set, and none by {', '.join(without)}", remedy)
        else:
            yield Check("default store", "warn", "none is set: every model has to name its own", remedy)


def _reach(where: StoreLocation) -> Check:
    name = "store, from here"
    try:
        open_store(where).exists("manifest.json")
    except WorkerError as error:
        remedy = "It matters for tsm report alone; pods have their own way and credentials."
        return Check(name, "warn", f"{error.reason.value}: {error.message}", remedy)
    return Check(name, "ok", f"{where.uri} answers, with your own credentials")


def _nodes(patient: Patient) -> Iterator[Check]:
    patient.nodes = tuple(patient.cluster.list("v1", "nodes", None))
    settings = patient.operator.settings if patient.operator else None
    if settings is None:
        yield Check("node pools", "unknown", f"{len(patient.nodes)} nodes; the operator's defaults are not known")
    else:
        yield from judge_pools(patient.nodes, patient.models, settings)
    yield from judge_devices(patient.nodes)


def judge_pools(found: Sequence[Json], models: Sequence[ModelView], settings: Settings) -> Iterator[Check]:
    """For each compiler, whether nodes take its Jobs and its serving pods by the operator's defaults."""
    used = {target.compiler for view in models if view.is_readable for target in view.model.spec.targets}
    for compiler in get_args(Compiler):
        target = Target(name=compiler, compiler=compiler, precision="float32")
        places = {"export": placement.job(target, settings), "serving": _serving(target, settings)}
        told, short = [], False
        for kind, place in places.items():
            fit = nodes.fit(found, place.scheduling(), place.container_resources())
            told.append(f"{kind}: {fit.text}")
            short |= not fit.fitting
        name, said = f"nodes for {compiler}", ", ".join(told)
        if not short:
            yield Check(name, "ok", said)
        elif compiler in used or compiler == "torchscript":
            remedy = (
                f"Add such nodes, or change compilers.{compiler} in the chart's values. (An autoscaler may add them.)"
            )
            yield Check(name, "fail" if compiler in used else "warn", said, remedy)
        else:
            yield Check(name, "ok", f"no model uses it; {said}")


def _serving(target: Target, settings: Settings) -> Place:
    """Where pods of a compiler serve by default."""
    body = {
        "metadata": {"namespace": "x", "name": "x", "uid": "", "generation": 1},
        "spec": {"source": {"s3": {"uri": "s3://any"}}, "task": "feature-extraction"},
    }
    return placement.serving(read.parse(body).model, target, settings)


def judge_devices(found: Sequence[Json]) -> Iterator[Check]:
    """Nodes that have an accelerator by their instance type, and whether its device plugin offers it."""
    families = tuple(family for able in FAMILIES.values() for family in able)
    with_device = [
        node
        for node in found
        if (node["metadata"].get("labels") or {}).get(INSTANCE_TYPE, "").partition(".")[0] in families
    ]
    if not with_device:
        yield Check("device plugin", "ok", "no node has an Inferentia or Trainium device, so none is needed")
        return
    silent = [
        node["metadata"]["name"]
        for node in with_device
        if not any(int(node.get("status", {}).get("allocatable", {}).get(name, 0)) for name in NEURON_RESOURCES)
    ]
    if silent:
        remedy = "Install the Neuron device plugin, let it tolerate the nodes' taints, and see its DaemonSet's log."
        yield Check("device plugin", "fail", f"no aws.amazon.com/neuron on {', '.join(silent)}", remedy)
    else:
        yield Check("device plugin", "ok", f"all {len(with_device)} nodes with a device offer it")


CHECKS: tuple[tuple[str, Callable[[Patient], Iterator[Check]]], ...] = (
    ("cluster", _cluster),
    ("CRD", _definition),
    ("your rights", _rights),
    ("operator", _operator),
    ("operator's rights", _operator_rights),
    ("models", _models),
    ("store", _store),
    ("nodes", _nodes),
)
"""In an order in which later ones know what earlier ones found."""


def show(checks: Sequence[Check], form: Format, console: Console) -> None:
    """Print all findings."""
    if form is not Format.TABLE:
        output.write({"healthy": not failed(checks), "checks": [vars(check) for check in checks]}, form)
        return
    for check in checks:
        style = STYLES[check.verdict]
        console.print(
            f"[{style}]{MARKS[check.verdict]} {check.verdict:<7}[/] [bold]{check.name}[/]: {escape(check.found)}"
        )
        if check.remedy:
            console.print(f"            {escape(check.remedy)}")


def failed(checks: Sequence[Check]) -> bool:
    """Whether anything has to be put right."""
    return any(check.verdict == "fail" for check in checks)
