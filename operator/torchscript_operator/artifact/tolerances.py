"""How far a compiled model may lie from eager where the user names no bound: by compiler and precision, with reasons.

A bound that the user gives holds for every precision. One that is absent is taken from here, for the precision that
is being judged, so that `auto` holds each candidate to the bounds of its own arithmetic.
"""

from dataclasses import dataclass

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import RequestedTolerances, Tolerances


@dataclass(frozen=True)
class Default:
    """Bounds of one compiler's precision."""

    absolute: str
    """Largest absolute difference of an element where eager's value is zero."""
    relative: str
    """Allowed difference in proportion to eager's value, added to the absolute one."""
    cosine: str
    """Smallest cosine similarity of a row."""
    agreement: str
    """Smallest share of rows whose best-scored class is the same."""
    reason: str
    """Why these, for whoever reads the report."""


_COSINE = "0.999"
"""Two rows at this cosine differ by 4.5 % of their length: below what rankings and clusters of embeddings notice."""
_AGREEMENT = "0.99"
"""Classes that lie closer together than the precision can tell apart may swap; more than 1 % of rows is damage."""

DEFAULTS: dict[tuple[str, str], Default] = {
    ("torchscript", "float32"): Default(
        "1e-4",
        "1e-4",
        _COSINE,
        "1",
        "The same kernels in the same precision: only fused operations round differently, which stays below 1e-5.",
    ),
    ("torchscript", "bfloat16"): Default(
        "0.25",
        "0.05",
        _COSINE,
        _AGREEMENT,
        "bfloat16 keeps 8 bits of each value, so a rounding is off by up to 0.4 %; some four roundings a layer add up "
        "to 0.05 over 6 layers as measured, and to 0.2 over 24 layers if all pointed the same way. The bound on "
        "elements only catches a single one that is far off: the cosine of rows is the gate.",
    ),
    ("torchscript", "int8"): Default(
        "0.5",
        "0.1",
        _COSINE,
        _AGREEMENT,
        "int8 has 256 steps between the extremes of a tensor, so that one outlier coarsens all other values. The bound "
        "on elements only catches a single one that is far off: the cosine of rows is the gate.",
    ),
    ("neuron", "float32"): Default(
        "1e-3",
        "1e-3",
        _COSINE,
        "1",
        "The device sums in another order and approximates exponentials by tables, also with --fast-math none.",
    ),
    ("neuron", "bfloat16"): Default(
        "0.25", "0.05", _COSINE, _AGREEMENT, "bfloat16 as on the CPU: 8 bits of each value, over all layers."
    ),
    ("neuronx", "float32"): Default(
        "1e-3",
        "1e-3",
        _COSINE,
        "1",
        "The device sums in another order and approximates exponentials by tables, also with --auto-cast none.",
    ),
    ("neuronx", "bfloat16"): Default(
        "0.25", "0.05", _COSINE, _AGREEMENT, "bfloat16 as on the CPU: 8 bits of each value, over all layers."
    ),
}
"""Figures of torchscript were measured; those of neuron and neuronx follow the documentation and never ran on one."""


def default_of(compiler: str, precision: str) -> Default:
    """The bounds of a compiler's precision. WorkerError INVALID_REQUEST for a pair that is not in the table."""
    try:
        return DEFAULTS[compiler, precision]
    except KeyError:
        known = ", ".join(sorted(name for owner, name in DEFAULTS if owner == compiler))
        message = f"Compiler {compiler} has no precision {precision}; it has: {known}."
        raise WorkerError(FailureReason.INVALID_REQUEST, message) from None


def resolve(asked: RequestedTolerances, compiler: str, precision: str) -> Tolerances:
    """What is given, and the default for each bound that is not. WorkerError INVALID_REQUEST as `default_of`."""
    default = default_of(compiler, precision)
    return Tolerances(
        absolute_tolerance=asked.absolute_tolerance or default.absolute,
        relative_tolerance=asked.relative_tolerance or default.relative,
        minimum_cosine_similarity=asked.minimum_cosine_similarity or default.cosine,
        minimum_agreement=asked.minimum_agreement or default.agreement,
        policy=asked.policy,
    )
