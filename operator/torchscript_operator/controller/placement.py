"""Where a target's pods go: the compiler's defaults, what the spec puts in their place, and whether both fit. All pure.

Files of torch-neuron run on inf1 alone, those of torch-neuronx on inf2 and Trainium alone, and both device plugins
offer a resource of the same name. So pods that need a device say by instance type which one, and a spec that names
another is refused before anything is scheduled.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.pods import Resources, Toleration
from torchscript_operator.api.v1alpha1.spec import Compiler, Target
from torchscript_operator.controller import pods
from torchscript_operator.controller.diagnose import Finding
from torchscript_operator.controller.model import Json, Model
from torchscript_operator.controller.settings import NEURON_RESOURCE, NEURON_TAINT, Placement, Settings

INSTANCE_TYPE = "node.kubernetes.io/instance-type"
ACCELERATOR = "karpenter.k8s.aws/instance-accelerator-name"
"""A label of Karpenter's nodes."""
FAMILIES: dict[Compiler, tuple[str, ...]] = {"neuron": ("inf1",), "neuronx": ("inf2", "trn1", "trn1n", "trn2")}
"""Families of instances that run a compiler's files; a compiler that is not here runs on any node."""
ACCELERATORS = {"inferentia": ("inf1",), "inferentia2": ("inf2",), "trainium": ("trn1", "trn1n")}
"""Karpenter's names of accelerators to the families that have them."""
NEURON_RESOURCES = (NEURON_RESOURCE, "aws.amazon.com/neuroncore")
"""Whole chips, or single cores."""
TARGET_FLAG = "--target"


@dataclass(frozen=True)
class Place:
    """Where the pods of one kind go."""

    path: str
    """Of its fields in the spec, for messages."""
    node_selector: dict[str, str]
    tolerations: tuple[Toleration, ...]
    affinity: dict[str, Any] | None
    resources: Resources
    families: tuple[str, ...] = ()
    """Families that the pods can run on; any node when empty."""
    instance_types: tuple[str, ...] = ()
    """Of those families, what the pods are held to when the spec names none."""

    def scheduling(self) -> Json:
        """The scheduling fields of a pod."""
        if not self.families:
            return pods.placement(self.node_selector, self.tolerations, self.affinity)
        taint = Toleration(key=NEURON_TAINT, operator="Exists")
        tolerated = any(each.key in {NEURON_TAINT, None} for each in self.tolerations)
        tolerations = self.tolerations if tolerated else (*self.tolerations, taint)
        affinity = self.affinity
        if not list(_named(self.node_selector, self.affinity)):
            affinity = _held(self.affinity, self.instance_types)
        return pods.placement(self.node_selector, tolerations, affinity)

    def container_resources(self) -> Json:
        """The resources of a container. One that needs a device reserves one chip unless the spec says how many."""
        given = pods.dump(self.resources)
        sides = [*given.get("limits", {}), *given.get("requests", {})]
        if self.families and not any(name in NEURON_RESOURCES for name in sides):
            given = {**given, "limits": {**given.get("limits", {}), NEURON_RESOURCE: "1"}}
        return given

    def problem(self, target: Target) -> Finding | None:
        """What the spec names that cannot run these pods."""
        if not self.families:
            return None
        able = " or ".join(self.families)
        for where, families in _named(self.node_selector, self.affinity):
            if not set(families) & set(self.families):
                message = (
                    f"Target {target.name} is compiled by {target.compiler}, whose files run on {able} only, but "
                    f"{self.path} asks for {where}. Correct one of the two."
                )
                return Finding("placement", conditions.INCOMPATIBLE_NODE, message)
        if not self.instance_types and not list(_named(self.node_selector, self.affinity)):
            message = (
                f"The operator's settings know no instance type of {able} for target {target.name}. "
                f"Name one in {self.path}.nodeSelector by the label {INSTANCE_TYPE}."
            )
            return Finding("placement", conditions.INCOMPATIBLE_NODE, message)
        return None


def job(target: Target, settings: Settings) -> Place:
    """Of the Job that compiles; it needs a device only when it also proves."""
    defaults = settings.defaults(target.compiler)
    base = defaults.job if target.verify is None else (defaults.compile or defaults.job)
    given = target.job
    return _place(
        "spec.targets[].job",
        base,
        (given.node_selector, given.tolerations, given.affinity, given.resources),
        target,
        settings,
        device=target.verify is None,
    )


