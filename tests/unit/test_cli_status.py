"""tsm status of models in every state, as text and for programs."""

import io
import json
import os
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from tests.unit import views
from tests.unit.views import FakeCluster, connected
from tests.unit.world import SETTINGS, START, World, spec
from torchscript_operator.cli import failures, status
from torchscript_operator.cli.ages import age, duration, seconds_of
from torchscript_operator.cli.cluster import access
from torchscript_operator.cli.cluster.read import ModelView, Reading, parse, read
from torchscript_operator.cli.formats import View
from torchscript_operator.cli.main import app

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "cli"
EXPECTED_STATES = {
    "new": "Waiting",
    "exporting": "Working",
    "unschedulable": "Working",
    "serving": "Ready",
    "rolling": "Updating",
    "updating": "Updating",
    "parity_failed": "Failed",
    "degraded": "Degraded",
    "rolled_back": "Degraded",
    "pinned": "Ready",
    "suspended": "Suspended",
    "out_of_memory": "Failed",
    "two_targets": "Working",
    "deleting": "Deleting",
}


def shown(view: ModelView, form: View = View.TABLE, now: datetime = START) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=200, highlight=False, soft_wrap=True)
    status.show(view, form, now, console)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def listed(reading: Reading, form: View = View.TABLE, namespace: str | None = "ml") -> str:
    stream = io.StringIO()
    status.show_list(reading, form, START, Console(file=stream, width=250, highlight=False), namespace)
    return stream.getvalue()


def check(path: Path, text: str) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, f"{path} changed; if that is meant, run with UPDATE_GOLDEN=1"


@pytest.mark.parametrize("name", views.STATES)
def test_each_state_is_shown_as_recorded(name: str) -> None:
    view, now = views.recorded(name)
    check(GOLDEN / "status" / f"{name}.txt", shown(view, now=now))


@pytest.mark.parametrize("name", views.STATES)
def test_each_state_has_its_word(name: str) -> None:
    assert views.view(views.STATES[name]()).state == EXPECTED_STATES[name]


def test_table_of_all_states_is_shown_as_recorded() -> None:
    reading = Reading(tuple(views.recorded(name)[0] for name in views.STATES))
    check(GOLDEN / "status" / "table.txt", "\n".join(line.rstrip() for line in listed(reading).splitlines()) + "\n")


@pytest.mark.parametrize("name", ["parity_failed", "out_of_memory", "degraded", "rolled_back", "unschedulable"])
def test_every_failure_has_a_next_step(name: str) -> None:
    found = failures.of_model(views.view(views.STATES[name]()))
    assert all(trouble.step for trouble in found)
    assert bool(found) == (name != "unschedulable")


def test_next_step_is_not_said_twice() -> None:
    (trouble,) = failures.of_model(views.view(views.parity_failed()))
    assert trouble.message == "last_hidden_state differs by 0.3 at b1-s128."
    assert "tsm report minilm -n ml" in trouble.step


def test_end_of_a_log_is_shown_on_wish_and_is_no_markup() -> None:
    view = views.view(views.out_of_memory())
    assert "line one" not in shown(view)
    assert "[bold]line one[/bold]" in shown(view, View.WIDE)


@pytest.mark.parametrize(
    ("namespaces", "said"), [((), "removes the artifacts that no other model refers to"), (("ml",), "artifacts stay")]
)
def test_what_becomes_of_artifacts_is_shown_before_a_deletion(namespaces: tuple[str, ...], said: str) -> None:
    artifact = {"uri": "s3://artifacts/models", "deletionPolicy": "Delete"}
    world = World(spec(artifact=artifact), SETTINGS.model_copy(update={"watch_namespaces": namespaces}))
    world.settle()
    assert said in shown(views.view(world))
    assert "deletion" not in shown(views.view(views.serving()))


def test_names_can_be_given_to_kubectl() -> None:
    assert listed(Reading((views.view(views.new()),)), View.NAME) == "torchscriptmodel.torchscript.dev/minilm\n"


