"""Whatever happens between an operator's calls, and whenever it is heard of: at rest it has seen all of it.

No resync helps here. A schedule that leaves something to do is made smaller and told call by call.
"""

import asyncio
import copy
import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.unit.race import IDLE, MARK, Race, Step
from tests.unit.race_actions import ACTIONS, BEGINNING, HANDS, JOBS, NETWORK, PEOPLE, ROLLOUTS
from tests.unit.racing import VirtualLoop
from tests.unit.world import World

checked = settings(
    max_examples=250,
    derandomize=True,
    phases=[Phase.generate],  # smallest() makes smaller what fails
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
Schedule = tuple[str, list[Step], list[int]]
"""What there is at first, what happens, and how many moments later each event is heard, in turn."""
SERVED = ["a Job gets a pod", "an export pod runs", "a Job ends well", "a Deployment is rolled out"]
SCALED = [*SERVED, "autoscaled", "an autoscaler scales", "a Deployment is rolled out"]
BEGINNINGS = {
    "new": [],
    "waiting": ["a Job gets a pod", "a Job's status follows its pods"],
    "exporting": [
        "a Job gets a pod",
        "an export pod is placed",
        "an export pod runs",
        "a Job's status follows its pods",
    ],
    "rolling": [*SERVED[:3], "a Deployment is rolling"],
    "served": SERVED,
    "updated": [*SERVED, "source b", "a Job ends well", "a Deployment is rolled out"],
    "scaled": SCALED,
    "short of a pod": [*SCALED, "a Deployment lacks a pod"],
}
EARLY = ("new", "waiting", "exporting")
BETWEEN = [0, 1, 3, 12, 25]
"""Moments between two passes; the last are longer than figures wait to be told."""
INSIDE = ["before apply", "after apply", "after get", ""]
"""Moments of a pass: it has read and decided, or it has written and not been answered."""


def drawn(seed: int) -> Schedule:
    """A schedule in which few kinds of things happen, so that they meet in all ways, mostly while a pass is made."""
    draw = random.Random(seed)  # noqa: S311 -- no secret
    beginning = draw.choice(sorted(BEGINNINGS))
    by_itself, by_hand = (JOBS, PEOPLE) if beginning in EARLY else (ROLLOUTS, {**HANDS, **PEOPLE})
    hands, others = draw.sample(sorted(by_hand), 2), draw.sample(sorted(by_itself), 3)
    others.append(draw.choice(sorted({**JOBS, **NETWORK})))
    steps = []
    for _ in range(draw.randint(1, 3)):
        steps.append(Step(IDLE, draw.choice(BETWEEN), draw.choice(hands + others[:2])))
        for _ in range(draw.randint(0, 2)):
            at = draw.choice([*INSIDE, IDLE])
            gap = draw.choice(BETWEEN if at == IDLE else [0, 0, 0, 1, 2])
            steps.append(Step(at, gap, draw.choice(hands + others)))
    return beginning, steps, draw.choice([[0], [0], [1], [0, 3], [1, 10, 0]])


def smallest(beginning: str, steps: list[Step], lags: list[int]) -> Schedule:
    """Without whatever is not needed for something to be left."""
    for place in reversed(range(len(steps))):
        fewer = steps[:place] + steps[place + 1 :]
        if left(beginning, fewer, lags)[0]:
            return smallest(beginning, fewer, lags)
    return (beginning, steps, [0]) if left(beginning, steps, [0])[0] else (beginning, steps, lags)


def left(beginning: str, steps: list[Step], lags: list[int]) -> tuple[list[str], str]:
    """What a new operator finds to do when all is over, and what has happened."""
    race = Race(World(copy.deepcopy(BEGINNING)), ACTIONS, lags)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        found = runner.run(race.runs(BEGINNINGS[beginning], steps))
    return found, "\n".join(race.log[race.log.index(MARK) :])


@checked
@given(st.integers(0, 2**64).map(drawn))
def test_nothing_is_left_to_do_once_all_is_heard(schedule: Schedule) -> None:
    found, _ = left(*schedule)
    if found:
        schedule = smallest(*schedule)
        found, log = left(*schedule)
        pytest.fail(f"{schedule}\n{log}\n" + "\n".join(found))


KNOWN: dict[str, Schedule] = {
    "a child is changed between its writing and the answer": (
        "served",
        [Step(IDLE, 3, "the Service selects others"), Step("after apply", 0, "the Service is deleted")],
        [0],
    ),
    "a rollout ends between the reading and the writing": (
        "rolling",
        [Step(IDLE, 3, "a Deployment gets another image"), Step("before apply", 0, "a Deployment is rolled out")],
        [0],
    ),
    "a Job is halted whose pod runs, which is not read then": (
        "waiting",
        [Step(IDLE, 3, "a Job is halted or let go on"), Step(IDLE, 25, "an export pod runs")],
        [0],
    ),
    "only labels of a settled Deployment are put right": ("served", [Step(IDLE, 0, "a Deployment loses a label")], [0]),
    "a Job tells later than its pod that this is gone": (
        "exporting",
        [Step(IDLE, 3, "an export pod vanishes"), Step(IDLE, 25, "a Job's status follows its pods")],
        [0],
    ),
    "an export's pod is placed late and does not start": (
        "waiting",
        [Step(IDLE, 25, "an export pod is placed"), Step(IDLE, 3, "an export pod has no volume")],
        [0],
    ),
    "the pod of a drained node is placed late and does not start": (
        "served",
        [
            Step(IDLE, 3, "a Deployment loses its pods"),
            Step(IDLE, 1, "a Deployment gets a pod"),
            Step(IDLE, 25, "a serving pod is placed"),
            Step(IDLE, 3, "a serving pod has no volume"),
        ],
        [0],
    ),
    "an autoscaled Deployment that lacks a pod is noticed": (
        "short of a pod",
        [Step(IDLE, 3, "a Deployment is paused or goes on"), Step(IDLE, 15, "a Deployment is noticed")],
        [0],
    ),
    **{
        f"a stranger's {kind} goes that had a child's name": (
            "exporting",
            [
                Step(IDLE, 3, f"a stranger has the {kind}'s name"),
                Step(IDLE, 3, "a Job ends well"),
                *more,
                Step(IDLE, 25, "the stranger goes"),
            ],
            [0],
        )
        for kind, more in (("Service", [Step(IDLE, 3, "a Deployment is rolled out")]), ("Deployment", []))
    },
}
"""Wake-ups that were lost once."""


@pytest.mark.parametrize("schedule", KNOWN.values(), ids=KNOWN)
def test_wakeup_that_was_lost_once_is_not_lost_again(schedule: Schedule) -> None:
    found, log = left(*schedule)
    assert found == [], log
