"""tsm report NAME: where the report of a model lies, and what is shown where it cannot be reached."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.unit import artifacts, views, workers
from tests.unit.test_cli_main import report_of
from tests.unit.views import FakeCluster, connected
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import StoreLocation
from torchscript_operator.artifact.store import Credentials, FolderStore
from torchscript_operator.cli import locations, reports
from torchscript_operator.cli.cluster import access, progress
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.locations import Place
from torchscript_operator.cli.main import app
from torchscript_operator.cli.reports import Wish


def test_report_of_what_is_served_is_its_artifacts() -> None:
    found = reports.find(views.view(views.serving()), Wish())
    assert (found.uri, found.refused) == (f"s3://artifacts/models/{'a' * 64}", False)


def test_report_of_a_refused_attempt_is_read_from_its_pod() -> None:
    found = reports.find(views.view(views.parity_failed()), Wish())
    assert (found.uri, found.refused) == (f"s3://artifacts/models/{'c' * 64}", True)


def test_report_before_any_is_there_says_so() -> None:
    with pytest.raises(CliError, match="no parity report yet"):
        reports.find(views.view(views.exporting()), Wish())
    with pytest.raises(CliError, match="no target 'x'"):
        reports.find(views.view(views.serving()), Wish(target="x"))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    found = FakeCluster(views.view(views.serving()))
    monkeypatch.setattr(access, "connect", lambda _options: connected(found))
    return found


def tsm(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["report", *arguments])


@pytest.mark.usefixtures("cluster")
def test_report_is_read_from_the_models_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    manifest = artifacts.manifest(artifacts.write_files(tmp_path / "files"), key="a" * 64)
    store = FolderStore(tmp_path / "store")
    store.write_bytes("report.json", report_of(manifest, published=True))
    asked: list[tuple[StoreLocation, Credentials | None]] = []

    def look(where: StoreLocation, credentials: Credentials | None = None) -> Place:
        asked.append((where, credentials))
        return Place(where, store, None, has_report=True)

    monkeypatch.setattr(locations, "look", look)
    result = tsm("minilm", "--endpoint", "http://localhost:9")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Parity Passed, published")
    assert asked == [(StoreLocation(uri=f"s3://artifacts/models/{'a' * 64}", endpoint="http://localhost:9"), None)]


@pytest.fixture
def no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise WorkerError(FailureReason.STORE_ACCESS_DENIED, "Cannot read.")

    monkeypatch.setattr(locations, "look", denied)


@pytest.mark.usefixtures("cluster", "no_store")
def test_figures_of_the_status_stand_in_for_a_store_that_says_no() -> None:
    result = tsm("minilm")
    assert result.exit_code == 0, result.output
    assert "Parity Passed: minilm, target cpu" in result.stdout
    assert "4.77e-07" in result.stdout
    assert "--secret" in result.stderr


@pytest.mark.usefixtures("cluster", "no_store")
@pytest.mark.parametrize("option", ["--open", "-ojson"])
def test_nothing_stands_in_for_the_whole_report(option: str) -> None:
    assert tsm("minilm", option).exit_code == 86


def with_secret(cluster: FakeCluster) -> None:
    view = cluster.views[0]
    view.body["status"]["targets"][0]["artifact"]["store"]["credentialsSecret"] = "s3"
    cluster.views = [views.ModelView(view.body, access_parse(view.body), children=view.children)]


def access_parse(body: dict[str, Any]) -> Any:
    return views.parse(body).model


def test_secret_of_the_pods_is_read_on_wish_alone(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with_secret(cluster)
    data = {key: base64.b64encode(b"value").decode() for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    cluster.add("v1", "secrets", {"metadata": {"name": "s3"}, "data": data})
    seen: list[Credentials | None] = []

    def look(_where: StoreLocation, credentials: Credentials | None = None) -> Place:
        seen.append(credentials)
        raise WorkerError(FailureReason.STORE_UNREACHABLE, "No route.")

    monkeypatch.setattr(locations, "look", look)
    assert "value" not in tsm("minilm").output
    assert "value" not in tsm("minilm", "--secret").output
    assert seen[0] is None
    assert seen[1] is not None
    assert seen[1].access_key_id == "value"


@pytest.mark.parametrize("named", [True, False])
def test_secret_that_is_not_there_is_told(cluster: FakeCluster, named: bool) -> None:
    if named:
        with_secret(cluster)
    result = tsm("minilm", "--secret", "--open")
    assert result.exit_code == 1
    assert ("no Secret s3" if named else "use no Secret") in result.stderr


def test_report_on_a_volume_is_told_where_it_lies(cluster: FakeCluster) -> None:
    view = cluster.views[0]
    view.body["status"]["targets"][0]["parity"]["report"] = "file:///mnt/artifacts/x/report.html"
    view.body["status"]["targets"][0]["artifact"]["store"]["claimName"] = "artifacts"
    cluster.views = [views.ModelView(view.body, access_parse(view.body), children=view.children)]
    result = tsm("minilm")
    assert result.exit_code == 0, result.output
    assert "the volume artifacts" in result.stderr
    assert "4.77e-07" in result.stdout


@pytest.mark.parametrize(
    ("text", "is_model"),
    [
        ("minilm", True),
        ("tsm/abcdef12", True),
        ("torchscriptmodel/minilm", True),
        ("s3://bucket/x", False),
        ("abcdef12", False),
        ("./minilm", False),
    ],
)
def test_models_and_places_are_told_apart(text: str, is_model: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "find", lambda *_: "a place")
    assert (locations.meant(text, None, None, None) is None) == is_model


def test_folder_of_that_name_is_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()
    assert locations.meant("minilm", None, None, None) is not None


def test_reports_of_pods_are_those_of_the_worker() -> None:
    view = views.view(views.parity_failed())
    (outcome,) = progress.outcomes(view.job_pods(view.model.status.targets[0].job or ""))
    assert json.loads(outcome.to_json())["failure"]["reason"] == "ParityFailed"
    assert workers.parsed(outcome.to_json())["parity"]["verdict"] == "Failed"
