"""What writing text needs beside one module: inputs of the decoder, and sequences written by both compiled parts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact import digest
from torchscript_operator.artifact.generation import Sizes, Tokens, write
from torchscript_operator.artifact.manifest import Generation
from torchscript_operator.artifact.request import Shape
from torchscript_operator.export.inputs import Batch, InputMaker

if TYPE_CHECKING:
    from torchscript_operator.export.backends import Compiled as Run

OTHER_LENGTH = 3
"""Tokens by which what is written is shorter where other sizes are tried out: not those by which what is read differs,
so that no file passes that takes both lengths for one."""


@dataclass(frozen=True)
class DecoderMaker(InputMaker):
    """Makes batches for the decoder: what the encoder makes of a text, and tokens that were written so far."""

    encode: Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]] = dict
    """Eager's answer to a text."""
    settings: Generation | None = None
    shapes: tuple[Shape, ...] = ()
    """The declared buckets."""

    def of_texts(self, texts: Sequence[str], shape: Shape) -> Iterator[Batch]:
        """Batches that hold every text once; the last token written is the last, the first or the middle one."""
        for number, batch in enumerate(super().of_texts(texts, shape)):
            yield self._after(batch, number)

    def synthetic(self, shape: Shape, *, masked: bool) -> Batch:
        """A batch of random text and random written tokens, the same in every run."""
        return self._after(super().synthetic(shape, masked=masked), int(masked))

    def _after(self, batch: Batch, number: int) -> Batch:
        if self.settings is None:
            raise RuntimeError
        read = {name: np.repeat(array, self.settings.beams, axis=0) for name, array in batch.inputs.items()}
        rows, length = len(read["attention_mask"]), self.settings.maximum_length
        if batch.shape not in self.shapes:
            length = max(1, length - OTHER_LENGTH)
        generator = np.random.default_rng(int(digest.of_value([rows, length, number])[:8], 16))
        ids = generator.integers(0, self.vocabulary_size, size=(rows, length))
        index = (length - 1, 0, length // 2)[number % 3]
        ids[:, 0] = self.settings.start_token
        ids[:, index + 1 :] = self.settings.pad_token
        written = {
            "decoder_input_ids": ids,
            "encoder_hidden_states": self.encode(read)["encoder_hidden_states"],
            "index": np.array([index]),
        }
        return Batch(batch.shape, {**read, **written})


@dataclass(frozen=True)
class Search:
    """Writes with the compiled parts, by the code that a server writes with."""

    settings: Generation
    encoder: "Run"
    decoder: "Run"
    sizes: Sizes

    def run(self, inputs: Mapping[str, NDArray[Any]], count: int, beams: int, longest: int) -> list[Tokens]:
        """Sequences of the first `count` rows; the encoder reads the whole bucket."""
        hidden = self.encoder([inputs[name] for name in inputs])[0]
        return write(
            self.settings,
            count,
            inputs["attention_mask"],
            hidden,
            lambda *arrays: self.decoder(arrays)[0],
            self.sizes,
            beams=beams,
            maximum_length=longest,
        )
