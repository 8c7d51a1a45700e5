"""What parity is measured on: built-in sentences, the user's samples, and seeded synthetic ids, at every bucket."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact import digest
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import Samples, Shape
from torchscript_operator.export.tasks.base import TextStyle
from torchscript_operator.export.tokenizer import MASK_ID, LoadedTokenizer

SENTENCES = (
    "Hello.",
    "A cat sits on the mat and looks out of the window.",
    "Ein kurzer Satz mit Umlauten: Äpfel, Öl und süße Grüße.",
    "La bibliothèque ouvre à neuf heures, sauf le dimanche et les jours fériés.",
    "El niño preguntó por qué el mar cambia de color cuando llueve.",
    "Москва и Санкт-Петербург соединены железной дорогой.",
    "今日は天気がいいので、公園まで散歩に行きました。",
    "机器学习模型在部署之前必须经过验证。",
    "هذه جملة قصيرة باللغة العربية.",
    "यह हिन्दी में लिखा हुआ एक वाक्य है।",
    "Prices rose by 3.5 % in Q2/2024 (see https://example.org/report?id=42), i.e. faster than expected!",
    (
        "The committee met on Monday to discuss the budget. After three hours of debate it agreed on a plan that "
        "nobody liked but everybody could accept: spending stays flat, two projects are postponed, and the reserve is "
        "not touched. Its chair told the press that compromise is slow, dull and necessary, and that the alternative "
        "would have been to start again in autumn with less money, fewer people and the same questions as before. "
        "Asked whether she was content, she answered that contentment had not been on the agenda, and closed the "
        "meeting."
    ),
)
"""Several scripts and lengths, so that rows of one batch are padded differently; the last is cut at most buckets."""
SYNTHETIC_LOWEST_ID = 1
"""Synthetic ids leave out 0, which is padding in most vocabularies."""


@dataclass(frozen=True)
class Batch:
    """Inputs of one bucket."""

    shape: Shape
    inputs: dict[str, NDArray[np.int64]]
    """Input name to (batch, sequence)."""


@dataclass(frozen=True)
class InputMaker:
    """Makes batches for one model."""

    loaded: LoadedTokenizer
    input_names: tuple[str, ...]
    vocabulary_size: int
    style: TextStyle = field(default_factory=TextStyle)
    """How the task reads texts."""
    segments: int = 1
    """Values that token_type_ids may have."""

    def of_texts(self, texts: Sequence[str], shape: Shape) -> Iterator[Batch]:
        """Batches that hold every text once, cut to the bucket; the last is filled up from the start."""
        rows = self._rows(texts, shape.sequence)
        for start in range(0, len(rows), shape.batch):
            chosen = [rows[(start + offset) % len(rows)] for offset in range(shape.batch)]
            yield self._batch(chosen, shape)

    def synthetic(self, shape: Shape, *, masked: bool) -> Batch:
        """A batch of random ids, the same in every run; with `masked`, rows of random lengths and zeros behind."""
        seed = int(digest.of_value([shape.batch, shape.sequence, masked])[:8], 16)
        generator = np.random.default_rng(seed)
        lengths = (
            generator.integers(1, shape.sequence, size=shape.batch, endpoint=True)
            if masked
            else np.full(shape.batch, shape.sequence)
        )
        allowed = np.setdiff1d(np.arange(SYNTHETIC_LOWEST_ID, self.vocabulary_size), list(self.loaded.special_ids))
        if not len(allowed):
            message = f"The model's vocabulary of {self.vocabulary_size} tokens has nothing but special ones."
            raise WorkerError(FailureReason.SOURCE_INVALID, message)
        rows = [(generator.choice(allowed, size=int(length)).tolist(), [0] * int(length)) for length in lengths]
        if self.style.pairs != "never" and self.segments > 1:
            cuts = generator.integers(0, lengths, endpoint=True)
            rows = [
                (ids, [0] * int(cut) + [1] * (len(ids) - int(cut))) for (ids, _), cut in zip(rows, cuts, strict=True)
            ]
        return self._batch(rows, shape)

    def mixed(self, texts: Sequence[str], shape: Shape) -> Batch:
        """A batch whose even rows are texts and odd rows synthetic, both with padding: for golden.safetensors."""
        synthetic = self.synthetic(shape, masked=True)
        real = next(self.of_texts(texts, shape))
        odd = (np.arange(shape.batch) % 2 == 1)[:, None]
        mixed = {name: np.where(odd, synthetic.inputs[name], array) for name, array in real.inputs.items()}
        return Batch(shape, mixed)

    def _rows(self, texts: Sequence[str], limit: int) -> list[tuple[list[int], list[int]]]:
        """Ids and types of each text, cut to the limit as a server cuts it: special tokens are kept."""
        tokenizer = self.loaded.tokenizer
        room_for_text = limit > tokenizer.num_special_tokens_to_add(is_pair=self.style.pairs != "never") + 1
        if room_for_text:
            tokenizer.enable_truncation(max_length=limit)
        try:
            encodings = tokenizer.encode_batch(self._styled(texts))
        finally:
            tokenizer.no_truncation()
        rows = [(list(encoding.ids[:limit]), list(encoding.type_ids[:limit])) for encoding in encodings]
        if self.style.mask:
            rows = [(self._masked(ids), types) for ids, types in rows]
        # A text without a single token has nothing to compare.
        return [row for row in rows if row[0]]

    def _styled(self, texts: Sequence[str]) -> list[str | tuple[str, str]]:
        """Texts, or pairs of a text with the one after it, as the task reads them."""
        every = {"never": 0, "some": 2, "always": 1}[self.style.pairs]
        return [
            (text, texts[(index + 1) % len(texts)]) if every and index % every == every - 1 else text
            for index, text in enumerate(texts)
        ]

    def _masked(self, ids: list[int]) -> list[int]:
        """Ids with the mask token in the middle. WorkerError TASK_MISMATCH when the tokenizer has none."""
        mask = self.loaded.facts.get(MASK_ID)
        if mask is None:
            message = "The source's tokenizer has no mask token, which the task fill-mask needs."
            raise WorkerError(FailureReason.TASK_MISMATCH, message)
        places = [place for place, token in enumerate(ids) if token not in self.loaded.special_ids]
        if places:
            ids[places[len(places) // 2]] = mask
        return ids

    def _batch(self, rows: Sequence[tuple[list[int], list[int]]], shape: Shape) -> Batch:
        inputs = {name: np.zeros((shape.batch, shape.sequence), dtype=np.int64) for name in self.input_names}
        inputs["input_ids"][:] = self.loaded.pad_id
        for index, (ids, types) in enumerate(rows):
            inputs["input_ids"][index, : len(ids)] = ids
            inputs["attention_mask"][index, : len(ids)] = 1
            if "token_type_ids" in inputs:
                inputs["token_type_ids"][index, : len(ids)] = types
        highest = int(inputs["input_ids"].max())
        if highest >= self.vocabulary_size:
            message = f"The tokenizer gives id {highest}, but the model has only {self.vocabulary_size} embeddings."
            raise WorkerError(FailureReason.SOURCE_INVALID, message)
        return Batch(shape, inputs)


def read_samples(samples: Samples) -> tuple[str, ...]:
    """The user's texts, blank ones left out. WorkerError INVALID_REQUEST when their file cannot be read."""
    texts = list(samples.texts)
    if samples.path is not None:
        try:
            texts += Path(samples.path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            message = f"The sample texts in {samples.path} cannot be read as UTF-8 ({type(error).__name__})."
            raise WorkerError(FailureReason.INVALID_REQUEST, message) from error
    return tuple(text for text in texts if text.strip())


def samples_digest(texts: Iterable[str]) -> str:
    """Digest of everything that parity is measured on, the built-in sentences included."""
    return digest.of_value([list(SENTENCES), list(texts)])


def unique_shapes(shapes: Iterable[Shape]) -> tuple[Shape, ...]:
    """Buckets without repetition, ordered by batch and sequence."""
    sizes = sorted({(shape.batch, shape.sequence) for shape in shapes})
    return tuple(Shape(batch=batch, sequence=sequence) for batch, sequence in sizes)
