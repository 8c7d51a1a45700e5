"""A row: one text's tokens on their way through the queue, and what becomes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

INPUT_IDS = "input_ids"
"""The input that every text model has."""
ATTENTION_MASK = "attention_mask"
"""1 where a token counts, 0 where it is padding; a model without this input is never padded."""
TOKEN_TYPE_IDS = "token_type_ids"  # noqa: S105 - the name of a tensor
"""The segment of each token in models that read pairs."""

Want = Literal["outputs", "answer"]
"""The model's own outputs, or what the task makes of them, such as one vector a text."""


@dataclass(frozen=True)
class Writing:
    """How a sequence is written from a row, in tasks that generate."""

    beams: int
    """Hypotheses kept at a time; 1 is greedy."""
    maximum_length: int
    """Tokens, the start token included."""


@dataclass(frozen=True)
class Row:
    """One row of a batch to be."""

    inputs: Mapping[str, NDArray[np.int64]]
    """Input name to array of shape (length,)."""
    length: int
    """Tokens, padding that the client gave itself included."""
    want: Want = "answer"
    writing: Writing | None = None
    """Of tasks that generate; None for the artifact's own way."""


Result = Any
"""For `answer` what the task returns; for `outputs` a dict of output name to array without the batch axis."""


class AbandonedError(Exception):
    """A pass was ended before its result, since nobody waits for it any more."""


def always() -> bool:
    """Whether somebody waits, where nobody keeps account of it."""
    return True


@dataclass(frozen=True)
class Computed:
    """What a forward pass gave."""

    results: Sequence[Result]
    """One for each row, in the rows' order."""
    padded_tokens: int
    """Batch times sequence as it ran."""


class Runner(Protocol):
    """Computes batches; called from worker threads."""

    mixed_lengths: bool
    """Whether rows of unlike length may run together."""

    def padded(self, length: int) -> int:
        """The sequence length at which a row of this length runs when it runs alone."""

    def capacity(self, padded: int) -> int:
        """The most rows of one forward pass at this padded length."""

    def run(self, rows: Sequence[Row], *, alone: bool, wanted: Callable[[], bool] = always) -> Computed:
        """One forward pass; alone: no other pass runs and no row waits, so that all threads are free for it.

        wanted: whether somebody waits for any of the rows still; what takes several steps asks between them.
        Raises AbandonedError when nobody does.
        """
