"""A work queue of model keys: one pass a key at a time, duplicates merged, errors retried ever more slowly."""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from torchscript_operator.controller import metrics

FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 300.0
JITTER = 0.2
"""Share by which a wait varies, so that models that failed together do not come back together."""


CONTINUED_SECONDS = 1.0
"""A pass that wants another so soon goes on with its work; one that wants it later looks whether all is well."""
WORKERS_A_LOOKER = 16
"""Looks have workers of their own, one for so many others: they wait for no work, and leave the API server to it."""


SLOW_WORKERS = 4
"""Enough that the API server, which does these things one at a time, always has the next one."""


class Rank(IntEnum):
    """What asks for a pass, in the order in which passes are made."""

    ASKED = 0
    """A person has changed the model."""
    REPORTED = 1
    """The cluster reports what a model's next step rests on; a step that failed is tried again."""
    LOOK = 2
    """Time has passed, or figures have changed: mostly there is nothing to do."""


class Key(NamedTuple):
    """A model."""

    namespace: str
    name: str


Later = float | None
"""After how many seconds to look at a model again; None for when something happens."""
Rest = Callable[[], Awaitable["Later"]]
"""What is left of a pass and may wait until the passes that people have asked for have begun."""


@dataclass(frozen=True)
class Slow:
    """What is left of a pass, where the API server does such a thing for one caller at a time: no other work waits."""

    rest: Rest

    def __call__(self) -> Awaitable[Later]:
        """Go on with it."""
        return self.rest()


class _Entry(NamedTuple):
    """A pass that is due, or what is left of one that has begun; in order of rank, then of time."""

    rank: Rank
    number: int
    key: Key
    rest: Rest | None


