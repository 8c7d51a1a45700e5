import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.serving import until
from torchscript_operator.serve.engine import (
    DeadlineError,
    Engine,
    EngineDeadError,
    ForwardError,
    Limits,
    QueueFullError,
)
from torchscript_operator.serve.rows import AbandonedError, Computed, Row

MAXIMUM_ROWS = 8
MAXIMUM_TOKENS = 64
POISON = -1
KILLER = -2


def row(value: int, length: int) -> Row:
    return Row({"input_ids": np.full(length, value, dtype=np.int64)}, length)


def answer(of: Row) -> int:
    return int(of.inputs["input_ids"][0]) * 1000 + of.length


class FakeRunner:
    """Answers each row with a function of the row; can be held at a gate."""

    mixed_lengths = True

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[list[Row]] = []
        self.by: list[tuple[str, bool]] = []

    def padded(self, length: int) -> int:
        return length

    def capacity(self, padded: int) -> int:
        return min(MAXIMUM_ROWS, max(1, MAXIMUM_TOKENS // padded))

    def run(self, rows: Sequence[Row], *, alone: bool, wanted: Callable[[], bool]) -> Computed:  # noqa: ARG002
        self.by.append((threading.current_thread().name, alone))
        self.batches.append(list(rows))
        self.entered.set()
        self.gate.wait()
        values = {int(one.inputs["input_ids"][0]) for one in rows}
        if KILLER in values:
            raise SystemExit
        if POISON in values:
            raise RuntimeError
        return Computed([answer(one) for one in rows], len(rows) * max(one.length for one in rows))


@asynccontextmanager
async def running(
    runner: FakeRunner,
    *,
    workers: int = 1,
    queue_rows: int = 10_000,
    queue_seconds: float = 60.0,
    delay: float = 0.0,
    forward_seconds: float = 60.0,
) -> AsyncIterator[Engine]:
    engine = Engine(
        runner,
        Limits(
            queue_rows=queue_rows,
            queue_tokens=10_000_000,
            queue_seconds=queue_seconds,
            delay_seconds=delay,
            forward_seconds=forward_seconds,
            workers=workers,
        ),
    )
    engine.start(asyncio.get_running_loop())
    try:
        yield engine
    finally:
        runner.gate.set()
        engine.stop(5)


REQUESTS = st.lists(st.lists(st.integers(1, 100), min_size=1, max_size=12), min_size=1, max_size=25)


@settings(max_examples=60)
@given(REQUESTS, st.integers(1, 3))
def test_every_row_is_answered_once_with_its_own_result(requests: list[list[int]], workers: int) -> None:
    runner = FakeRunner()
    rows = [[row(number, length) for length in lengths] for number, lengths in enumerate(requests)]

    async def scenario() -> list[list[int]]:
        async with running(runner, workers=workers) as engine:
            return await asyncio.gather(*(engine.compute(request, 30) for request in rows))

    answers = asyncio.run(scenario())
    assert answers == [[answer(one) for one in request] for request in rows]
    assert sum(map(len, runner.batches)) == sum(map(len, rows))


@settings(max_examples=40)
@given(REQUESTS)
def test_no_batch_is_larger_than_its_bounds(requests: list[list[int]]) -> None:
    runner = FakeRunner()

    async def scenario() -> None:
        async with running(runner) as engine:
            await asyncio.gather(*(engine.compute([row(1, n) for n in lengths], 30) for lengths in requests))

    asyncio.run(scenario())
    for batch in runner.batches:
        assert len(batch) <= runner.capacity(max(one.length for one in batch))


async def test_a_long_row_is_not_starved_by_short_ones() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    async with running(runner) as engine:
        first = asyncio.ensure_future(engine.compute([row(0, 5)], 30))
        await until(runner.entered.is_set)
        long = asyncio.ensure_future(engine.compute([row(1, 60)], 30))
        await asyncio.sleep(0)
        short = [asyncio.ensure_future(engine.compute([row(2, 5)], 30)) for _ in range(100)]
        await asyncio.sleep(0)
        runner.gate.set()
        await asyncio.gather(first, long, *short)
    assert [one.length for one in runner.batches[1]] == [60]


async def test_rows_that_came_while_one_was_computed_run_together() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    async with running(runner) as engine:
        requests = [asyncio.ensure_future(engine.compute([row(0, 5)], 30))]
        await until(runner.entered.is_set)
        requests += [asyncio.ensure_future(engine.compute([row(n, 6)], 30)) for n in range(6)]
        await asyncio.sleep(0)
        runner.gate.set()
        await asyncio.gather(*requests)
    assert [len(batch) for batch in runner.batches] == [1, 6]


async def test_with_a_delay_an_idle_worker_waits_for_company() -> None:
    runner = FakeRunner()
    async with running(runner, delay=10) as engine:
        await asyncio.gather(*(engine.compute([row(n, 6)], 30) for n in range(MAXIMUM_ROWS)))
    assert [len(batch) for batch in runner.batches] == [MAXIMUM_ROWS]


async def test_with_a_delay_a_lone_row_is_computed_when_it_is_over() -> None:
    runner = FakeRunner()
    async with running(runner, delay=0.02) as engine:
        assert await engine.compute([row(3, 6)], 30) == [3006]


async def test_a_cancelled_request_frees_its_place() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    async with running(runner, queue_rows=2) as engine:
        first = asyncio.ensure_future(engine.compute([row(0, 5)], 30))
        await until(runner.entered.is_set)
        second = asyncio.ensure_future(engine.compute([row(1, 5), row(1, 6)], 30))
        await asyncio.sleep(0)
        assert engine.waiting == (2, 11)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert engine.waiting == (0, 0)
        third = asyncio.ensure_future(engine.compute([row(2, 5)], 30))
        await asyncio.sleep(0)
        runner.gate.set()
        assert list(await asyncio.gather(first, third)) == [[5], [2005]]
    assert all(int(one.inputs["input_ids"][0]) != 1 for batch in runner.batches for one in batch)


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    async with running(runner, queue_rows=1) as engine:
        first = asyncio.ensure_future(engine.compute([row(0, 5)], 30))
        await until(runner.entered.is_set)
        second = asyncio.ensure_future(engine.compute([row(1, 5)], 30))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError) as caught:
            await engine.compute([row(2, 5)], 30)
        assert caught.value.retry_after >= 1
        runner.gate.set()
        await asyncio.gather(first, second)


async def test_rows_that_would_wait_too_long_are_refused_at_once() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    async with running(runner, queue_seconds=4.0) as engine:
        first = asyncio.ensure_future(engine.compute([row(0, 5)], 30))
        await until(runner.entered.is_set)
        engine._pace.computed(5, 5.0)
        second = asyncio.ensure_future(engine.compute([row(1, 5)], 30))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError) as caught:
            await engine.compute([row(2, 5)], 30)
        assert caught.value.retry_after == 5
        runner.gate.set()
        await asyncio.gather(first, second)


