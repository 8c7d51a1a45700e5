"""The queue and the compute threads between requests (one event loop) and forward passes.

What holds at all times: every submitted row is answered once or its request fails once; a request that is cancelled or
late leaves the queue; when a compute thread dies, every request fails at once and the engine says that it is dead.
"""

import asyncio
import logging
import math
import threading
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torchscript_operator.serve.batching import Capacity, Policy, choose, delay_left, fair_share, retry_after
from torchscript_operator.serve.pace import Pace, PassCost
from torchscript_operator.serve.rows import AbandonedError, Result, Row, Runner

LOGGER = logging.getLogger(__name__)


class EngineError(Exception):
    """A request that got no result; the subclass says whose fault it is."""


class QueueFullError(EngineError):
    """The queue's rows or tokens are used up; retry_after in seconds."""

    def __init__(self, seconds: int) -> None:
        """Take the seconds after which the queue may have room."""
        super().__init__(f"the queue is full, try again in {seconds} s")
        self.retry_after = seconds


class DeadlineError(EngineError):
    """The request's time was over before its last row was computed."""


class ForwardError(EngineError):
    """The model raised on this request's rows, also when they ran alone."""


class EngineDeadError(EngineError):
    """A compute thread has died, or the engine was stopped."""


class Observer(Protocol):
    """Told of every forward pass, from the compute thread."""

    def batch(self, *, rows: int, tokens: int, padded_tokens: int, seconds: float, waited: Sequence[float]) -> None:
        """Rows and tokens that were asked for, tokens as computed, seconds computing, seconds each row waited."""


@dataclass(frozen=True)
class Limits:
    """Bounds of the queue and of time."""

    queue_rows: int
    queue_tokens: int
    delay_seconds: float = 0.0
    """How long an idle worker waits for company."""
    forward_seconds: float = 60.0
    """A forward pass beyond this counts as hung."""
    workers: int = 1
    queue_seconds: float = math.inf
    """Rows that would wait longer than this for what waits already are refused: better at once than after a wait."""


class _Ticket:
    """One request: its rows' results and the future that its handler waits for. Touched on the event loop only."""

    __slots__ = ("future", "open", "remaining", "results")

    def __init__(self, rows: int, future: "asyncio.Future[list[Result]]") -> None:
        self.results: list[Result] = [None] * rows
        self.remaining = rows
        self.future = future
        self.open = True
        """False once nobody waits any more; read by compute threads to skip its rows."""


class _Item:
    __slots__ = ("arrived", "index", "padded", "row", "taken", "ticket")

    def __init__(self, ticket: _Ticket, index: int, row: Row, padded: int, arrived: float) -> None:
        self.ticket = ticket
        self.index = index
        self.row = row
        self.padded = padded
        self.arrived = arrived
        self.taken = False


