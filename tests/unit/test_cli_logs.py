"""tsm logs: whose log is shown, and how its lines look."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.unit import views
from tests.unit.views import FakeCluster, connected
from torchscript_operator.cli import pod_logs
from torchscript_operator.cli.cluster import access
from torchscript_operator.cli.cluster.read import ModelView
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.main import app
from torchscript_operator.cli.pod_logs import Wish, choose
from torchscript_operator.controller.observed import label

LINE = json.dumps(
    {
        "time": "2026-01-01T00:00:01.250Z",
        "level": "info",
        "message": "Compiling [b]",
        "stage": "trace",
        "logger": "x",
        "key": "abc",
    }
)


def components(view: ModelView, **wish: Any) -> list[str | None]:
    return [label(pod, "torchscript.dev/component") for pod in choose(view, Wish(**wish)).pods]


def test_running_job_comes_first() -> None:
    assert components(views.view(views.updating())) == ["serving"]
    world = views.updating()
    world.pod_of(world.running(), {"phase": "Running"})
    assert components(views.view(world)) == ["export"]


def test_failed_job_comes_before_what_serves() -> None:
    choice = choose(views.view(views.degraded()), Wish())
    assert "has failed" in choice.why
    assert len(choice.pods) == 1


def test_pods_that_serve_come_before_old_jobs() -> None:
    assert components(views.view(views.serving())) == ["serving"]


def test_old_job_can_be_asked_for() -> None:
    assert components(views.view(views.serving()), component="export") == ["export"]


def test_unknown_target_is_refused() -> None:
    with pytest.raises(CliError, match="no target 'two'"):
        choose(views.view(views.serving()), Wish(target="two"))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    view = views.view(views.serving())
    found = FakeCluster(view, logs={pod["metadata"]["name"]: [LINE, "plain [text]"] for pod in view.children.pods})
    monkeypatch.setattr(access, "connect", lambda _options: connected(found))
    return found


def tsm(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["logs", "minilm", *arguments])


def test_lines_are_told_for_people(cluster: FakeCluster) -> None:
    result = tsm()
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["00:00:01.250  trace      Compiling [b]  key=abc", "plain [text]"]
    assert "pods that serve" in result.stderr
    assert cluster.log_options == [{"follow": None, "previous": None, "tailLines": None, "sinceSeconds": None}]


@pytest.mark.usefixtures("cluster")
def test_raw_lines_are_the_containers_own() -> None:
    assert tsm("--raw").stdout.splitlines() == [LINE, "plain [text]"]


def test_options_reach_the_api_server(cluster: FakeCluster) -> None:
    assert tsm("-f", "-p", "--tail", "3", "--since", "2m").exit_code == 0
    assert cluster.log_options == [{"follow": True, "previous": True, "tailLines": 3, "sinceSeconds": 120}]


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--component", "x"], "component"), (["--since", "x"], "length of time")]
)
@pytest.mark.usefixtures("cluster")
def test_wrong_options_are_refused(arguments: list[str], words: str) -> None:
    result = tsm(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_no_pod_says_why(cluster: FakeCluster) -> None:
    cluster.views = [views.view(views.suspended())]
    result = tsm()
    assert result.exit_code == 1
    assert "has no pod to read a log of" in result.stderr


def test_previous_log_that_is_not_there_is_explained(cluster: FakeCluster) -> None:
    cluster.logs = {}
    result = tsm("--previous")
    assert result.exit_code == 1
    assert "has not been restarted" in result.stderr


def test_container_that_has_not_started_is_explained(cluster: FakeCluster) -> None:
    cluster.views, cluster.logs = [views.view(views.unschedulable())], {}
    result = tsm()
    assert result.exit_code == 1
    assert "has not started" in result.stderr


def test_several_pods_are_told_apart_and_followed_together(cluster: FakeCluster) -> None:
    world = views.serving()
    world._pod(
        world.deployments["minilm-cpu"],
        world.deployments["minilm-cpu"]["spec"]["template"],
        {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    )
    view = views.view(world)
    cluster.views = [view]
    names = [pod["metadata"]["name"] for pod in view.pods(serving=True)]
    cluster.logs = {name: [f"from {name}"] for name in names}
    assert sorted(tsm("-f").stdout.splitlines()) == sorted(f"{name}  from {name}" for name in names)


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        ({"succeeded": True, "artifact": {"uri": "s3://models/key"}}, "[dim]s3://models/key[/]"),
        ({"succeeded": True, "pending": {"uri": "s3://models/key"}}, "[dim]s3://models/key[/]"),
        ({"failure": {"reason": "ShapeTooLong", "message": "512 at most."}}, "[bold red]ShapeTooLong: 512 at most.[/]"),
    ],
)
def test_end_of_an_export_says_what_it_came_to(outcome: dict[str, Any], shown: str) -> None:
    line = {"time": "2026-11-27T06:19:12.272Z", "level": "info", "message": "The export has ended", "outcome": outcome}
    assert pod_logs.pretty(json.dumps(line)) == f"[dim]06:19:12.272[/]  The export has ended  {shown}"


def test_errors_and_traces_stand_out() -> None:
    text = pod_logs.pretty(json.dumps({"level": "error", "message": "No.", "exception": "Trace\nback"}))
    assert "[bold red]No.[/]" in text
    assert "Trace\nback" in text
