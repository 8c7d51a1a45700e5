"""Eager against the saved file, read back: the figures at every bucket, and which axes are dynamic."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from torchscript_operator.artifact import digest
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.golden import GoldenCase
from torchscript_operator.artifact.manifest import OutputParity
from torchscript_operator.artifact.parity import Compared, Outputs
from torchscript_operator.artifact.request import Shape, Tolerances
from torchscript_operator.export.backends import Compiled
from torchscript_operator.export.evidence import Evidence, Origin
from torchscript_operator.export.inputs import Batch, InputMaker
from torchscript_operator.export.memory import is_out_of_memory
from torchscript_operator.export.model import Forward, first_line
from torchscript_operator.export.tasks import Arrays, Output

AXIS_TOLERANCES = Tolerances(
    absolute_tolerance="1e-4",
    relative_tolerance="1e-3",
    minimum_cosine_similarity="0.9999",
    minimum_agreement="0",
)
"""Bounds for calling an axis dynamic. Not the user's: a wide gate must not make a wrong size look right."""
LOWER_AXIS_TOLERANCES = Tolerances(
    absolute_tolerance="0.25",
    relative_tolerance="0.05",
    minimum_cosine_similarity="0.999",
    minimum_agreement="0",
)
"""The same for lower precisions, against the lowered model before tracing: rounding differs, a wrong size does more."""
STEP = 5
"""Tokens more and less than the traced length; odd, so that no multiple of a block size hides a fault."""


@dataclass(frozen=True)
class AxisKinds:
    """Which axes of the saved file take other sizes than the traced ones, with eager's values."""

    batch: Literal["fixed", "dynamic"]
    sequence: Literal["fixed", "dynamic"]

    @property
    def all_dynamic(self) -> bool:
        """Whether one file serves all buckets."""
        return self.batch == self.sequence == "dynamic"


@dataclass(frozen=True)
class Case:
    """A batch that parity is measured on."""

    origin: Origin
    batch: Batch


class Remembered:
    """A forward pass that keeps its answers while they fit: several forms are compared with one eager model."""

    def __init__(self, forward: Forward, room_bytes: int) -> None:
        """Wrap a forward pass; the first answers fill the room."""
        self._forward = forward
        self._room = room_bytes
        self._answers: dict[str, Mapping[str, NDArray[Any]]] = {}

    def __call__(self, inputs: Arrays) -> Mapping[str, NDArray[Any]]:
        """Input name to array in, output name to array out; the arrays must not be written to."""
        key = digest.of_value(
            [[name, list(array.shape), digest.of_bytes(array.tobytes())] for name, array in inputs.items()]
        )
        if key not in self._answers:
            answer = self._forward(inputs)
            size = sum(array.nbytes for array in answer.values())
            if size > self._room:
                return answer
            self._room -= size
            self._answers[key] = answer
        return self._answers[key]


