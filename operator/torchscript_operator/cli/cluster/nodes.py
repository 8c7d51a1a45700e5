"""Which nodes would take a pod: selector, affinity, taints and room, as the scheduler filters. All pure.

What runs on a node already is not counted, nor is what an autoscaler would add: this tells a wrong constraint from a
busy cluster.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from torchscript_operator.cli.cluster.access import Json

HARD = ("NoSchedule", "NoExecute")
"""Effects of taints that keep a pod away."""


@dataclass(frozen=True)
class Fit:
    """How many nodes would take a pod."""

    fitting: tuple[str, ...]
    total: int
    reasons: tuple[tuple[str, int], ...]
    """Why the others would not, the most frequent first."""

    @property
    def text(self) -> str:
        """3 of 5 nodes fit (2: no label disk=nvme)."""
        why = "; ".join(f"{count}: {reason}" for reason, count in self.reasons)
        return f"{len(self.fitting)} of {self.total} nodes fit" + (f" ({why})" if why else "")


def fit(nodes: Iterable[Json], scheduling: Json, resources: Json) -> Fit:
    """Judge all nodes by the scheduling fields of a pod and the resources of its container."""
    good: list[str] = []
    bad: Counter[str] = Counter()
    for node in nodes:
        reason = refusal(node, scheduling, resources)
        if reason is None:
            good.append(node["metadata"]["name"])
        else:
            bad[reason] += 1
    return Fit(tuple(good), len(good) + sum(bad.values()), tuple(bad.most_common()))


def refusal(node: Json, scheduling: Json, resources: Json) -> str | None:
    """Why a node would not take a pod; None where it would."""
    labels = node["metadata"].get("labels") or {}
    for key, value in (scheduling.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return f"no label {key}={value}"
    if (found := _affinity(node, scheduling.get("affinity") or {})) is not None:
        return found
    if node.get("spec", {}).get("unschedulable"):
        return "cordoned"
    for taint in node.get("spec", {}).get("taints") or []:
        if taint.get("effect") in HARD and not any(
            tolerates(each, taint) for each in scheduling.get("tolerations") or []
        ):
            return f"taint {taint['key']}" + (f"={taint['value']}" if taint.get("value") else "")
    return _room(node, resources)


def tolerates(toleration: Json, taint: Json) -> bool:
    """Whether a toleration takes a taint."""
    if toleration.get("effect") not in {None, "", taint.get("effect")}:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in {None, "", taint["key"]}
    return bool(toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", ""))


def _affinity(node: Json, affinity: Json) -> str | None:
    required = (affinity.get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or []
    if not terms or any(_matches_term(node, term) for term in terms):
        return None
    wanted = " or ".join(
        " and ".join(_words(it) for it in [*(term.get("matchExpressions") or []), *(term.get("matchFields") or [])])
        for term in terms
    )
    return f"not {wanted}"


def _words(expression: Json) -> str:
    values = ",".join(expression.get("values") or [])
    return f"{expression['key']} {expression['operator']}" + (f" {values}" if values else "")


def _matches_term(node: Json, term: Json) -> bool:
    labels = node["metadata"].get("labels") or {}
    fields = {"metadata.name": node["metadata"]["name"]}
    expressions = [(labels, it) for it in term.get("matchExpressions") or []]
    expressions += [(fields, it) for it in term.get("matchFields") or []]
    # A term that asks for nothing matches nothing.
    return bool(expressions) and all(_matches(known, it) for known, it in expressions)


def _matches(known: dict[str, str], expression: Json) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
    value = known.get(key)
    if operator == "Exists":
        return value is not None
    if operator == "DoesNotExist":
        return value is None
    if operator == "NotIn":
        return value not in values
    if operator == "In":
        return value in values
    if value is None or not value.lstrip("-").isdigit() or len(values) != 1:
        return False
    return int(value) > int(values[0]) if operator == "Gt" else int(value) < int(values[0])


def _room(node: Json, resources: Json) -> str | None:
    asked: dict[str, Any] = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    there = node.get("status", {}).get("allocatable") or {}
    for name, amount in asked.items():
        has = there.get(name, "0")
        if parse_quantity(has) < parse_quantity(amount):  # type: ignore[no-untyped-call]
            return f"{name} {has} of {amount} asked for"
    return None