async def test_while_rows_wait_too_long_no_more_are_let_in() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    async with running(runner, queue_seconds=5.0) as engine:
        first = asyncio.ensure_future(engine.compute([row(0, 5)], 30))
        await until(runner.entered.is_set)
        second = asyncio.ensure_future(engine.compute([row(1, 5)], 30))
        await asyncio.sleep(0)
        clock = engine._clock
        engine._clock = lambda: clock() + 6
        with pytest.raises(QueueFullError):
            await engine.compute([row(2, 5)], 30)
        runner.gate.set()
        await asyncio.gather(first, second)


async def test_a_late_request_fails_and_leaves_the_queue() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    async with running(runner) as engine:
        first = asyncio.ensure_future(engine.compute([row(0, 5)], 30))
        await until(runner.entered.is_set)
        with pytest.raises(DeadlineError):
            await engine.compute([row(1, 5)], 0.01)
        assert engine.waiting == (0, 0)
        runner.gate.set()
        assert await first == [5]


class Searching(FakeRunner):
    """Takes step after step for as long as somebody waits."""

    def run(self, rows: Sequence[Row], *, alone: bool, wanted: Callable[[], bool]) -> Computed:
        if rows[0].length > 1:
            self.entered.set()
            while wanted():
                time.sleep(0.001)  # a step
            raise AbandonedError
        return super().run(rows, alone=alone, wanted=wanted)


