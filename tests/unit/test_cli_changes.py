"""tsm history, rollback, retry, suspend and resume: what is listed, what is patched, and what is refused."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.unit import views, workers
from tests.unit.views import FakeCluster, connected
from tests.unit.world import START
from torchscript_operator.cli import changes, revisions
from torchscript_operator.cli.cluster import access
from torchscript_operator.cli.cluster.access import split_name
from torchscript_operator.cli.cluster.read import ModelView
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.formats import Format
from torchscript_operator.cli.main import app

A, B = workers.digest_of("a"), workers.digest_of("b")


def pinned() -> ModelView:
    return views.view(views.pinned())


def twice_served() -> ModelView:
    world = views.serving()
    world.edit(source=views.OTHER)
    world.serves("b")
    return views.view(world)


def notes(view: ModelView) -> dict[str, tuple[str, ...]]:
    return {found.entry.artifact.digest[-1]: found.notes for found in revisions.of_model(view)}


def test_history_says_what_is_served_and_what_is_newest() -> None:
    assert notes(twice_served()) == {"b": ("newest", "serving"), "a": ()}


def test_history_says_what_is_pinned() -> None:
    assert notes(pinned()) == {"b": ("newest",), "a": ("serving", "pinned")}


def test_history_says_what_failed() -> None:
    assert notes(views.view(views.rolled_back())) == {"b": ("newest", "failed"), "a": ("serving",)}


def test_history_is_shown_and_counts_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    revisions.show(twice_served(), None, Format.TABLE, START, Console(file=stream, width=200))
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["artifact", B[:19], A[:19]]
    revisions.show(twice_served(), None, Format.JSON, START, Console(file=stream))
    found = json.loads(capsys.readouterr().out)["revisions"]
    assert [(row["artifact"]["digest"], row["servable"]) for row in found] == [(B, True), (A, True)]


def test_history_of_nothing_says_so() -> None:
    stream = io.StringIO()
    revisions.show(views.view(views.new()), None, Format.TABLE, START, Console(file=stream, width=200))
    assert "No artifact of minilm has been proven yet." in stream.getvalue()


@pytest.mark.parametrize(("wanted", "expected"), [(None, A), ("sha256:aa", A), ("bbbb", B)])
def test_rollback_finds_what_is_meant(wanted: str | None, expected: str) -> None:
    assert revisions.chosen(twice_served(), wanted, None).entry.artifact.digest == expected


@pytest.mark.parametrize(("wanted", "target"), [("ffff", None), (None, "missing")])
def test_rollback_to_what_is_not_there_is_refused(wanted: str | None, target: str | None) -> None:
    with pytest.raises(CliError):
        revisions.chosen(twice_served(), wanted, target)


def test_rollback_without_an_earlier_artifact_is_refused() -> None:
    with pytest.raises(CliError, match="no earlier artifact"):
        revisions.chosen(views.view(views.serving()), None, None)


def test_rollback_further_back_than_what_is_served() -> None:
    with pytest.raises(CliError, match="no earlier artifact"):
        revisions.chosen(pinned(), None, None)


def test_artifact_that_failed_parity_is_not_gone_back_to() -> None:
    view = twice_served()
    (status,) = view.model.status.targets
    failed = status.history[0].model_copy(update={"verdict": "Failed"})
    body = {**view.body, "status": {**view.body["status"]}}
    body["status"]["targets"] = [
        status.model_copy(update={"history": (failed,)}).model_dump(mode="json", by_alias=True, exclude_none=True)
    ]
    with pytest.raises(CliError, match="failed its parity"):
        revisions.chosen(changes.parse(body), A, None)


# The commands.


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    found = FakeCluster(twice_served())
    monkeypatch.setattr(access, "connect", lambda _options: connected(found))
    return found


def tsm(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_rollback_sets_the_annotation(cluster: FakeCluster) -> None:
    result = tsm("rollback", "tsm/minilm")
    assert result.exit_code == 0, result.output
    assert cluster.patches == [{"metadata": {"annotations": {"torchscript.dev/rollback-to": A}}}]
    assert "--undo" in result.stdout


def test_undo_takes_the_annotation_away(cluster: FakeCluster) -> None:
    cluster.views = [pinned()]
    assert tsm("rollback", "minilm", "--undo").exit_code == 0
    assert cluster.patches == [{"metadata": {"annotations": {"torchscript.dev/rollback-to": None}}}]


def test_undo_of_nothing_changes_nothing(cluster: FakeCluster) -> None:
    result = tsm("rollback", "minilm", "--undo")
    assert result.exit_code == 1
    assert cluster.patches == []


def test_undo_with_an_artifact_is_a_contradiction(cluster: FakeCluster) -> None:
    assert tsm("rollback", "minilm", "aaaa", "--undo").exit_code == 2
    assert cluster.patches == []


def test_retry_of_what_has_not_failed_is_refused_unless_forced(cluster: FakeCluster) -> None:
    assert tsm("retry", "minilm").exit_code == 1
    assert cluster.patches == []
    assert tsm("retry", "minilm", "--force").exit_code == 0
    assert list(cluster.patches[0]["metadata"]["annotations"]) == ["torchscript.dev/retry"]


def test_retry_of_what_has_failed(cluster: FakeCluster) -> None:
    cluster.views = [views.view(views.parity_failed())]
    result = tsm("retry", "minilm")
    assert result.exit_code == 0, result.output
    assert len(cluster.patches) == 1


def test_retry_that_follows_at_once_is_another(cluster: FakeCluster) -> None:
    for _ in range(2):
        assert tsm("retry", "minilm", "--force").exit_code == 0
    first, second = (patch["metadata"]["annotations"]["torchscript.dev/retry"] for patch in cluster.patches)
    assert first != second


def test_retry_of_a_suspended_model_says_that_nothing_starts(cluster: FakeCluster) -> None:
    cluster.views = [views.view(views.suspended())]
    assert "tsm resume minilm" in tsm("retry", "minilm", "--force").stdout


@pytest.mark.parametrize(("command", "wanted"), [("suspend", True), ("resume", False)])
def test_suspend_and_resume_patch_the_spec(cluster: FakeCluster, command: str, wanted: bool) -> None:
    cluster.views = [views.view(views.suspended() if command == "resume" else views.serving())]
    assert tsm(command, "minilm").exit_code == 0
    assert cluster.patches == [{"spec": {"suspend": wanted}}]


@pytest.mark.parametrize("command", ["suspend", "resume"])
def test_saying_it_twice_changes_nothing(cluster: FakeCluster, command: str) -> None:
    cluster.views = [views.view(views.serving() if command == "resume" else views.suspended())]
    assert tsm(command, "minilm").exit_code == 0
    assert cluster.patches == []


def test_who_keeps_a_model_in_a_repository_is_told(cluster: FakeCluster) -> None:
    entry = {"manager": "kustomize-controller", "fieldsV1": {"f:spec": {"f:task": {}}}}
    cluster.views[0].body["metadata"]["managedFields"] = [entry]
    assert "Flux keeps this model" in tsm("suspend", "minilm").stdout


@pytest.mark.usefixtures("cluster")
def test_model_that_is_not_there_is_one_line() -> None:
    result = tsm("history", "missing")
    assert result.exit_code == 1
    assert "There is no model missing in the namespace ml of test." in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "text", ["minilm", "tsm/minilm", "torchscriptmodels/minilm", "torchscriptmodel.torchscript.dev/minilm"]
)
def test_names_are_read_as_kubectl_writes_them(text: str) -> None:
    assert split_name(text) == "minilm"


def test_name_of_another_kind_is_refused() -> None:
    with pytest.raises(CliError, match="is no model"):
        split_name("deployment/minilm")


@pytest.mark.parametrize("text", ["", "tsm/", "a b", "a?limit=1", "Minilm", "..", "a/b"])
def test_what_is_no_name_asks_no_cluster(text: str) -> None:
    with pytest.raises(CliError, match="is no model"):
        split_name(text)
