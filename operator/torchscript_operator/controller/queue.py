"""A work queue of model keys: one pass a key at a time, duplicates merged, errors retried ever more slowly."""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from torchscript_operator.controller import metrics

FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 300.0
JITTER = 0.2
"""Share by which a wait varies, so that models that failed together do not come back together."""


class Key(NamedTuple):
    """A model."""

    namespace: str
    name: str


Later = float | None
"""After how many seconds to look at a model again; None for when something happens."""
Rest = Callable[[], Awaitable["Later"]]
"""What is left of a pass and may wait until the passes that people have asked for have begun."""


class Queue:
    """Level-triggered: a key in the queue means "look again", however many events asked for it."""

    def __init__(
        self,
        reconcile: Callable[[Key], Awaitable[Later | Rest]],
        workers: int,
        accepts: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take what to do with a key, how many keys at once, and whether keys are wanted at all."""
        self._reconcile = reconcile
        self._workers = workers
        self._accepts = accepts
        self._ready: asyncio.PriorityQueue[tuple[int, int, Key, Rest | None]] = asyncio.PriorityQueue()
        """Passes in their order: rank, number of the wish, key, and what is left of a pass that has begun."""
        self._numbers = itertools.count()
        self._waiting: dict[Key, float] = {}
        """Since when a key has been due (time.monotonic)."""
        self._busy: set[Key] = set()
        self._again: dict[Key, bool] = {}
        """Wishes during a pass, and whether a person's was among them."""
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._held: set[Key] = set()
        """Keys whose timer is their backoff."""

    def add(self, key: Key, *, asked: bool = False) -> None:
        """Ask for a pass; what a person asked for goes before what the cluster reports.

        It does not wait for a backoff either. The rest does: it may be no more than what the failed pass has changed.
        """
        if not self._accepts():
            # An operator that does not lead: when it does, it looks at every model.
            return
        if key in self._held and not asked:
            return
        self._held.discard(key)
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._busy:
            self._again[key] = asked or self._again.get(key, False)
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            self._put(key, None, asked=asked)
            metrics.QUEUE_DEPTH.set(len(self._waiting))

    def _put(self, key: Key, rest: Rest | None, *, asked: bool = False) -> None:
        self._ready.put_nowait((0 if asked else 1, next(self._numbers), key, rest))

    def add_after(self, key: Key, seconds: float) -> None:
        """Ask for a pass later; an earlier wish for the same key stays, and so does a backoff."""
        if key in self._held:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        timer = self._timers.get(key)
        if key in self._waiting or (timer is not None and timer.when() <= due):
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._due, key)

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self._held.discard(key)
        self.add(key)

    def _hold(self, key: Key) -> None:
        """Let a key whose pass has failed wait for its backoff, whatever else was wished for."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        self.add_after(key, self._backoff(key))
        self._held.add(key)

    def relieve(self) -> None:
        """End all backoffs: the API server was away and is back. A key that fails again waits longer than before."""
        for key in tuple(self._held):
            self._held.discard(key)
            self.add(key)

    def oldest_seconds(self) -> float:
        """How long the key at the head has waited."""
        return time.monotonic() - min(self._waiting.values()) if self._waiting else 0.0

    async def run(self, known: Callable[[], Awaitable[None]] | None = None) -> None:
        """Work until cancelled, from when `known` has returned. An error of its own ends it, and with it the operator.

        The workers exist from the beginning: kopf takes tasks that appear later for its own, and at the end waits for
        them.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work(known))

    async def _work(self, known: Callable[[], Awaitable[None]] | None) -> None:
        if known is not None:
            await known()
        while True:
            _, _, key, rest = await self._ready.get()
            if rest is None:
                metrics.QUEUE_SECONDS.observe(time.monotonic() - self._waiting.pop(key))
                metrics.QUEUE_DEPTH.set(len(self._waiting))
                self._busy.add(key)
            left = None
            try:
                left = await self._one(key, rest)
            finally:
                if left is None:
                    self._busy.discard(key)
            if left is not None:
                self._put(key, left)
            elif (asked := self._again.pop(key, None)) is not None:
                self.add(key, asked=asked)

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
                self.add_after(key, later)
        finally:
            metrics.RECONCILE_SECONDS.labels(result=result).observe(time.monotonic() - started)
        return None

    def _backoff(self, key: Key) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        seconds: float = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(failures, 16))
        return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 -- jitter, not a secret
