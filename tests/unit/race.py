"""One run of an operator against whatever else happens: each step at its moment, each event heard later, none lost.

Reconciler, queue, watches and listener are the operator's own; nothing asks for a pass but events, passes and writes.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from tests.unit.converging import differences
from tests.unit.racing import KEY, MODELS, Event, Server
from tests.unit.world import SETTINGS, START, World
from torchscript_operator.controller import app
from torchscript_operator.controller.children import KINDS, Children
from torchscript_operator.controller.closer import CloserLooks
from torchscript_operator.controller.connection import ApiError
from torchscript_operator.controller.handlers import Listener
from torchscript_operator.controller.queue import Key, Later, Queue, Rank, Rest, Slow
from torchscript_operator.controller.reconcile import Reconciler
from torchscript_operator.controller.shown import Shown
from torchscript_operator.controller.watch import Watch

TICK_SECONDS = 1.0
"""Between two moments while the operator has nothing to do."""
QUIET_TICKS = 15
"""After which nothing is left to do before the next thing happens; longer than figures wait to be told."""
REST_SECONDS = 150.0
"""After the last event; longer than any wait for another look at what does not go on, and than a backoff here."""
TIMES = frozenset({"lastTransitionTime", "time", "provenTime"})
IDLE = "idle"
PATIENCE = 20
"""Moments after which a step waits for no particular one any more."""
MARK = "--- from here on:"
"""In the log, before what was drawn."""
BEGINS = "a pass begins"
MOST_PASSES = 60
"""While nothing happens any more: one in five seconds, for a Job that has no pod, and again as many."""


class Step(NamedTuple):
    """What happens, and at which moment after the step before."""

    at: str
    """How its name begins."""
    gap: int
    """At the earliest so many moments later."""
    action: str


def untimed(value: Any) -> Any:
    """Without times."""
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if key not in TIMES}
    return [untimed(item) for item in value] if isinstance(value, list) else value


class _Queue(Queue):
    """Says what is asked of it."""

    def __init__(self, race: "Race", reconcile: Callable[[Key], Awaitable[Later | Rest]]) -> None:
        super().__init__(reconcile, workers=2)
        self._race = race

    def add(self, key: Key, rank: Rank = Rank.REPORTED) -> None:
        self._race.say(f"    a pass is asked for: {rank.name}")
        super().add(key, rank)

    def add_after(self, key: Key, seconds: float, rank: Rank = Rank.LOOK) -> None:
        self._race.say(f"    a pass is asked for in {seconds:g} s: {rank.name}")
        super().add_after(key, seconds, rank)


class Operator:
    """All of it but the connection."""

    def __init__(self, race: "Race") -> None:
        self.race = race
        self.children = Children()
        self.looks = CloserLooks(asyncio.get_running_loop().time)
        shown = Shown()
        self.reconciler = Reconciler.over(race.server, SETTINGS, self.children, self.looks, shown)  # type: ignore[arg-type]
        self.queue = _Queue(race, self._pass)
        self.listener = Listener(self.queue, shown)
        self.watches = {
            plural: Watch(race.server, self.queue, self.children, plural, None, 0.0)  # type: ignore[arg-type]
            for plural in KINDS
        }

    async def runs(self) -> None:
        """Know what there is, then work."""
        for plural in KINDS:
            await self.lists(plural)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._answered(self._looks_fully))
            group.create_task(self.queue.run())

    async def lists(self, plural: str) -> None:
        """Begin a watch anew."""
        await self._answered(self.watches[plural].list)

    async def _looks_fully(self) -> None:
        await app.full_look(self.race.server, self.listener, SETTINGS, Rank.REPORTED, everything=True, keep=True)  # type: ignore[arg-type]

    async def _answered(self, call: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await call()
            except ApiError:
                await asyncio.sleep(TICK_SECONDS)

    def listens(self, plural: str) -> bool:
        """Whether it has begun to watch."""
        return plural == MODELS or self.watches[plural].listed.is_set()

    async def hears(self, plural: str, event: Event) -> None:
        """A watch says something."""
        said = {"type": event.type, "object": event.body}
        if plural == MODELS:
            await self.listener.model_event(said)
        else:
            self.watches[plural].take(said)

    def is_idle(self) -> bool:
        return not (self.queue._waiting or self.queue._busy)

    async def _pass(self, key: Key) -> Later | Rest:
        self.race.say(BEGINS)
        return await self._part(self.reconciler(key))

    async def _part(self, part: Awaitable[Later | Rest]) -> Any:
        try:
            rest = await part
        except ApiError as error:
            self.race.say(f"the pass fails: {error}")
            raise
        except Exception as error:
            self.race.faults.append(error)
            raise
        if callable(rest):
            left = partial(self._rest, rest)
            return Slow(left) if isinstance(rest, Slow) else left
        self.race.say("the pass ends")
        return rest

    async def _rest(self, rest: Rest) -> Later:
        found: Later = await self._part(rest())
        return found


class Race:
    """A world, an operator, and what else happens when."""

    def __init__(self, world: World, actions: dict[str, Callable[["Race"], None]], lags: list[int]) -> None:
        self.world, self.actions, self.lags = world, actions, lags
        self.steps: deque[Step] = deque()
        self.count = self._last = 0
        """Moments, and the one of the step before."""
        self.slow = 0.0
        """Seconds that go by before anything else at this moment."""
        self.faults: list[Exception] = []
        self.log: list[str] = []
        self._emitted = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.server = Server(world, self.moment, self._due)
        self.operator: Operator

    def say(self, text: str) -> None:
        self.log.append(f"{asyncio.get_running_loop().time():7.1f} s  {text}")

    def _due(self) -> int:
        self._emitted += 1
        return self.count + self.lags[self._emitted % len(self.lags)]

    async def moment(self, where: str) -> None:
        """Anything may happen here."""
        self.count += 1
        self._tell_time()
        if where != IDLE:
            self.say(f"  {where}")
        while self.steps and self._is_due(self.steps[0], where):
            self._last = self.count
            action = self.steps.popleft().action
            self.say(f"==> {action}")
            self.actions[action](self)
            self.server.note()
            if self.slow:
                seconds, self.slow = self.slow, 0.0
                await asyncio.sleep(seconds)
                self._tell_time()
        for plural, stream in self.server.streams.items():
            while stream and stream[0].due <= self.count and self._hears(plural):
                event = stream.popleft()
                self.say(f"  heard: {event.type} {plural}/{event.body['metadata']['name']}")
                await self.operator.hears(plural, event)

    def _is_due(self, step: Step, where: str) -> bool:
        passed = self.count - self._last
        return (where.startswith(step.at) and passed >= step.gap) or passed >= step.gap + PATIENCE

    def _hears(self, plural: str) -> bool:
        return plural not in self.server.listing and self.operator.listens(plural)

    def _tell_time(self) -> None:
        self.world.now = START + timedelta(seconds=asyncio.get_running_loop().time())

    def start(self) -> None:
        """Begin with a new operator; the one before has died in the middle of whatever it did."""
        for task in self._tasks:
            task.cancel()
        self.operator = Operator(self)
        self.server.begin_anew(MODELS)
        self._tasks.append(asyncio.create_task(self.operator.runs()))

    def relist(self, plural: str) -> None:
        """A watch has missed something and begins anew."""
        self._tasks.append(asyncio.create_task(self.operator.lists(plural)))

    async def _goes_on(self) -> None:
        await self.moment(IDLE)
        await asyncio.sleep(TICK_SECONDS)

    async def runs(self, before: list[str], steps: list[Step]) -> list[str]:
        """All of it; returns what a new operator still finds to do."""
        lags, self.lags = self.lags, [0]
        self.start()
        for name in [*before, ""]:
            for _ in range(QUIET_TICKS):
                await self._goes_on()
            self.actions.get(name, lambda _: None)(self)
            self.server.note()
        self.lags, self._last, self.steps = lags, self.count, deque(steps)
        self.log.append(MARK)
        while self.steps or any(self.server.streams.values()):
            await self._goes_on()
        # Sooner or later a Deployment's controller has seen what it is to be.
        for deployment in self.world.deployments.values():
            deployment["status"]["observedGeneration"] = deployment["metadata"]["generation"]
        self.server.note()
        while any(self.server.streams.values()):
            await self._goes_on()
        over = len(self.log)
        await asyncio.sleep(REST_SECONDS)
        while not self.operator.is_idle():  # noqa: ASYNC110 -- what is looked at tells nobody
            await asyncio.sleep(TICK_SECONDS / 2)
        passes = sum(BEGINS in line for line in self.log[over:])
        found = await self._left()
        found += [f"{passes} passes at rest"] if passes > MOST_PASSES else []
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return [*map(repr, self.faults), *found]

    async def _left(self) -> list[str]:
        told, written = untimed(self.world.body.get("status")), len(self.server.writes)
        self.log.append("--- an operator that starts anew:")
        other = Operator(self)
        for plural in KINDS:
            await other.lists(plural)
        rest = await other.reconciler(KEY)
        if callable(rest):
            await rest()
        return [*self.server.writes[written:], *differences(told, untimed(self.world.body.get("status")))]
