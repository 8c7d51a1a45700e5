"""Whatever happens to a model and its children, and in whatever order, some things always hold."""

import copy
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit import workers
from tests.unit.test_neuron_plan import compiled
from tests.unit.world import World, spec, targets
from torchscript_operator.api import conditions
from torchscript_operator.controller.export_plan import stamp
from torchscript_operator.controller.observed import ended

Action = Callable[[World], None]
SOURCES = "abc"
NAMES = ("cpu", "two")


def edit(**fields: object) -> Action:
    return lambda world: world.edit(**fields)


def source(letter: str) -> Action:
    return edit(source={"s3": {"uri": f"s3://models/{letter}"}})


def letter_of(world: World) -> str:
    """Equal sources give equal artifacts."""
    uri: str = world.body["spec"]["source"]["s3"]["uri"]
    return uri[-1] if uri[-1] in SOURCES else "0"


def on_running(act: Callable[[World, str], None], name: str) -> Action:
    def apply(world: World) -> None:
        if any(not ended(job) for job in world.model_jobs(name)):
            act(world, name)

    return apply


def export_ends(world: World, name: str) -> None:
    # A suspended model's Job may outlive its target.
    verified = any(target.name == name and target.verify is not None for target in world.model.spec.targets)
    compiles = verified and "-export-" in world.running(name)["metadata"]["name"]
    world.export_ends(compiled(letter_of(world)) if compiles else workers.proven(letter_of(world)), name)


def export_is_killed(world: World, name: str) -> None:
    job = world.running(name)
    world.pod_of(job, workers.pod_status("export", workers.terminated(137, reason="OOMKilled")))
    job["status"] = workers.job_failed(stamp(world.now), reason="PodFailurePolicy")


def export_runs(world: World, name: str) -> None:
    world.export_runs(name)


def report_lost(world: World, name: str) -> None:
    world.export_ends(None, name)


def export_fails(world: World, name: str) -> None:
    world.export_fails(84, target=name)


def rollout_ends(name: str) -> Action:
    return lambda world: world.rollout_ends(name) if f"minilm-{name}" in world.deployments else None


def rollout_hangs(name: str, *, late: bool, code: int | None) -> Action:
    state = None if code is None else workers.terminated(code)

    def apply(world: World) -> None:
        if f"minilm-{name}" in world.deployments:
            world.rollout_hangs(late=late, state=state, target=name)

    return apply


def lose_deployments(world: World) -> None:
    world.deployments.clear()


def lose_service(world: World) -> None:
    world.service = None


def lose_pods(world: World) -> None:
    world.pods.clear()


def lose_finished_jobs(world: World) -> None:
    world.jobs = {name: job for name, job in world.jobs.items() if not ended(job)}


def lose_status(world: World) -> None:
    world.body["status"] = {}


def unchanged(_: World) -> None:
    """A pass that nothing asked for."""


ACTIONS: dict[str, Action] = {
    **{f"source {letter}": source(letter) for letter in SOURCES},
    "retry 1": lambda world: world.retry("1"),
    "retry 2": lambda world: world.retry("2"),
    "suspend": edit(suspend=True),
    "resume": edit(suspend=False),
    "one target": edit(targets=targets("cpu")),
    "two targets": edit(targets=targets("cpu", "two")),
    "serve nothing": edit(serving={"targets": []}),
    "serve all": edit(serving={}),
    "scale": edit(serving={"replicas": 3}),
    "more memory": edit(serving={"resources": {"limits": {"memory": "8Gi"}}}),
    **{f"{name}: export runs": on_running(export_runs, name) for name in NAMES},
    **{f"{name}: export ends": on_running(export_ends, name) for name in NAMES},
    **{f"{name}: report is lost": on_running(report_lost, name) for name in NAMES},
    **{f"{name}: export fails": on_running(export_fails, name) for name in NAMES},
    **{f"{name}: export is killed": on_running(export_is_killed, name) for name in NAMES},
    **{f"{name}: rollout ends": rollout_ends(name) for name in NAMES},
    **{f"{name}: rollout is late": rollout_hangs(name, late=True, code=None) for name in NAMES},
    **{f"{name}: replay fails": rollout_hangs(name, late=False, code=90) for name in NAMES},
    "deployments are deleted": lose_deployments,
    "service is deleted": lose_service,
    "pods are deleted": lose_pods,
    "finished jobs are deleted": lose_finished_jobs,
    "status is lost": lose_status,
    "an hour passes": lambda world: world.wait(3600),
    "a moment passes": lambda world: world.wait(7),
    "nothing": unchanged,
}
histories = st.lists(st.sampled_from(sorted(ACTIONS)), max_size=20)
checked = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def replay(history: list[str], after: Callable[[World], None], *, passes: int = 1) -> World:
    world = World(spec(source={"s3": {"uri": "s3://models/a"}}))
    world.step()
    for name in history:
        ACTIONS[name](world)
        for _ in range(passes):
            world.step()
        after(world)
    return world