@pytest.mark.parametrize("ends", ["late", "cancelled"])
async def test_a_search_that_nobody_waits_for_any_more_frees_its_thread(ends: str) -> None:
    runner = Searching()
    async with running(runner) as engine:
        asked = asyncio.ensure_future(engine.compute([row(1, 2)], 30 if ends == "cancelled" else 0.01))
        await until(runner.entered.is_set)
        if ends == "cancelled":
            asked.cancel()
        with pytest.raises((DeadlineError, asyncio.CancelledError)):
            await asked
        assert await engine.compute([row(3, 1)], 30) == [answer(row(3, 1))]
        assert engine.complaint() is None


async def test_a_row_that_the_model_cannot_compute_fails_alone() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    async with running(runner) as engine:
        first = asyncio.ensure_future(engine.compute([row(0, 5)], 30))
        await until(runner.entered.is_set)
        values = [1, POISON, 2]
        others = [asyncio.ensure_future(engine.compute([row(value, 5)], 30)) for value in values]
        await asyncio.sleep(0)
        runner.gate.set()
        results = await asyncio.gather(first, *others, return_exceptions=True)
        assert engine.complaint() is None
    assert results[0] == [5]
    assert results[1] == [1005]
    assert isinstance(results[2], ForwardError)
    assert results[3] == [2005]


async def test_the_first_worker_computes_alone_whatever_comes_one_after_the_other() -> None:
    runner = FakeRunner()
    async with running(runner, workers=3) as engine:
        for number in range(20):
            await engine.compute([row(number, 5)], 30)
            # Its thread sleeps again: else another one is idle before it.
            await until(lambda: 0 in engine._idle)
    assert set(runner.by) == {("compute-0", True)}


async def test_no_other_worker_is_given_all_threads() -> None:
    runner = FakeRunner()
    async with running(runner, workers=2) as engine:
        runner.gate.clear()
        burst = [asyncio.ensure_future(engine.compute([row(number, 5)], 30)) for number in range(40)]
        await until(lambda: len(runner.by) == 2)
        runner.gate.set()
        await asyncio.gather(*burst)
    assert ("compute-1", False) in runner.by
    assert ("compute-1", True) not in runner.by


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_dead_worker_fails_every_request_and_the_engine(workers: int) -> None:
    runner = FakeRunner()
    runner.gate.clear()
    async with running(runner, workers=workers) as engine:
        requests = [asyncio.ensure_future(engine.compute([row(KILLER, 5)], 30)) for _ in range(3)]
        await until(runner.entered.is_set)
        requests += [asyncio.ensure_future(engine.compute([row(n, 50)], 30)) for n in range(20)]
        await asyncio.sleep(0)
        runner.gate.set()
        results = await asyncio.wait_for(asyncio.gather(*requests, return_exceptions=True), 10)
        assert all(isinstance(result, EngineDeadError | list) for result in results)
        assert isinstance(results[0], EngineDeadError)
        assert engine.complaint() == "a compute thread has died"
        with pytest.raises(EngineDeadError):
            await engine.compute([row(1, 5)], 30)


async def test_a_hung_forward_pass_is_complained_about() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    async with running(runner, forward_seconds=0.02) as engine:
        request = asyncio.ensure_future(engine.compute([row(0, 5)], 30))
        await until(lambda: engine.complaint() is not None)
        runner.gate.set()
        await request
        await until(lambda: engine.complaint() is None)


async def test_stopping_fails_what_waits() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    async with running(runner) as engine:
        requests = [asyncio.ensure_future(engine.compute([row(0, 5)], 30))]
        await until(runner.entered.is_set)
        requests.append(asyncio.ensure_future(engine.compute([row(1, 50)], 30)))
        await asyncio.sleep(0)
        engine.stop(0)
        runner.gate.set()
        results = await asyncio.gather(*requests, return_exceptions=True)
    assert results[0] == [5]
    assert isinstance(results[1], EngineDeadError)


class Counting:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def batch(self, *, rows: int, tokens: int, padded_tokens: int, seconds: float, waited: Sequence[float]) -> None:
        assert seconds >= 0
        assert len(waited) == rows
        self.seen.append((rows, tokens, padded_tokens))


async def test_the_observer_is_told_of_each_pass() -> None:
    observer = Counting()
    engine = Engine(FakeRunner(), Limits(queue_rows=10, queue_tokens=100), observer)
    engine.start(asyncio.get_running_loop())
    await engine.compute([row(0, 10), row(0, 8)], 30)
    engine.stop(5)
    assert observer.seen == [(2, 18, 20)]