class Pair:
    """An eager model and one compiled file of it."""

    def __init__(
        self, reference: Forward, compiled: Compiled, input_names: Sequence[str], outputs: Sequence[Output]
    ) -> None:
        """Take both and the names that give the compiled model's tuples their meaning."""
        self._reference = reference
        self._compiled = compiled
        self._input_names = tuple(input_names)
        self._outputs = tuple(outputs)

    def measure(
        self, cases: Iterable[Case], shape: Shape, tolerances: Tolerances, evidence: Evidence | None = None
    ) -> list[OutputParity]:
        """Compare all outputs over batches of one bucket. WorkerError SHAPE_ERROR when either does not run there."""
        found = Outputs(compared(self._outputs), shape.name, tolerances)
        for case in cases:
            inputs = case.batch.inputs
            expected = run_at(shape, "The eager model", lambda: self._reference(inputs))  # noqa: B023
            actual = run_at(shape, "The compiled model", lambda: self._run(inputs))  # noqa: B023
            masks = {output.name: output.mask(inputs["attention_mask"]) for output in self._outputs}
            found.add(expected, actual, masks)
            if evidence is not None:
                for name, mask in masks.items():
                    evidence.add(name, shape, case.origin, inputs, expected.get(name), actual.get(name), mask)
        return found.results()

    def same_values(self, batches: Iterable[Batch], tolerances: Tolerances = AXIS_TOLERANCES) -> bool:
        """Whether the compiled model runs on all batches and gives eager's values."""
        for batch in batches:
            try:
                figures = self.measure([Case("random tokens", batch)], batch.shape, tolerances)
            except WorkerError:
                return False
            if not all(figure.passed for figure in figures):
                return False
        return True

    def replay(self, case: GoldenCase, batch: Batch, tolerances: Tolerances) -> list[OutputParity]:
        """A golden case by itself, as a pod compares it: `batch` is the whole one that the case may be a part of."""
        kept = [output for output in self._outputs if output.name in case.outputs]
        found = Outputs(compared(kept), f"golden:{case.name}", tolerances)
        whole = run_at(batch.shape, "The compiled model", lambda: self._run(batch.inputs))
        parts = {
            name: whole[name][tuple(slice(size) for size in expected.shape)]
            for name, expected in case.outputs.items()
            if name in whole
        }
        masks = {output.name: output.mask(case.inputs["attention_mask"]) for output in kept}
        found.add(case.outputs, parts, masks)
        return found.results()

    def _run(self, inputs: Arrays) -> Mapping[str, NDArray[Any]]:
        arrays = self._compiled([inputs[name] for name in self._input_names])
        if len(arrays) != len(self._outputs):
            return {}
        return {output.name: array for output, array in zip(self._outputs, arrays, strict=True)}


def compared(outputs: Iterable[Output]) -> list[Compared]:
    """A task's outputs as the gate compares them."""
    return [Compared(output.name, output.agreement) for output in outputs]


def detect_axes(
    pair: Pair,
    maker: InputMaker,
    traced: Shape,
    maximum_sequence: int | None,
    tolerances: Tolerances = AXIS_TOLERANCES,
) -> AxisKinds:
    """Run the saved file at sizes around the traced ones. An axis that no other size could be tried on is fixed.

    Both axes are tried together first and at small sizes, since most models pass; only a failure is looked into.
    """
    longer = traced.sequence + STEP
    if maximum_sequence is not None:
        longer = min(longer, maximum_sequence)
    lengths = {length for length in (max(1, traced.sequence - STEP), longer) if length != traced.sequence}
    counts = (traced.batch + 1, 1 if traced.batch > 1 else traced.batch + 2)
    if lengths:
        shapes = [Shape(batch=count, sequence=length) for count in (1, 3) for length in lengths]
        shapes.append(Shape(batch=traced.batch + 1, sequence=max(1, min(traced.sequence // 4, *lengths))))
        if pair.same_values((maker.synthetic(shape, masked=shape.batch > 1) for shape in shapes), tolerances):
            return AxisKinds("dynamic", "dynamic")
    batch = [Shape(batch=count, sequence=traced.sequence) for count in counts]
    sequence = [Shape(batch=traced.batch, sequence=length) for length in sorted(lengths)]
    return AxisKinds(
        batch=_kind(pair, maker, batch, tolerances),
        sequence=_kind(pair, maker, sequence, tolerances) if sequence else "fixed",
    )


def _kind(
    pair: Pair, maker: InputMaker, shapes: Sequence[Shape], tolerances: Tolerances
) -> Literal["fixed", "dynamic"]:
    batches = (maker.synthetic(shape, masked=masked) for shape in shapes for masked in (True, False))
    return "dynamic" if pair.same_values(batches, tolerances) else "fixed"


def run_at(shape: Shape, what: str, run: Callable[[], Mapping[str, NDArray[Any]]]) -> Mapping[str, NDArray[Any]]:
    """Run a forward pass; WorkerError SHAPE_ERROR says at which bucket it does not run."""
    try:
        return run()
    except (RuntimeError, IndexError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        message = f"{what} does not run at {shape.name} ({_cause(error)})."
        raise WorkerError(FailureReason.SHAPE_ERROR, message) from error


def _cause(error: Exception) -> str:
    """The last line that says something: TorchScript puts its own stack before the operator's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if line.startswith(("RuntimeError:", "IndexError:", "ValueError:"))]
    return (named[-1] if named else f"{type(error).__name__}: {first_line(error)}")[:300].rstrip(".")