def test_all_namespaces_have_a_column() -> None:
    reading = Reading((views.view(views.new()),))
    assert "namespace" in listed(reading, namespace=None)
    assert "namespace" not in listed(reading)


def test_wide_table_has_the_source_and_the_artifact() -> None:
    text = listed(Reading((views.view(views.serving()),)), View.WIDE)
    assert "s3://models/minilm" in text
    assert "a" * 12 in text


def test_no_model_says_how_to_begin() -> None:
    assert "tsm init" in listed(Reading(()))


def test_model_for_programs_has_its_failures_and_next_steps(capsys: pytest.CaptureFixture[str]) -> None:
    shown(views.view(views.parity_failed()), View.JSON)
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "Failed"
    assert found["failures"][0]["exitCode"] == 84
    assert found["failures"][0]["nextStep"]
    assert found["targets"][0]["lastFailure"]["reason"] == "ParityFailed"


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_one_name_in_all_namespaces_is_one_document_with_a_list(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = views.view(views.serving())
    other = parse({**one.body, "metadata": {**one.body["metadata"], "namespace": "other"}})
    for cluster, namespaces in ((FakeCluster(one, other, namespace=None), ["ml", "other"]), (FakeCluster(one), ["ml"])):
        cluster.namespace = None
        monkeypatch.setattr(access, "connect", lambda _options, cluster=cluster: connected(cluster))
        result = CliRunner().invoke(app, ["status", "minilm", "-A", "-o", form])
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout) if form == "json" else yaml.safe_load(result.stdout)
        assert [each["namespace"] for each in found["models"]] == namespaces


def test_children_are_given_to_their_own_model() -> None:
    one, two = views.view(views.serving()), views.view(views.serving())
    other = parse({**two.body, "metadata": {**two.body["metadata"], "namespace": "other"}})
    reading = read(FakeCluster(one, other, namespace=None), depth="events")
    assert [len(found.children.deployments) for found in reading.models] == [1, 0]
    assert [len(found.events) for found in reading.models] == [1, 0]


def test_what_may_not_be_read_is_told_and_hides_nothing_else() -> None:
    cluster = FakeCluster(views.view(views.serving()))
    cluster.forbidden = {"pods"}
    reading = read(cluster, "minilm", "children")
    assert reading.models[0].children.deployments
    assert [words for words in reading.missing if "pods" in words]


def test_spec_of_another_release_is_shown_all_the_same() -> None:
    world = views.serving()
    world.body["spec"]["fromTheFuture"] = True
    body = {**world.body, "metadata": {**world.body["metadata"], "creationTimestamp": None}}
    view = parse(body)
    assert view.unreadable is not None
    assert view.is_readable
    assert "does not read all of the spec: fromTheFuture" in shown(view)
    assert "s3://models/minilm" in shown(view)


def test_spec_that_this_release_takes_for_wrong_is_not_guessed_at() -> None:
    world = views.serving()
    world.body["spec"]["task"] = "from-the-future"
    view = parse({**world.body, "metadata": {**world.body["metadata"], "creationTimestamp": None}})
    assert not view.is_readable
    assert "unreadable" not in shown(view)


def test_time_that_stands_for_never_has_no_age() -> None:
    assert age("1970-01-01T00:00:00Z", START) == "-"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-3, "0s"),
        (46, "46s"),
        (119, "119s"),
        (192, "3m12s"),
        (600, "10m"),
        (1500, "25m"),
        (18_180, "5h3m"),
        (43_200, "12h"),
        (187_200, "2d4h"),
        (2_592_000, "30d"),
    ],
)
def test_lengths_of_time(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_age_of_nothing_is_a_hyphen() -> None:
    assert age(None, START) == "-"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172800), ("", None), ("x", None)],
)
def test_lengths_of_time_are_read(text: str, expected: float | None) -> None:
    assert seconds_of(text) == expected