@checked
@given(histories)
def test_no_deployment_ever_has_a_digest_that_the_status_never_called_proven(history: list[str]) -> None:
    proofs: set[str] = set()

    def check(world: World) -> None:
        proofs.update(target.artifact.digest for target in world.model.status.targets if target.artifact)
        assert {world.rolled(name.removeprefix("minilm-")) for name in world.deployments} <= proofs

    replay(history, check)


@checked
@given(histories, st.integers(0, 2))
def test_passes_come_to_rest_when_nothing_changes(history: list[str], passes: int) -> None:
    replay(history, lambda _: None, passes=passes).settle()


@checked
@given(histories)
def test_every_pass_leaves_one_condition_of_each_type_about_the_present_spec(history: list[str]) -> None:
    def check(world: World) -> None:
        found = world.model.status.conditions
        assert sorted(item.type for item in found) == sorted(conditions.ALL)
        assert {item.observed_generation for item in found} == {world.model.generation}
        assert world.model.status.observed_generation == world.model.generation

    replay(history, check)


@checked
@given(histories)
def test_work_under_way_and_a_stall_are_never_told_together(history: list[str]) -> None:
    def check(world: World) -> None:
        both = (world.condition(conditions.RECONCILING).status, world.condition(conditions.STALLED).status)
        assert both != ("True", "True")

    replay(history, check)


@checked
@given(histories)
def test_no_pass_takes_away_the_last_deployment_that_answers(history: list[str]) -> None:
    world = World(spec(source={"s3": {"uri": "s3://models/a"}}))
    world.serves("a")
    for name in history:
        ACTIONS[name](world)
        answered = any(item["status"].get("availableReplicas", 0) for item in world.deployments.values())
        world.step()
        answers = any(item["status"].get("availableReplicas", 0) for item in world.deployments.values())
        assert answers or not answered or not world.model.served


@checked
@given(histories)
def test_a_target_has_at_most_one_running_job(history: list[str]) -> None:
    def check(world: World) -> None:
        for name in NAMES:
            running = [job for job in world.model_jobs(name) if not ended(job)]
            assert len(running) <= 1

    replay(history, check)


TARGETS = {
    "one step": {"name": "cpu"},
    "two steps": {"name": "cpu", "compiler": "neuronx", "verify": {}},
    "more memory": {"name": "cpu", "job": {"resources": {"limits": {"memory": "1Gi"}}, "retryMemory": "2Gi"}},
}
FIRST = [[], ["cpu: export ends", "cpu: rollout ends"], ["cpu: export is killed"]]


@checked
@given(st.sampled_from(sorted(TARGETS)), st.sampled_from(FIRST), histories, st.integers(0, 21))
def test_pass_that_dies_before_its_status_is_made_again_to_the_same_end(
    kind: str, first: list[str], rest: list[str], moment: int
) -> None:
    def live(dies_at: int | None) -> World:
        world = World(spec(source={"s3": {"uri": "s3://models/a"}}, targets=[TARGETS[kind]]))
        world.step()
        for number, name in enumerate([*first, *rest]):
            ACTIONS[name](world)
            if number == dies_at:
                before = copy.deepcopy(world.body["status"])
                world.step()
                world.body["status"] = before
            world.settle()
        return world

    calm, disturbed = live(None), live(moment)
    assert disturbed.created == calm.created
    assert disturbed.deployments == calm.deployments
    assert disturbed.body["status"] == calm.body["status"]


@checked
@given(histories)
def test_model_serves_its_spec_once_everything_goes_well(history: list[str]) -> None:
    world = replay(history, lambda _: None)
    world.edit(suspend=False, serving={}, targets=targets("cpu"))
    world.retry("last")
    for _ in range(4):
        world.wait(60)
        world.settle()
        on_running(export_ends, "cpu")(world)
        world.settle()
        if "minilm-cpu" in world.deployments:
            world.rollout_ends("cpu")
        world.settle()
    assert world.rolled() == workers.digest_of(letter_of(world))
    assert world.condition(conditions.READY).status == "True"
    assert world.condition(conditions.STALLED).status == "False"
