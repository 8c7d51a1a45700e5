import pytest

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.parity import Bounds
from torchscript_operator.artifact.request import RequestedTolerances
from torchscript_operator.artifact.tolerances import DEFAULTS, resolve


@pytest.mark.parametrize(("compiler", "precision"), DEFAULTS)
def test_every_default_is_a_whole_gate_with_a_reason(compiler: str, precision: str) -> None:
    bounds = Bounds.parse(resolve(RequestedTolerances(), compiler, precision))

    assert bounds.cosine >= 0.999
    assert bounds.agreement >= 0.99
    assert DEFAULTS[compiler, precision].reason.endswith(".")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_a_bound_that_is_given_holds_for_every_precision(precision: str) -> None:
    asked = RequestedTolerances(absolute_tolerance="0", minimum_agreement="0.5", policy="Warn")

    found = resolve(asked, "torchscript", precision)

    assert (found.absolute_tolerance, found.minimum_agreement, found.policy) == ("0", "0.5", "Warn")
    assert found.relative_tolerance == DEFAULTS["torchscript", precision].relative


def test_float32_is_held_to_more_than_lower_precisions() -> None:
    bounds = {
        name: Bounds.parse(resolve(RequestedTolerances(), "torchscript", name))
        for name in ("float32", "bfloat16", "int8")
    }

    assert bounds["float32"].absolute < bounds["bfloat16"].absolute < bounds["int8"].absolute
    assert bounds["float32"].agreement == 1


@pytest.mark.parametrize(("compiler", "precision"), [("neuron", "int8"), ("neuronx", "auto"), ("torchscript", "auto")])
def test_a_precision_that_a_compiler_does_not_have_is_refused(compiler: str, precision: str) -> None:
    with pytest.raises(WorkerError, match=f"no precision {precision}") as raised:
        resolve(RequestedTolerances(), compiler, precision)

    assert raised.value.reason is FailureReason.INVALID_REQUEST