def verify(target: Target, settings: Settings) -> Place:
    """Of the Job that proves what another has compiled."""
    defaults = settings.defaults(target.compiler)
    given = target.verify
    fields = (given.node_selector, given.tolerations, given.affinity, given.resources) if given else (None,) * 4
    return _place("spec.targets[].verify", defaults.verify or defaults.job, fields, target, settings, device=True)


def serving(model: Model, target: Target, settings: Settings) -> Place:
    """Of the pods that serve."""
    given = model.spec.serving
    fields = (given.node_selector, given.tolerations, None, given.resources)
    return _place("spec.serving", settings.defaults(target.compiler).serving, fields, target, settings, device=True)


def preflight(model: Model, target: Target, settings: Settings) -> Finding | None:
    """Why a target must not be compiled: one of its pods would go where its files cannot run."""
    places = [job(target, settings)]
    places += [verify(target, settings)] if target.verify is not None else []
    places += [serving(model, target, settings)] if target.name in model.served else []
    return next((found for place in places if (found := place.problem(target)) is not None), None)


def arguments(target: Target, settings: Settings) -> tuple[str, ...]:
    """The compiler's arguments; without a device, torch-neuronx has to be told what it compiles for."""
    given = target.compiler_arguments or ()
    if target.compiler != "neuronx" or target.verify is None or _target_flag(given) is not None:
        return given
    place = verify(target, settings)
    named = [families for _, families in _named(place.node_selector, place.affinity)]
    known = [_family(name) for name in place.instance_types]
    wanted = named[0][0] if named else next(iter(known), None)
    return given if wanted is None else (*given, TARGET_FLAG, wanted)


def _place(
    path: str,
    base: Placement,
    given: tuple[Any, Any, Any, Any],
    target: Target,
    settings: Settings,
    *,
    device: bool,
) -> Place:
    node_selector, tolerations, affinity, resources = given
    families = FAMILIES.get(target.compiler, ()) if device else ()
    chosen = _target_flag(target.compiler_arguments or ())
    if chosen in families:
        families = (chosen,)
    types = settings.defaults(target.compiler).instance_types
    return Place(
        path=path,
        node_selector=base.node_selector if node_selector is None else node_selector,
        tolerations=base.tolerations if tolerations is None else tolerations,
        affinity=affinity,
        resources=resources or base.resources,
        families=families,
        instance_types=tuple(name for name in types if _family(name) in families),
    )


def _family(instance_type: str) -> str:
    return instance_type.partition(".")[0]


def _target_flag(given: tuple[str, ...]) -> str | None:
    for index, argument in enumerate(given):
        if argument == TARGET_FLAG:
            return next(iter(given[index + 1 : index + 2]), None)
        if argument.startswith(f"{TARGET_FLAG}="):
            return argument.partition("=")[2]
    return None


def _named(selector: dict[str, str], affinity: dict[str, Any] | None) -> Iterable[tuple[str, tuple[str, ...]]]:
    """What a selector and a required node affinity say of the kind of node: in words, and as families."""
    for key in (INSTANCE_TYPE, ACCELERATOR):
        if key in selector:
            yield f"{key}={selector[key]}", _families(key, selector[key])
    for term in _terms(affinity):
        for expression in term.get("matchExpressions") or []:
            if expression.get("key") in {INSTANCE_TYPE, ACCELERATOR} and expression.get("operator") == "In":
                for value in expression.get("values") or []:
                    yield f"{expression['key']}={value}", _families(expression["key"], value)


def _families(key: str, value: str) -> tuple[str, ...]:
    return (_family(value),) if key == INSTANCE_TYPE else ACCELERATORS.get(value, (value,))


def _terms(affinity: dict[str, Any] | None) -> list[Json]:
    node = (affinity or {}).get("nodeAffinity") or {}
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms: list[Json] = required.get("nodeSelectorTerms") or []
    return terms


def _held(affinity: dict[str, Any] | None, instance_types: tuple[str, ...]) -> dict[str, Any]:
    """An affinity that also asks for one of some instance types; its terms are alternatives, so each one does."""
    held: dict[str, Any] = copy.deepcopy(affinity or {})
    expression = {"key": INSTANCE_TYPE, "operator": "In", "values": list(instance_types)}
    node = held.setdefault("nodeAffinity", {})
    required = node.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = required.get("nodeSelectorTerms") or [{}]
    required["nodeSelectorTerms"] = [
        {**term, "matchExpressions": [*(term.get("matchExpressions") or []), expression]} for term in terms
    ]
    return held
