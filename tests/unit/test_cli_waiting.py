"""tsm wait: when it ends and with which exit code, what it shows meanwhile, and how far an export is."""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from tests.unit import views, workers
from tests.unit.views import FakeCluster
from tests.unit.world import START, World
from torchscript_operator.cli import waiting
from torchscript_operator.cli.cluster import progress
from torchscript_operator.cli.cluster.access import ApiError
from torchscript_operator.cli.cluster.progress import Earlier, Run
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.waiting import Waiting, Wanted

SETTLED = Wanted()


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).astimezone(UTC).isoformat().replace("+00:00", "Z")


def line(seconds: float, stage: str, message: str = "Doing…", **fields: object) -> str:
    return json.dumps({"time": at(seconds), "level": "info", "message": message, "stage": stage, **fields})


WHOLE = [
    line(0, "resolve"),
    line(10, "resolve", "done", elapsedSeconds=10),
    line(10, "trace"),
    line(90, "trace", "done", elapsedSeconds=80),
    line(90, "upload"),
    line(100, "upload", "done", elapsedSeconds=10),
]


def test_stages_are_read_from_the_log() -> None:
    run = progress.read(WHOLE[:3])
    assert (run.stage, run.message, run.seconds) == ("trace", "Doing", {"resolve": 10.0})
    assert progress.read(WHOLE).is_whole


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"message": "no time"}', '{"time": "yesterday"}'])
def test_lines_that_are_not_a_workers_are_passed_over(text: str) -> None:
    assert progress.read([text]) == Run()


@pytest.mark.parametrize(("now", "share"), [(0, 0.0), (50, 0.5), (89, 0.89), (500, 0.9)])
def test_share_follows_what_the_stages_of_an_earlier_export_took(now: float, share: float) -> None:
    run = progress.read(WHOLE[:1] if now == 0 else WHOLE[:3])
    found = progress.estimate(now, run, Earlier(100, progress.read(WHOLE)), START + timedelta(seconds=now))
    assert found.share == pytest.approx(share)
    assert found.expected == 100


@pytest.mark.parametrize(("until_began", "done"), [(0, 50), (15, 65), (300, 70)])
def test_share_counts_the_pods_start_as_far_as_the_earlier_one_took_so_long(until_began: float, done: float) -> None:
    earlier = Earlier(120, progress.read(WHOLE))
    found = progress.estimate(until_began + 50, progress.read(WHOLE[:3]), earlier, START + timedelta(seconds=50))
    assert found.share == pytest.approx(done / 120)


def test_share_without_an_earlier_export_follows_the_stages() -> None:
    early = progress.estimate(1, progress.read(WHOLE[:1]), None, START)
    late = progress.estimate(1, progress.read(WHOLE[:5]), None, START)
    assert early.share is not None
    assert late.share is not None
    assert 0 < early.share < late.share < 1


def test_share_without_a_log_follows_the_time() -> None:
    assert progress.estimate(30, None, Earlier(60), START).share == 0.5
    assert progress.estimate(600, None, Earlier(60), START).share == progress.MOST
    assert progress.estimate(30, None, None, START).share is None


def test_earlier_job_is_the_newest_that_ended_well() -> None:
    world = views.serving()
    world.wait(60)
    world.edit(source=views.OTHER)
    world.settle()
    view = views.view(world)
    found = progress.newest(view, progress.earlier_jobs(view, "cpu", "export", world.running()["metadata"]["name"]))
    assert found is not None
    assert progress.took(found) == 0


def test_cache_hit_is_no_measure() -> None:
    world = World()
    world.settle()
    world.export_ends(workers.proven("a", cacheHit=True))
    world.settle()
    world.rollout_ends()
    world.edit(source=views.OTHER)
    world.settle()
    view = views.view(world)
    logs = waiting.Logs(FakeCluster(view))
    logs.watch(view)
    assert list(logs.earlier.values()) == [None]


def test_time_of_a_job_that_is_gone_is_in_the_status() -> None:
    world = views.serving()
    world.edit(source=views.OTHER)
    world.settle()
    world.jobs = {name: job for name, job in world.jobs.items() if job is world.running()}
    view = views.view(world)
    logs = waiting.Logs(FakeCluster(view))
    logs.watch(view)
    assert [found and found.seconds for found in logs.earlier.values()] == [42.0]


# When it ends.


def clock() -> datetime:
    return START


def wait(
    *made: World, wanted: Wanted = SETTLED, timeout: float = 60, then: Callable[[World], None] | None = None
) -> tuple[str, list[str]]:
    """Wait for worlds; `then` happens to the first between two looks. Returns what was said, and the models' states."""
    stream = io.StringIO()
    cluster = FakeCluster(*map(views.view, made))

    def sleep(_seconds: float) -> None:
        if then is not None:
            then(made[0])
            cluster.views = [views.view(world) for world in made]

    console = Console(file=stream, width=200)
    found = Waiting(cluster, ["minilm"], wanted, timeout, console, clock, sleep).run()
    return stream.getvalue(), [view.state for view in found]


def test_wait_for_what_is_there_ends_at_once() -> None:
    assert wait(views.serving()) == ("", ["Ready"])


