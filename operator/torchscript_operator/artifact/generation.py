"""Writing sequences with a compiled encoder and decoder: greedy and beam search over scores of the next token.

Both the export, which compares with Transformers' own `generate`, and the serving pod run this code, so that what is
proven is what is served. Pure NumPy: the caller computes scores. A text's result does not depend on its batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.manifest import Generation

Step = Callable[[Sequence[int], Sequence[Sequence[int]]], NDArray[np.float32]]
"""Scores of the next token: the text of each row, and the tokens of each row so far (all of one length), to an array
of (rows, vocabulary)."""
Tokens = list[int]
GROWTH = 16
"""Where its length is free, the decoder runs at multiples of this many tokens: fewer sizes to compile for."""


def generate(settings: Generation, texts: int, step: Step, *, beams: int, maximum_length: int) -> list[Tokens]:
    """Write one sequence for each text, its start token included and nothing after its end token.

    beams: hypotheses a text, 1 is greedy. maximum_length: tokens, the start token included; at least 2.
    """
    kind = _Greedy if beams == 1 else _Beams
    writers = [kind(settings, beams, maximum_length) for _ in range(texts)]
    while active := [index for index, writer in enumerate(writers) if not writer.done]:
        rows = [(index, tokens) for index in active for tokens in writers[index].rows]
        scores = step([index for index, _ in rows], [tokens for _, tokens in rows]).astype(np.float32)
        start = 0
        for index in active:
            end = start + len(writers[index].rows)
            writers[index].advance(scores[start:end])
            start = end
    return [writer.best for writer in writers]


@dataclass(frozen=True)
class Sizes:
    """What the compiled decoder runs at; None where it takes any size."""

    rows: int | None
    """Rows of a pass."""
    length: int | None
    """Tokens written, those to come included."""


Decode = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[Any], NDArray[np.int64]], NDArray[Any]]
"""The compiled decoder: tokens so far, the mask and states of what was read, the last token's index, to scores."""