class Queue:
    """Level-triggered: a key in the queue means "look again", however many events asked for it."""

    def __init__(
        self,
        reconcile: Callable[[Key], Awaitable[Later | Rest]],
        workers: int,
        accepts: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take what to do with a key, how many keys at once besides looks, and whether keys are wanted at all."""
        self._reconcile = reconcile
        self._workers = workers
        self._accepts = accepts
        self._work: asyncio.PriorityQueue[_Entry] = asyncio.PriorityQueue()
        self._looks: asyncio.PriorityQueue[_Entry] = asyncio.PriorityQueue()
        self._slow: asyncio.PriorityQueue[_Entry] = asyncio.PriorityQueue()
        """Passes in their order, and what is left of passes that have begun; looks, and slow rests, by themselves."""
        self._numbers = itertools.count()
        self._waiting: dict[Key, _Entry] = {}
        """The entry that counts; another of the same key has been overtaken by a more urgent wish."""
        self._since: dict[Key, float] = {}
        """Since when a key has been due for more than a look (time.monotonic)."""
        self._ended = time.monotonic()
        """When the last pass ended."""
        self._busy: set[Key] = set()
        self._again: dict[Key, Rank] = {}
        """The most urgent wish during a pass."""
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, tuple[asyncio.TimerHandle, Rank]] = {}
        self._held: set[Key] = set()
        """Keys whose timer is their backoff."""

    def add(self, key: Key, rank: Rank = Rank.REPORTED) -> None:
        """Ask for a pass.

        What a person asked for does not wait for a backoff. The rest does: it may be no more than what the failed pass
        has changed.
        """
        if not self._accepts():
            # An operator that does not lead: when it does, it looks at every model.
            return
        if key in self._held and rank is not Rank.ASKED:
            return
        self._held.discard(key)
        if key in self._busy:
            self._cancel(key)
            self._again[key] = min(rank, self._again.get(key, rank))
            return
        if rank is not Rank.LOOK:
            self._since.setdefault(key, time.monotonic())
        if key not in self._waiting or rank < self._waiting[key].rank:
            self._put(key, None, rank)
            metrics.QUEUE_DEPTH.set(len(self._waiting))

    def _put(self, key: Key, rest: Rest | None, rank: Rank) -> None:
        entry = _Entry(rank, next(self._numbers), key, rest)
        if rest is None:
            self._waiting[key] = entry
        lane = self._slow if isinstance(rest, Slow) else self._looks if rank is Rank.LOOK else self._work
        lane.put_nowait(entry)

    async def _take(self, entries: "asyncio.PriorityQueue[_Entry]") -> _Entry:
        """The next pass, or what is left of one."""
        while True:
            entry = await entries.get()
            if entry.rest is not None or self._waiting.get(entry.key) is entry:
                return entry

    def add_after(self, key: Key, seconds: float, rank: Rank = Rank.LOOK) -> None:
        """Ask for a pass later; an earlier wish for the same key stays, and so does a backoff."""
        if key in self._held:
            return
        due = asyncio.get_running_loop().time() + seconds
        timer = self._timers.get(key)
        if key in self._waiting and self._waiting[key].rank <= rank:
            return
        if timer is not None and timer[0].when() <= due:
            self._timers[key] = timer[0], min(timer[1], rank)
            return
        self._cancel(key)
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._due, key), rank

    def _due(self, key: Key) -> None:
        _, rank = self._timers.pop(key)
        self._held.discard(key)
        self.add(key, rank)

    def _cancel(self, key: Key) -> None:
        if timer := self._timers.pop(key, None):
            timer[0].cancel()

    def _hold(self, key: Key) -> None:
        """Let a key whose pass has failed wait for its backoff, whatever else was wished for."""
        self._cancel(key)
        self.add_after(key, self._backoff(key), Rank.REPORTED)
        self._held.add(key)

    def relieve(self) -> None:
        """End all backoffs: the API server was away and is back. A key that fails again waits longer than before."""
        for key in tuple(self._held):
            self._held.discard(key)
            self.add(key)

    def oldest_seconds(self) -> float:
        """How long a key has waited for a pass that is more than a look."""
        return time.monotonic() - min(self._since.values()) if self._since else 0.0

    def stuck_seconds(self) -> float:
        """How long a key has waited without the end of any pass; one that waits since there are many is no fault."""
        return min(self.oldest_seconds(), time.monotonic() - self._ended)

    async def run(self, known: Callable[[], Awaitable[None]] | None = None) -> None:
        """Work until cancelled, from when `known` has returned. An error of its own ends it, and with it the operator.

        The workers exist from the beginning: kopf takes tasks that appear later for its own, and at the end waits for
        them.
        """
        async with asyncio.TaskGroup() as group:
            lookers = max(1, self._workers // WORKERS_A_LOOKER)
            for lane, workers in ((self._work, self._workers), (self._looks, lookers), (self._slow, SLOW_WORKERS)):
                for _ in range(workers):
                    group.create_task(self._work_off(lane, known))

    async def _work_off(
        self, entries: "asyncio.PriorityQueue[_Entry]", known: Callable[[], Awaitable[None]] | None
    ) -> None:
        if known is not None:
            await known()
        while True:
            _, _, key, rest = await self._take(entries)
            if rest is None:
                self._begin(key)
            left = None
            try:
                left = await self._one(key, rest)
            finally:
                if left is None:
                    self._busy.discard(key)
            if left is not None:
                self._put(key, left, Rank.REPORTED)
            elif (again := self._again.pop(key, None)) is not None:
                self.add(key, again)

    def _begin(self, key: Key) -> None:
        del self._waiting[key]
        metrics.QUEUE_DEPTH.set(len(self._waiting))
        if (since := self._since.pop(key, None)) is not None:
            metrics.QUEUE_SECONDS.observe(time.monotonic() - since)
        # Whatever a timer was to look at, this pass sees.
        self._cancel(key)
        self._busy.add(key)

    async def _one(self, key: Key, rest: Rest | None) -> Rest | None:
        """Make a pass or what is left of one; returns what is left now."""
        started, result = time.monotonic(), "error"
        try:
            later = await (self._reconcile(key) if rest is None else rest())
        except Exception:  # noqa: BLE001 -- reconcile logs what it knows; whatever it was, the key must come back
            metrics.RECONCILES.labels(result=result).inc()
            metrics.RETRIES.inc()
            self._hold(key)
        else:
            result = "success"
            if callable(later):
                return later
            metrics.RECONCILES.labels(result=result).inc()
            self._failures.pop(key, None)
            if later is not None:
                self.add_after(key, later, Rank.REPORTED if later <= CONTINUED_SECONDS else Rank.LOOK)
        finally:
            self._ended = time.monotonic()
            metrics.RECONCILE_SECONDS.labels(result=result).observe(time.monotonic() - started)
        return None

    def _backoff(self, key: Key) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        seconds: float = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(failures, 16))
        return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 -- jitter, not a secret
