"""How often models are looked at closely: each look lists all children, which costs the API server what there is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHARE = 0.2
"""Of the time, that closer looks may take: a cluster in which nothing starts has more urgent work."""
LEAST_SECONDS = 2.0
"""To the next try of a model that may not be looked at closely now."""
TRIES = 10
"""A model waits as long as this many looks take: as many again will have had their turn by then."""


class CloserLooks:
    """One at a time, and after each a pause as long as four of its kind."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds from any beginning."""
        self._clock = clock
        self._going = 0
        self._took = 0.0
        self._next = 0.0

    def may_begin(self) -> bool:
        """Whether no look is being made, and the pause after the last is over."""
        return not self._going and self._clock() >= self._next

    def later(self, wanted: float | None) -> float:
        """Seconds to a pass that may try again; wanted: when the model asks for one anyway."""
        again = max(LEAST_SECONDS, TRIES * self._took)
        return again if wanted is None else min(wanted, again)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A look, which ends however it went; one that must not wait may be made beside another."""
        began = self._clock()
        self._going += 1
        try:
            yield
        finally:
            now = self._clock()
            self._going -= 1
            self._took = now - began
            self._next = now + self._took * (1 / SHARE - 1)