class Engine:
    """Gathers rows of all requests into forward passes. `start` and `compute` are called on one event loop."""

    def __init__(
        self,
        runner: Runner,
        limits: Limits,
        observer: Observer | None = None,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what computes, the bounds, and who is told; no thread runs before `start`."""
        self._runner = runner
        self._limits = limits
        self._observer = observer
        self._policy = policy or Policy(mixed_lengths=runner.mixed_lengths)
        self._clock = clock
        self._lock = threading.Lock()
        self._wakes = [threading.Condition(self._lock) for _ in range(limits.workers)]
        self._idle: set[int] = set()
        """Workers that sleep and were not woken yet."""
        self._quiet = True
        """Nothing else was computed or waited as the last batch was taken."""
        self._items: list[_Item] = []
        self._lengths: list[int] = []
        self._arrivals: deque[_Item] = deque()
        self._tokens = 0
        self._pace = Pace(limits.workers)
        self._cost = PassCost(self._policy.slack_tokens)
        self._stopping = False
        self._dead = False
        self._busy: dict[int, float] = {}
        self._in_flight: dict[int, list[_Item]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []

    @property
    def waiting(self) -> tuple[int, int]:
        """Rows and tokens in the queue."""
        return len(self._items), self._tokens

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the compute threads; results are delivered on this loop."""
        self._loop = loop
        for number in range(self._limits.workers):
            # Daemons: a hung forward pass must not keep the process from ending.
            thread = threading.Thread(target=self._work, args=(number,), name=f"compute-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, timeout: float) -> None:
        """End the threads after the batches that run, at most `timeout` seconds each; what waits fails."""
        with self._lock:
            self._stopping = True
            self._wake_all()
        for thread in self._threads:
            thread.join(timeout)

    def complaint(self) -> str | None:
        """Why the engine is not live, or None while it is."""
        if self._dead:
            return "a compute thread has died"
        now = self._clock()
        if any(now - since > self._limits.forward_seconds for since in list(self._busy.values())):
            return f"a forward pass has run for more than {self._limits.forward_seconds:g} s"
        return None

    async def compute(self, rows: Sequence[Row], seconds: float) -> list[Result]:
        """Results of the rows, in their order, within this many seconds.

        Raises QueueFullError, DeadlineError, ForwardError or EngineDeadError. A cancelled caller frees its place.
        """
        loop = asyncio.get_running_loop()
        ticket = _Ticket(len(rows), loop.create_future())
        self._enqueue(ticket, rows)
        timer = loop.call_later(max(0.0, seconds), self._expire, ticket)
        try:
            return await ticket.future
        finally:
            timer.cancel()
            if ticket.remaining:
                self._discard(ticket)

    def _enqueue(self, ticket: _Ticket, rows: Sequence[Row]) -> None:
        now = self._clock()
        tokens = sum(row.length for row in rows)
        with self._lock:
            if self._dead or self._stopping:
                raise EngineDeadError
            rate = self._pace.tokens_per_second(now)
            full = len(self._items) + len(rows) > self._limits.queue_rows
            # By the pace, and by what has come true where the pace is not kept.
            late = self._tokens > self._limits.queue_seconds * rate > 0
            late |= bool(self._items) and now - self._oldest().arrived > self._limits.queue_seconds
            if full or late or self._tokens + tokens > self._limits.queue_tokens:
                raise QueueFullError(retry_after(self._tokens, rate))
            for index, row in enumerate(rows):
                item = _Item(ticket, index, row, self._runner.padded(row.length), now)
                place = bisect_right(self._lengths, item.padded)
                self._lengths.insert(place, item.padded)
                self._items.insert(place, item)
                self._arrivals.append(item)
            self._tokens += tokens
            # The first first: only its threads are many when it works alone.
            for number in sorted(self._idle)[: len(rows)]:
                self._idle.discard(number)
                self._wakes[number].notify()

    def _expire(self, ticket: _Ticket) -> None:
        if not ticket.future.done():
            ticket.future.set_exception(DeadlineError("the request's time is over"))

    def _discard(self, ticket: _Ticket) -> None:
        ticket.open = False
        with self._lock:
            kept = [item for item in self._items if item.ticket is not ticket]
            if len(kept) < len(self._items):
                self._items = kept
                self._lengths = [item.padded for item in kept]
                self._tokens = sum(item.row.length for item in kept)
                self._arrivals = deque(item for item in self._arrivals if item.ticket is not ticket and not item.taken)

    # Compute threads from here on.

    def _work(self, number: int) -> None:
        try:
            while (taken := self._take(number)) is not None:
                batch, alone = taken
                self._run(batch, alone=alone)
                self._busy.pop(number, None)
                self._in_flight.pop(number, None)
        except BaseException:
            LOGGER.exception("a compute thread has died")
            self._fail_everything()
        else:
            with self._lock:
                self._busy.pop(number, None)

    def _take(self, number: int) -> tuple[list[_Item], bool] | None:
        """Wait for rows and take the next batch, and whether it has all threads; None when the engine stops."""
        with self._lock:
            while True:
                while not self._items and not self._stopping:
                    self._sleep(number)
                if self._stopping:
                    self._fail(self._clear())
                    return None
                oldest = self._oldest()
                if self._limits.delay_seconds > 0:
                    left = delay_left(
                        self._clock() - oldest.arrived,
                        len(self._items),
                        self._runner.capacity(oldest.padded),
                        self._limits.delay_seconds,
                    )
                    if left > 0:
                        self._sleep(number, left)
                        continue
                place = bisect_left(self._lengths, oldest.padded)
                idle = self._limits.workers - len(self._busy)
                share = fair_share(len(self._items), idle, self._policy)
                policy = replace(self._policy, slack_tokens=self._cost.slack_tokens)
                start, stop = choose(self._lengths, place, self._capacity_within(share), policy)
                batch = self._items[start:stop]
                del self._items[start:stop], self._lengths[start:stop]
                now, before = self._clock(), self._tokens
                for item in batch:
                    item.taken = True
                    self._tokens -= item.row.length
                self._pace.taken(before - self._tokens, self._tokens, now)
                # The first text of a burst is as alone as any: two in a row say that it is quiet.
                quiet = not self._busy and not self._items
                alone, self._quiet = number == 0 and quiet and self._quiet, quiet
                self._busy[number] = now
                self._in_flight[number] = batch
                return batch, alone

    def _sleep(self, number: int, seconds: float | None = None) -> None:
        self._idle.add(number)
        self._wakes[number].wait(seconds)
        self._idle.discard(number)

    def _capacity_within(self, share: int) -> Capacity:
        return lambda padded: min(share, self._runner.capacity(padded))

    def _oldest(self) -> _Item:
        while self._arrivals[0].taken:
            self._arrivals.popleft()
        return self._arrivals[0]

    def _run(self, batch: list[_Item], *, alone: bool) -> None:
        batch = [item for item in batch if item.ticket.open]
        if not batch:
            return
        try:
            outcome = self._forward(batch, alone=alone)
        except AbandonedError:
            return
        except Exception:  # logged; the bad row is found, and alone is told
            LOGGER.exception("a forward pass failed", extra={"rows": len(batch)})
            if len(batch) == 1:
                self._deliver([(batch[0], ForwardError("the model failed on this input"))])
                return
            # One bad row must not fail its neighbours: each runs again alone.
            for item in batch:
                self._run([item], alone=alone)
            return
        self._deliver(list(zip(batch, outcome, strict=True)))

    def _forward(self, batch: list[_Item], *, alone: bool) -> Sequence[Result]:
        started = self._clock()
        computed = self._runner.run(
            [item.row for item in batch], alone=alone, wanted=lambda: any(item.ticket.open for item in batch)
        )
        seconds = self._clock() - started
        if len(computed.results) != len(batch):
            msg = f"the runner gave {len(computed.results)} results for {len(batch)} rows"
            raise RuntimeError(msg)
        tokens = sum(item.row.length for item in batch)
        self._pace.computed(tokens, seconds)
        if not alone:
            self._cost.computed(computed.padded_tokens, seconds)
        if self._observer is not None:
            waited = [started - item.arrived for item in batch]
            self._observer.batch(
                rows=len(batch), tokens=tokens, padded_tokens=computed.padded_tokens, seconds=seconds, waited=waited
            )
        return computed.results

    def _fail_everything(self) -> None:
        with self._lock:
            self._dead = True
            lost = [*self._clear(), *(item for batch in self._in_flight.values() for item in batch)]
            self._wake_all()
        self._fail(lost)

    def _wake_all(self) -> None:
        for wake in self._wakes:
            wake.notify_all()

    def _clear(self) -> list[_Item]:
        items = self._items
        self._items, self._lengths, self._arrivals, self._tokens = [], [], deque(), 0
        return items

    def _fail(self, items: list[_Item]) -> None:
        self._deliver([(item, EngineDeadError("the engine has stopped")) for item in items])

    def _deliver(self, outcomes: list[tuple[_Item, Any]]) -> None:
        if outcomes and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_resolve, outcomes)


def _resolve(outcomes: list[tuple[_Item, Any]]) -> None:
    """Hand results to their requests, on the event loop."""
    for item, outcome in outcomes:
        ticket = item.ticket
        if ticket.future.done():
            continue
        if isinstance(outcome, EngineError):
            ticket.future.set_exception(outcome)
            continue
        ticket.results[item.index] = outcome
        ticket.remaining -= 1
        if not ticket.remaining:
            ticket.future.set_result(ticket.results)
