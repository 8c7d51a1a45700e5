"""Which waiting rows go into the next forward pass: pure decisions, so that they can be tested without threads.

Rows wait sorted by padded length. A batch is a window of that order around the oldest row: padding stays small because
neighbours are alike in length, and nothing starves because the oldest row is in every next batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Capacity = Callable[[int], int]
"""Padded length to the most rows that one forward pass takes at that length; at least 1."""


@dataclass(frozen=True)
class Policy:
    """What a good batch is."""

    slack_tokens: int = 10
    """Padding tokens that a row may cost when it joins; the engine learns it from what passes cost."""
    smallest_share: int = 4
    """Rows that are not split further among idle workers: fewer would cost more a row."""
    mixed_lengths: bool = True
    """False for models without an attention mask, where padding would change the answer."""


def choose(lengths: Sequence[int], oldest: int, capacity: Capacity, policy: Policy) -> tuple[int, int]:
    """Pick the window [start, stop) of ascending padded lengths that runs next; it holds the index `oldest`.

    Grows from the oldest row to whichever neighbour adds less padding, until the capacity of the longest row is
    reached or both neighbours would add more padding than a pass of their own would cost.
    """
    start, stop = oldest, oldest + 1
    while True:
        size = stop - start
        longest = lengths[stop - 1]
        options: list[tuple[int, int, int]] = []
        if stop < len(lengths) and size < capacity(lengths[stop]):
            options.append((size * (lengths[stop] - longest), start, stop + 1))
        if start > 0 and size < capacity(longest):
            options.append((longest - lengths[start - 1], start - 1, stop))
        if not options:
            return start, stop
        padding, wider_start, wider_stop = min(options)
        if padding > (policy.slack_tokens if policy.mixed_lengths else 0):
            return start, stop
        start, stop = wider_start, wider_stop


def fair_share(rows: int, idle: int, policy: Policy) -> int:
    """Most rows that one of `idle` workers takes when so many wait: what is left over would run later, not beside."""
    return max(policy.smallest_share, -(-rows // max(1, idle)))


def delay_left(waited: float, rows: int, capacity: int, delay: float) -> float:
    """Seconds that an idle worker still waits for company: none when a batch is full or the oldest waited enough.

    waited: seconds since the oldest row came. rows: rows that wait. capacity: rows that fit. delay: seconds allowed.
    """
    return 0.0 if rows >= capacity else max(0.0, delay - waited)


def retry_after(tokens: int, rate: float) -> int:
    """Whole seconds, 1 to 60, after which a refused client may try again: the queue's tokens over tokens a second."""
    return 1 if rate <= 0 else round(max(1.0, min(60.0, tokens / rate)))