def write(
    settings: Generation,
    texts: int,
    mask: NDArray[np.int64],
    hidden: NDArray[Any],
    decode: Decode,
    sizes: Sizes,
    *,
    beams: int,
    maximum_length: int,
) -> list[Tokens]:
    """Write a sequence for each of the first `texts` rows of what the encoder read, padding to the decoder's sizes.

    mask: (rows, sequence). hidden: (rows, sequence, width), the encoder's states.
    """

    def step(of: Sequence[int], sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        count, written = len(of), len(sequences[0])
        rows = count if sizes.rows is None else sizes.rows
        longest = min(-(-written // GROWTH) * GROWTH, max(settings.maximum_length, written))
        ids = np.full((rows, longest if sizes.length is None else sizes.length), settings.pad_token, dtype=np.int64)
        ids[:count, :written] = sequences
        # Rows that only fill the bucket repeat the first.
        ids[count:] = ids[0]
        chosen = np.array([*of, *[of[0]] * (rows - count)])
        scores = decode(ids, mask[chosen], hidden[chosen], np.array([written - 1]))
        return scores[:count].astype(np.float32, copy=False)

    return generate(settings, texts, step, beams=beams, maximum_length=maximum_length)


def to_array(sequences: Sequence[Tokens], fill: int, length: int | None = None) -> NDArray[np.int64]:
    """Sequences as (texts, length), filled up at their ends; the length is the longest one's where none is given."""
    width = max((len(tokens) for tokens in sequences), default=0) if length is None else length
    array = np.full((len(sequences), width), fill, dtype=np.int64)
    for index, tokens in enumerate(sequences):
        array[index, : len(tokens)] = tokens
    return array


def strip(array: NDArray[Any], settings: Generation) -> list[Tokens]:
    """Sequences of a (texts, length) array without what fills them up after their end."""
    found = []
    for row in array.tolist():
        end = next((index for index, token in enumerate(row[1:], 1) if token in settings.end_tokens), len(row) - 1)
        found.append(row[: end + 1])
    return found


def log_softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithms of probabilities along the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


class _Writer(ABC):
    """One text's search; `rows` are the hypotheses whose next token is wanted."""

    def __init__(self, settings: Generation, beams: int, maximum_length: int) -> None:
        self.settings = settings
        self.beams = beams
        self.maximum_length = maximum_length
        self.rows: list[Tokens] = [[settings.start_token]]
        self.done = maximum_length <= 1

    @property
    @abstractmethod
    def best(self) -> Tokens:
        """The tokens so far that are likeliest."""

    @abstractmethod
    def advance(self, scores: NDArray[np.float32]) -> None:
        """Take in the scores of the next token, one row for each hypothesis."""

    def _rule(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply what the generation config forbids and forces."""
        settings, written = self.settings, len(self.rows[0])
        ruled = scores.copy()
        if settings.suppressed_tokens:
            ruled[:, list(settings.suppressed_tokens)] = -np.inf
        forced: tuple[int, ...] = ()
        if written == 1 and settings.forced_first_token is not None:
            forced = (settings.forced_first_token,)
        if written == self.maximum_length - 1 and settings.forced_last_tokens:
            forced = settings.forced_last_tokens
        if forced:
            ruled[:] = -np.inf
            ruled[:, list(forced)] = 0.0
        return log_softmax(ruled) if settings.renormalize else ruled


class _Greedy(_Writer):
    @property
    def best(self) -> Tokens:
        return self.rows[0]

    def advance(self, scores: NDArray[np.float32]) -> None:
        token = int(self._rule(scores)[0].argmax())
        self.rows = [[*self.rows[0], token]]
        self.done = token in self.settings.end_tokens or len(self.rows[0]) == self.maximum_length


class _Beams(_Writer):
    """Beam search with the stopping rules of Transformers' `early_stopping` and its length penalty."""

    def __init__(self, settings: Generation, beams: int, maximum_length: int) -> None:
        super().__init__(settings, beams, maximum_length)
        self._penalty = float(settings.length_penalty)
        # Scores of the rows. There is only one before the first step: copies of it would all go the same way.
        self._scores = np.zeros(1, dtype=np.float32)
        self._finished: list[tuple[float, Tokens]] = []

    @property
    def best(self) -> Tokens:
        return self._finished[0][1] if self._finished else self.rows[0]

    def advance(self, scores: NDArray[np.float32]) -> None:
        total = (self._rule(log_softmax(scores)) + self._scores[:, None]).reshape(-1)
        vocabulary = scores.shape[1]
        # One candidate of each row can be each of the end tokens: so many are needed for `beams` to go on.
        wanted = min(max(2, 1 + len(self.settings.end_tokens)) * self.beams, total.size)
        order = _largest(total, wanted)
        written = len(self.rows[0]) + 1
        full = self.settings.early_stopping == "always" and len(self._finished) == self.beams
        running: list[tuple[np.float32, Tokens]] = []
        for rank, place in enumerate(order.tolist()):
            tokens = [*self.rows[place // vocabulary], place % vocabulary]
            if tokens[-1] in self.settings.end_tokens or written == self.maximum_length:
                # What ends outside of the best `beams` is no result: it would win by being short.
                if rank < self.beams and not full:
                    self._finished.append((float(total[place]) / (written - 1) ** self._penalty, tokens))
            elif len(running) < self.beams:
                running.append((total[place], tokens))
        self._finished = sorted(self._finished, key=lambda item: -item[0])[: self.beams]
        if not running:
            self.done = True
            return
        self._scores = np.array([score for score, _ in running], dtype=np.float32)
        self.rows = [tokens for _, tokens in running]
        self.done = len(self._finished) == self.beams and not self._can_improve(written)

    def _can_improve(self, written: int) -> bool:
        if self.settings.early_stopping == "always":
            return False
        hoped = self.settings.early_stopping == "never" and self._penalty > 0
        length = (self.maximum_length if hoped else written) - 1
        return bool(float(self._scores[0]) / length**self._penalty > self._finished[-1][0])


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Places of the largest values, the largest first, the first of equals first."""
    everything = np.arange(values.size)
    found = everything if count >= values.size else np.sort(np.argpartition(-values, count - 1)[:count])
    order: NDArray[np.int64] = found[np.argsort(-values[found], kind="stable")]
    return order
