"""The work queue: one pass a key at a time, duplicates merged, errors retried ever more slowly."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchscript_operator.controller import queue as queues
from torchscript_operator.controller.queue import Key, Queue, Rank

ONE, TWO = Key("ml", "one"), Key("ml", "two")


class Passes:
    """Stands for the reconciler: counts passes, and does what the test says."""

    def __init__(self) -> None:
        self.seen: list[Key] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.errors = 0
        self.later: float | None = None
        self.at_once = self.most_at_once = 0

    async def __call__(self, key: Key) -> float | None:
        self.seen.append(key)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.gate.wait()
        self.at_once -= 1
        if self.errors:
            self.errors -= 1
            raise RuntimeError
        return self.later


@asynccontextmanager
async def running(passes: Passes, workers: int = 4) -> AsyncIterator[Queue]:
    queue = Queue(passes, workers)
    task = asyncio.create_task(queue.run())
    yield queue
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not look():  # noqa: ASYNC110 -- what is looked at tells nobody
            await asyncio.sleep(0)


async def test_wishes_for_one_key_are_merged_while_it_waits() -> None:
    passes = Passes()
    async with running(passes) as queue:
        for _ in range(10):
            queue.add(ONE)
        await until(lambda: len(passes.seen) == 1)
        assert queue.oldest_seconds() == 0
    assert passes.seen == [ONE]


async def test_wish_during_a_pass_brings_exactly_one_more() -> None:
    passes = Passes()
    passes.gate.clear()
    async with running(passes) as queue:
        queue.add(ONE)
        await until(lambda: len(passes.seen) == 1)
        for _ in range(10):
            queue.add(ONE)
        passes.gate.set()
        await until(lambda: len(passes.seen) == 2 and not passes.at_once)
    assert passes.seen == [ONE, ONE]


async def test_what_a_person_asked_for_goes_before_what_the_cluster_reports() -> None:
    passes = Passes()
    queue = Queue(passes, 1)
    queue.add(ONE)
    queue.add(TWO, Rank.ASKED)
    task = asyncio.create_task(queue.run())
    await until(lambda: len(passes.seen) == 2)
    task.cancel()
    assert passes.seen == [TWO, ONE]


async def worked(*wishes: tuple[Key, Rank]) -> list[Key]:
    """The order in which one worker makes the passes that are wished for at once."""
    passes = Passes()
    queue = Queue(passes, 1)
    for key, rank in wishes:
        queue.add(key, rank)
    task = asyncio.create_task(queue.run())
    await until(lambda: not queue._waiting and not queue._busy)
    task.cancel()
    return passes.seen


@pytest.mark.parametrize("rank", [Rank.REPORTED, Rank.ASKED])
async def test_key_that_waits_for_a_look_goes_forward_with_a_more_urgent_wish(rank: Rank) -> None:
    assert await worked((ONE, Rank.LOOK), (TWO, Rank.LOOK), (TWO, rank), (ONE, Rank.LOOK)) == [TWO, ONE]
    assert await worked((ONE, Rank.REPORTED), (TWO, Rank.REPORTED), (TWO, Rank.ASKED)) == [TWO, ONE]


async def test_looks_keep_no_worker_from_other_passes_nor_wait_for_them() -> None:
    passes = Passes()
    passes.gate.clear()
    async with running(passes, workers=2 * queues.WORKERS_A_LOOKER) as queue:
        looked = [Key("looked", str(number)) for number in range(10)]
        worked = [Key("worked", str(number)) for number in range(100)]
        for key in looked:
            queue.add(key, Rank.LOOK)
        for key in worked:
            queue.add(key)
        await until(lambda: passes.at_once == 2 * queues.WORKERS_A_LOOKER + 2)
        assert sorted(passes.seen) == sorted(looked[:2] + worked[: 2 * queues.WORKERS_A_LOOKER])
        passes.gate.set()


@pytest.mark.parametrize(("seconds", "rank"), [(queues.CONTINUED_SECONDS, Rank.REPORTED), (1.5, Rank.LOOK)])
async def test_pass_that_goes_on_soon_is_more_than_a_look(seconds: float, rank: Rank) -> None:
    passes = Passes()
    passes.later = seconds
    async with running(passes) as queue:
        queue.add(ONE)
        await until(lambda: ONE in queue._timers)
        assert queue._timers[ONE][1] is rank


async def test_earlier_look_takes_over_the_rank_of_a_later_wish() -> None:
    passes = Passes()
    async with running(passes) as queue:
        queue.add_after(ONE, 3600, Rank.LOOK)
        queue.add_after(ONE, 3700, Rank.REPORTED)
        assert queue._timers[ONE][1] is Rank.REPORTED


async def test_waiting_look_is_no_sign_of_a_queue_that_is_stuck() -> None:
    queue = Queue(Passes(), 1)
    queue.add(ONE, Rank.LOOK)
    await asyncio.sleep(0.01)
    assert queue.oldest_seconds() == 0


async def test_what_is_left_of_a_pass_waits_for_what_a_person_asked_for() -> None:
    seen: list[str] = []

    async def rest() -> None:
        seen.append("rest")

    async def reconcile(key: Key) -> queues.Rest:
        seen.append(key.name)
        return rest

    queue = Queue(reconcile, 1)
    queue.add(ONE, Rank.ASKED)
    queue.add(TWO, Rank.ASKED)
    task = asyncio.create_task(queue.run())
    await until(lambda: len(seen) == 4)
    task.cancel()
    assert seen == ["one", "two", "rest", "rest"]


async def test_slow_rests_hold_up_neither_passes_nor_each_other() -> None:
    seen, done = [], asyncio.Event()

    async def rest() -> None:
        seen.append("rest")
        await done.wait()

    async def reconcile(key: Key) -> queues.Rest | None:
        seen.append(key.name)
        return queues.Slow(rest) if key != TWO else None

    queue = Queue(reconcile, 1)
    for number in range(queues.SLOW_WORKERS + 1):
        queue.add(Key("ml", f"many-{number}"))
    task = asyncio.create_task(queue.run())
    await until(lambda: seen.count("rest") == queues.SLOW_WORKERS)
    queue.add(TWO)
    await until(lambda: TWO.name in seen)
    assert seen.count("rest") == queues.SLOW_WORKERS, "one waits"
    done.set()
    await until(lambda: seen.count("rest") == queues.SLOW_WORKERS + 1)
    task.cancel()


async def test_event_before_the_rest_of_a_pass_brings_another_pass_after_it() -> None:
    seen: list[str] = []
    queue: Queue

    async def rest() -> None:
        seen.append("rest")

    async def reconcile(key: Key) -> queues.Rest | None:
        seen.append(key.name)
        if len(seen) > 1:
            return None
        queue.add(ONE)
        return rest

    queue = Queue(reconcile, 2)
    queue.add(ONE)
    task = asyncio.create_task(queue.run())
    await until(lambda: len(seen) == 3)
    task.cancel()
    assert seen == ["one", "rest", "one"]


async def test_failed_rest_brings_the_key_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "FIRST_RETRY_SECONDS", 0.001)
    passes = 0

    async def rest() -> None:
        raise RuntimeError

    async def reconcile(_: Key) -> queues.Rest | None:
        nonlocal passes
        passes += 1
        return rest if passes == 1 else None

    queue = Queue(reconcile, 1)
    queue.add(ONE)
    task = asyncio.create_task(queue.run())
    await until(lambda: passes == 2)
    task.cancel()


async def test_no_pass_begins_before_all_children_are_known() -> None:
    passes, known = Passes(), asyncio.Event()

    async def wait() -> None:
        await known.wait()

    queue = Queue(passes, 2)
    task = asyncio.create_task(queue.run(wait))
    queue.add(ONE)
    await asyncio.sleep(0.01)
    assert passes.seen == []
    known.set()
    await until(lambda: passes.seen == [ONE])
    task.cancel()


async def test_one_key_is_never_worked_on_twice_at_once() -> None:
    passes = Passes()
    passes.gate.clear()
    async with running(passes) as queue:
        queue.add(ONE)
        await until(lambda: len(passes.seen) == 1)
        queue.add(ONE)
        passes.gate.set()
        await until(lambda: len(passes.seen) == 2)
    assert passes.most_at_once == 1


async def test_keys_are_worked_on_beside_each_other() -> None:
    passes = Passes()
    passes.gate.clear()
    async with running(passes) as queue:
        queue.add(ONE)
        queue.add(TWO)
        await until(lambda: passes.at_once == 2)
        passes.gate.set()


async def test_workers_bound_the_passes_at_once() -> None:
    passes = Passes()
    async with running(passes, workers=2) as queue:
        for number in range(20):
            queue.add(Key("ml", str(number)))
        await until(lambda: len(passes.seen) == 20)
    assert passes.most_at_once <= 2


async def test_failed_pass_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "FIRST_RETRY_SECONDS", 0.001)
    passes = Passes()
    passes.errors = 3
    async with running(passes) as queue:
        queue.add(ONE)
        await until(lambda: len(passes.seen) == 4)


def test_failures_of_a_key_wait_ever_longer_up_to_a_limit() -> None:
    queue = Queue(Passes, 1)  # type: ignore[arg-type]
    waits = [queue._backoff(ONE) for _ in range(20)]
    for number, wait in enumerate(waits):
        middle = min(queues.LAST_RETRY_SECONDS, queues.FIRST_RETRY_SECONDS * 2**number)
        assert middle * (1 - queues.JITTER) <= wait <= middle * (1 + queues.JITTER)


async def test_success_forgets_earlier_failures() -> None:
    passes = Passes()
    async with running(passes) as queue:
        queue._failures[ONE] = 9
        queue.add(ONE)
        await until(lambda: ONE not in queue._failures)


def reported(queue: Queue) -> None:
    """The cluster reports a change."""
    queue.add(ONE)


def figures(queue: Queue) -> None:
    """The cluster reports mere figures."""
    queue.add_after(ONE, 0)


def asked(queue: Queue) -> None:
    """A person changes the model."""
    queue.add(ONE, Rank.ASKED)


Wishes = list[Callable[[Queue], None]]


async def failed_once(during: Wishes, after: Wishes) -> int:
    """How many passes there are, before the backoff is over, of a key whose first pass fails amid some wishes."""
    passes = Passes()
    passes.errors = 1
    passes.gate.clear()
    async with running(passes, workers=2) as queue:
        queue.add(ONE)
        await until(lambda: len(passes.seen) == 1)
        for wish in during:
            wish(queue)
        passes.gate.set()
        await until(lambda: not passes.errors and not passes.at_once and ONE not in queue._busy)
        for wish in after:
            wish(queue)
        # What is due by now has its turn before another key's pass.
        await asyncio.sleep(0.001)
        queue.add(TWO)
        await until(lambda: TWO in passes.seen and not queue._waiting and not queue._busy)
        return passes.seen.count(ONE)


wishes = st.lists(st.sampled_from([reported, figures]), max_size=4)


@settings(max_examples=30, deadline=None)
@given(during=wishes, after=wishes)
def test_nothing_that_the_cluster_reports_ends_a_backoff(during: Wishes, after: Wishes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queues, "FIRST_RETRY_SECONDS", 3600.0)
        patch.setattr(queues, "LAST_RETRY_SECONDS", 3600.0)
        assert asyncio.run(failed_once(during, after)) == 1


@settings(max_examples=30, deadline=None)
@given(before=wishes, rest=wishes, at_once=st.booleans())
def test_what_a_person_asks_for_does_not_wait_for_a_backoff(before: Wishes, rest: Wishes, at_once: bool) -> None:
    asking = [*before, asked, *rest]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queues, "FIRST_RETRY_SECONDS", 3600.0)
        patch.setattr(queues, "LAST_RETRY_SECONDS", 3600.0)
        assert asyncio.run(failed_once(asking, []) if at_once else failed_once([], asking)) >= 2


async def test_after_a_backoff_events_bring_passes_at_once_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "FIRST_RETRY_SECONDS", 0.001)
    passes = Passes()
    passes.errors = 1
    async with running(passes) as queue:
        queue.add(ONE)
        await until(lambda: len(passes.seen) == 2 and not queue._busy)
        assert (queue._held, queue._timers, queue._failures) == (set(), {}, {})
        queue.add(ONE)
        await until(lambda: len(passes.seen) == 3)


async def test_end_of_an_outage_ends_backoffs_but_forgets_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "FIRST_RETRY_SECONDS", 3600.0)
    monkeypatch.setattr(queues, "LAST_RETRY_SECONDS", 36000.0)
    passes = Passes()
    passes.errors = 2
    async with running(passes) as queue:
        queue.add(ONE)
        await until(lambda: ONE in queue._held)
        queue.relieve()
        await until(lambda: queue._failures.get(ONE) == 2)
        assert queue._held == {ONE}
        queue.relieve()
        await until(lambda: ONE not in queue._failures)
        assert (passes.seen, queue._held, queue._timers) == ([ONE] * 3, set(), {})


async def test_failed_rest_keeps_its_backoff_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "FIRST_RETRY_SECONDS", 3600.0)
    monkeypatch.setattr(queues, "LAST_RETRY_SECONDS", 3600.0)
    passes = 0
    queue: Queue

    async def rest() -> None:
        queue.add(ONE)
        raise RuntimeError

    async def reconcile(_: Key) -> queues.Rest:
        nonlocal passes
        passes += 1
        return rest

    queue = Queue(reconcile, 1)
    queue.add(ONE)
    task = asyncio.create_task(queue.run())
    await until(lambda: ONE in queue._held)
    queue.add(ONE)
    await asyncio.sleep(0.001)
    task.cancel()
    assert passes == 1


async def test_pass_that_asks_for_another_gets_it() -> None:
    passes = Passes()
    passes.later = 0.001
    async with running(passes) as queue:
        queue.add(ONE)
        await until(lambda: len(passes.seen) >= 3)


async def test_event_does_not_wait_for_a_later_look() -> None:
    passes = Passes()
    async with running(passes) as queue:
        queue.add_after(ONE, 3600)
        queue.add(ONE)
        await until(lambda: passes.seen == [ONE])
        assert queue._timers == {}


async def test_earlier_of_two_later_looks_counts() -> None:
    passes = Passes()
    async with running(passes) as queue:
        queue.add_after(ONE, 0.001)
        queue.add_after(ONE, 3600)
        await until(lambda: passes.seen == [ONE])


async def test_key_that_nobody_takes_grows_old() -> None:
    queue = Queue(Passes(), 1)
    assert queue.oldest_seconds() == 0
    queue.add(ONE)
    await asyncio.sleep(0.01)
    assert queue.oldest_seconds() >= 0.01
    assert queue.stuck_seconds() >= 0.01


async def test_key_that_waits_behind_others_is_no_sign_of_a_queue_that_is_stuck() -> None:
    passes = Passes()
    queue = Queue(passes, 1)
    queue.add(TWO)
    await asyncio.sleep(0.02)
    task = asyncio.create_task(queue.run())
    await until(lambda: passes.seen == [TWO] and not queue._busy)
    task.cancel()
    queue.add(ONE)
    queue._since[ONE] -= 3600
    assert queue.oldest_seconds() >= 3600
    assert queue.stuck_seconds() < 60