def test_wait_goes_through_export_and_rollout() -> None:
    steps = iter(
        (
            lambda world: world.export_ends(workers.proven("a")),
            lambda world: world.rollout_ends(),
        )
    )

    def then(world: World) -> None:
        next(steps)(world)
        world.settle()

    said, states = wait(views.exporting(), then=then)
    assert states == ["Ready"]
    assert "minilm/cpu: exporting" in said
    assert "minilm/cpu: rolling out sha256:aaaaaaaaaaaa" in said


def test_same_news_is_told_once() -> None:
    counts = iter(range(3))

    def then(world: World) -> None:
        if next(counts) == 2:
            world.export_ends(workers.proven("a"))
            world.settle()
            world.rollout_ends()
            world.settle()

    said, _ = wait(views.exporting(), then=then)
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("made", "code"),
    [(views.parity_failed, 84), (views.out_of_memory, 137), (views.degraded, 66), (views.rolled_back, 3)],
)
def test_stall_ends_the_wait_with_the_code_of_its_class(made: Callable[[], World], code: int) -> None:
    with pytest.raises(CliError, match="Nothing more happens") as caught:
        wait(made())
    assert caught.value.exit_code == code


def test_suspended_model_ends_the_wait() -> None:
    with pytest.raises(CliError) as caught:
        wait(views.suspended())
    assert (caught.value.exit_code, "tsm resume" in caught.value.advice) == (3, True)


def test_server_that_restarts_is_asked_again() -> None:
    answers: list[Exception | None] = [None, ApiError(0, "gone"), ApiError(503, "busy"), None]

    class Restarting(FakeCluster):
        def model(self, namespace: str, name: str) -> dict[str, object]:
            problem = answers.pop(0)
            if problem is not None:
                raise problem
            return super().model(namespace, name)

    cluster = Restarting(views.view(views.exporting()))

    def sleep(_seconds: float) -> None:
        if len(answers) == 1:
            cluster.views = [views.view(views.serving())]

    console = Console(file=io.StringIO())
    found = Waiting(cluster, ["minilm"], SETTLED, 60, console, clock, sleep).run()
    assert [view.state for view in found] == ["Ready"]
    assert answers == []


def test_server_that_never_answered_is_not_waited_for() -> None:
    cluster = FakeCluster()
    cluster.forbidden = {"torchscriptmodels"}
    with pytest.raises(ApiError, match="forbids"):
        Waiting(cluster, ["minilm"], SETTLED, 60, Console(file=io.StringIO()), clock, lambda _: None).run()


def test_old_artifact_that_serves_is_not_what_is_waited_for() -> None:
    with pytest.raises(CliError) as caught:
        wait(views.updating(), timeout=-1)
    assert caught.value.exit_code == waiting.TIMEOUT_EXIT


def test_condition_can_be_waited_for_as_kubectl_does() -> None:
    assert wait(views.updating(), wanted=Wanted.parse("Ready"))[1] == ["Updating"]
    assert wait(views.parity_failed(), wanted=Wanted.parse("parityverified=false"))[1] == ["Failed"]


def test_unknown_condition_is_refused() -> None:
    with pytest.raises(CliError, match="no condition Happy"):
        Wanted.parse("Happy")


def test_time_that_is_over_says_whether_the_operator_has_seen_it() -> None:
    with pytest.raises(CliError) as caught:
        wait(views.new(), timeout=-1)
    assert "tsm doctor" in caught.value.advice


def test_stall_from_before_a_retry_is_not_the_answer_to_it() -> None:
    with pytest.raises(CliError) as caught:
        wait(views.parity_failed(), wanted=Wanted(after="7"), timeout=-1)
    assert caught.value.exit_code == waiting.TIMEOUT_EXIT


def test_step_of_a_running_export_has_stage_share_and_time() -> None:
    view = views.view(views.exporting())
    job = view.model.status.targets[0].job or ""
    runs: dict[str, Run] = {job: progress.read(WHOLE[:3])}
    earlier: dict[str, Earlier | None] = {job: Earlier(120, progress.read(WHOLE))}
    (step,) = waiting.steps(view, runs, earlier, START + timedelta(seconds=50))
    assert waiting.line(step) == "minilm/cpu: exporting: trace (42 %, 50s of about 2m, Doing)"
    stream = io.StringIO()
    Console(file=stream, width=160).print(waiting.drawing([step]))
    assert "42 % 50s of about 2m" in stream.getvalue()


def test_log_of_the_running_job_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[object, ...]] = []

    class Immediate:
        def __init__(self, target: Callable[..., None], args: tuple[object, ...], daemon: bool) -> None:
            assert daemon
            self.target, self.args = target, args

        def start(self) -> None:
            started.append(self.args[:2])
            self.target(*self.args)

    monkeypatch.setattr("threading.Thread", Immediate)
    view = views.view(views.exporting())
    (pod,) = view.children.pods
    logs = waiting.Logs(FakeCluster(view, logs={pod["metadata"]["name"]: WHOLE[:3]}))
    logs.watch(view)
    logs.watch(view)
    assert len(started) == 1
    assert [run.stage for run in logs.runs.values()] == ["trace"]
