"""How a list of conditions changes from one pass to the next."""

from typing import Literal

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.status import Condition


def condition(kind: str, status: Literal["True", "False"], time: str, reason: str = "Reason") -> Condition:
    return Condition(type=kind, status=status, last_transition_time=time, reason=reason, message="")


def test_unchanged_status_keeps_its_time() -> None:
    (kept,) = conditions.transition([condition("Ready", "True", "old")], [condition("Ready", "True", "new", "Other")])
    assert (kept.last_transition_time, kept.reason) == ("old", "Other")


def test_changed_status_takes_the_new_time() -> None:
    (changed,) = conditions.transition([condition("Ready", "True", "old")], [condition("Ready", "False", "new")])
    assert changed.last_transition_time == "new"


def test_new_condition_takes_the_new_time() -> None:
    (fresh,) = conditions.transition([], [condition("Ready", "True", "new")])
    assert fresh.last_transition_time == "new"


def test_condition_that_is_no_longer_wanted_goes() -> None:
    assert conditions.transition([condition("Ready", "True", "old")], []) == ()
