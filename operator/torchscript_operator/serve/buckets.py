"""Which tensor sizes an artifact runs at: exact sizes on dynamic axes, declared buckets on fixed ones."""

from dataclasses import dataclass

from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.artifact.request import Shape


class TooLongError(Exception):
    """A row is longer than everything that the artifact runs at; the message names the limit and the remedy."""


@dataclass(frozen=True)
class Buckets:
    """The sizes of one artifact."""

    shapes: tuple[Shape, ...]
    dynamic_batch: bool
    dynamic_sequence: bool
    maximum_sequence: int

    @classmethod
    def of(cls, manifest: Manifest) -> "Buckets":
        """Read a manifest; an axis is dynamic only when it is so in every input."""
        kinds = {
            name: all(axis.kind == "dynamic" for tensor in manifest.inputs for axis in tensor.axes if axis.name == name)
            for name in ("batch", "sequence")
        }
        return cls(
            shapes=tuple(sorted(manifest.shapes, key=lambda shape: (shape.sequence, shape.batch))),
            dynamic_batch=kinds["batch"],
            dynamic_sequence=kinds["sequence"],
            maximum_sequence=manifest.maximum_sequence,
        )

    @property
    def longest(self) -> int:
        """Most tokens of a row."""
        if self.dynamic_sequence:
            return self.maximum_sequence
        return min(self.maximum_sequence, max(shape.sequence for shape in self.shapes))

    def check(self, length: int) -> None:
        """Raise TooLongError for a row that no size takes."""
        if length <= self.longest:
            return
        if self.dynamic_sequence:
            msg = f"{length} tokens are more than the model's {self.longest}: shorten the text, nothing is cut silently"
        else:
            names = ", ".join(shape.name for shape in self.shapes)
            msg = (
                f"{length} tokens are more than the longest bucket's {self.longest} (buckets: {names}): shorten the "
                "text, or add a longer shape to spec.inputs.shapes"
            )
        raise TooLongError(msg)

    def padded(self, length: int) -> int:
        """The sequence length at which a row of this length runs."""
        if self.dynamic_sequence:
            return length
        return min(shape.sequence for shape in self.shapes if shape.sequence >= length)

    def largest_batch(self, padded: int) -> int | None:
        """Most rows at this padded length; None when the batch axis is dynamic."""
        if self.dynamic_batch:
            return None
        return max(shape.batch for shape in self.shapes if self.dynamic_sequence or shape.sequence == padded)

    def fit(self, rows: int, length: int) -> Shape:
        """The smallest size, by padded tokens, that takes this many rows of at most this length.

        Raises TooLongError; ValueError for more rows than largest_batch allows.
        """
        self.check(length)
        sizes = [
            Shape(
                batch=rows if self.dynamic_batch else shape.batch,
                sequence=length if self.dynamic_sequence else shape.sequence,
            )
            for shape in self.shapes
        ]
        fitting = [size for size in sizes if size.batch >= rows and size.sequence >= length]
        if not fitting:
            msg = f"no bucket takes {rows} rows of {length} tokens"
            raise ValueError(msg)
        return min(fitting, key=lambda size: (size.batch * size.sequence, size.sequence))

    def file_shape(self, size: Shape) -> Shape:
        """The declared shape whose file runs at this size, for artifacts with a file for each shape."""
        fitting = [
            shape
            for shape in self.shapes
            if (self.dynamic_batch or shape.batch == size.batch)
            and (self.dynamic_sequence or shape.sequence == size.sequence)
        ]
        return min(fitting, key=lambda shape: abs(shape.batch * shape.sequence - size.batch * size.sequence))
