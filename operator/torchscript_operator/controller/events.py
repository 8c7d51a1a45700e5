"""Kubernetes Events for what a person should see happen, one for each change and never one twice. All pure."""

from collections.abc import Iterable
from datetime import datetime

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1 import API_VERSION, KIND
from torchscript_operator.api.v1alpha1.status import Condition
from torchscript_operator.artifact import digest
from torchscript_operator.controller.export_plan import stamp
from torchscript_operator.controller.model import MANAGER, Json, Model

MESSAGE_CHARACTERS = 1024
"""The API server refuses longer event messages."""
TOLD = (conditions.READY, conditions.COMPILED, conditions.PARITY_VERIFIED, conditions.AVAILABLE, conditions.STALLED)
"""Conditions whose changes are events; the others repeat what these say."""
QUIET = frozenset({conditions.PENDING, conditions.NOT_SERVED})
"""Reasons that are no news."""


def _is_warning(condition: Condition) -> bool:
    if condition.reason in {conditions.EXPORTING, conditions.ROLLING_OUT, conditions.SUSPENDED}:
        return False
    return condition.status == ("True" if condition.type == conditions.STALLED else "False")


def changes(before: Iterable[Condition], after: Iterable[Condition]) -> list[Condition]:
    """Conditions whose status or reason changed, the same news only once, all good news of a pass as one."""
    old = {condition.type: (condition.status, condition.reason) for condition in before}
    news: dict[tuple[str, str], Condition] = {}
    for condition in after:
        if condition.type not in TOLD or condition.reason in QUIET or condition.status == "Unknown":
            continue
        if condition.type == conditions.STALLED and condition.status == "False":
            continue
        if old.get(condition.type) != (condition.status, condition.reason):
            news.setdefault((condition.reason, condition.message), condition)
    bad = [condition for condition in news.values() if _is_warning(condition)]
    good = [condition for condition in news.values() if not _is_warning(condition)]
    # The first is Ready's where that changed, so that its reason heads the event.
    together = " ".join(condition.message for condition in good)
    return bad + [condition.model_copy(update={"message": together}) for condition in good[:1]]


def build(model: Model, condition: Condition, now: datetime) -> Json:
    """An Event about a condition. Its name comes from its content, so that writing it again finds it there."""
    # A retry that somebody has asked for is told of although it ends as before.
    said = [condition.reason, condition.message, condition.status]
    identity = digest.of_value([model.uid, model.generation, model.retry, *said])
    reference = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "namespace": model.namespace,
        "name": model.name,
        "uid": model.uid,
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{model.name}.{identity[:16]}", "namespace": model.namespace},
        "involvedObject": reference,
        "reason": condition.reason,
        "message": condition.message[:MESSAGE_CHARACTERS],
        "type": "Warning" if _is_warning(condition) else "Normal",
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "firstTimestamp": stamp(now),
        "lastTimestamp": stamp(now),
        "count": 1,
    }
