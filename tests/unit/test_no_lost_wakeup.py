"""Whatever happens between an operator's calls, and whenever it is heard of: at rest it has seen all of it.

No resync helps here. A schedule that leaves something to do is made smaller and printed, call by call.
"""

import asyncio
import copy

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.unit.race import MARK, Race, Step
from tests.unit.race_actions import ACTIONS, BEGINNING, HANDS, JOBS, NETWORK, PEOPLE, ROLLOUTS
from tests.unit.racing import VirtualLoop
from tests.unit.world import World

checked = settings(
    max_examples=150,
    derandomize=True,
    report_multiple_bugs=False,
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
THEMES = [
    JOBS,
    {**JOBS, **PEOPLE},
    ROLLOUTS,
    {**ROLLOUTS, **HANDS},
    {**ROLLOUTS, **PEOPLE},
    HANDS,
    PEOPLE,
    {**JOBS, **ROLLOUTS, **HANDS, **PEOPLE},
]
GAPS = [*range(11), 15, 25]


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Few kinds of things happen in one schedule, so that they meet in all ways."""
    theme = draw(st.sampled_from(THEMES))
    some = draw(st.lists(st.sampled_from(sorted(theme)), min_size=1, max_size=5, unique=True))
    some += draw(st.lists(st.sampled_from(sorted(NETWORK)), max_size=1))
    step = st.builds(Step, st.sampled_from(GAPS), st.sampled_from(some))
    return (
        draw(st.sampled_from(sorted(BEGINNINGS))),
        draw(st.lists(step, min_size=1, max_size=8)),
        draw(st.lists(st.integers(0, 12), min_size=1, max_size=4)),
    )


def left(beginning: str, steps: list[Step], lags: list[int]) -> tuple[list[str], str]:
    """What a new operator finds to do when all is over, and what has happened."""
    race = Race(World(copy.deepcopy(BEGINNING)), ACTIONS, lags)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        found = runner.run(race.runs(BEGINNINGS[beginning], steps))
    return found, "\n".join(race.log[race.log.index(MARK) :])


@checked
@given(schedules())
def test_nothing_is_left_to_do_once_all_is_heard(schedule: Schedule) -> None:
    found, log = left(*schedule)
    if found:
        note(log)
    assert found == []


KNOWN: dict[str, Schedule] = {
    "a rollout ends between the reading and the writing": (
        "served",
        [Step(3, "a Deployment gets another image"), Step(5, "a Deployment is rolled out")],
        [0],
    ),
    "only labels of a settled Deployment are put right": ("served", [Step(0, "a Deployment loses a label")], [0]),
    "a Job tells later than its pod that this is gone": (
        "exporting",
        [Step(3, "an export pod vanishes"), Step(25, "a Job's status follows its pods")],
        [0],
    ),
    "an export's pod is placed late and does not start": (
        "waiting",
        [Step(25, "an export pod is placed"), Step(3, "an export pod has no volume")],
        [0],
    ),
    "the pod of a drained node is placed late and does not start": (
        "served",
        [
            Step(3, "a Deployment loses its pods"),
            Step(1, "a Deployment gets a pod"),
            Step(25, "a serving pod is placed"),
            Step(3, "a serving pod has no volume"),
        ],
        [0],
    ),
    "an autoscaled Deployment that lacks a pod is noticed": (
        "short of a pod",
        [Step(3, "a Deployment is paused or goes on"), Step(15, "a Deployment is noticed")],
        [0],
    ),
}
"""Wake-ups that were lost once."""


@pytest.mark.parametrize("schedule", KNOWN.values(), ids=KNOWN)
def test_wakeup_that_was_lost_once_is_not_lost_again(schedule: Schedule) -> None:
    found, log = left(*schedule)
    assert found == [], log
