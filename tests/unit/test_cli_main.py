"""Commands that need no model: their answers, their errors, their exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from tests.unit import artifacts
from torchscript_operator import __version__
from torchscript_operator.artifact.failures import CLASSES, FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Manifest, Parity
from torchscript_operator.artifact.store import FolderStore, publish
from torchscript_operator.cli import locations
from torchscript_operator.cli.main import app

KEY, REFUSED = "abcdef12" + "0" * 56, "abcdef34" + "0" * 56
HEAVY = ("torch", "transformers", "boto3", "pydantic", "yaml", "rich", "cel_expr_python")


def tsm(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(app, list(arguments), **options)


def report_of(manifest: Manifest, *, published: bool) -> bytes:
    found = {
        "published": published,
        "samples": 3,
        "seconds": {"load": 1.25},
        "manifest": manifest.model_dump(by_alias=True),
    }
    return json.dumps(found).encode()


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts the tests may have a terminal of few columns, as pytest's workers have."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.mark.parametrize("port", ["70000", "-1"])
def test_port_that_there_is_none_of_is_one_message(port: str) -> None:
    result = tsm("dashboard", f"--port={port}")
    assert result.exit_code == 2
    assert "--port" in result.stderr


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One artifact, and the report of one export that was refused."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "store"
    monkeypatch.setenv("TSM_STORE", str(root))
    made = artifacts.manifest(artifacts.write_files(tmp_path / "files"), key=KEY)
    publish(FolderStore(root), made, tmp_path / "files")
    FolderStore(root).write_bytes(f"{KEY}/report.json", report_of(made, published=True))
    failed = Parity(
        verdict="Failed", tolerances=artifacts.TOLERANCES, outputs=(artifacts.figure(passed=False), artifacts.figure())
    )
    refused = made.model_copy(update={"key": REFUSED, "parity": failed})
    FolderStore(root).write_bytes(f"{REFUSED}/report.json", report_of(refused, published=False))
    return root


def test_help_names_every_exit_code() -> None:
    text = " ".join(tsm("--help").stdout.split())
    for reason, known in CLASSES.items():
        assert f"{known.exit_code} {reason.value}" in text


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from torchscript_operator.cli.main import app
try:
    app(["--help"])
except SystemExit:
    print("heavy:", *(name for name in {HEAVY!r} if name in sys.modules))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "heavy:"


def test_version() -> None:
    assert tsm("--version").stdout == f"tsm {__version__}\n"


def test_an_unknown_option_is_the_command_lines_fault() -> None:
    result = tsm("run", "x.yaml", "--traget", "x")
    assert result.exit_code == 2
    assert "--target" in result.stderr


@pytest.mark.parametrize("command", ["run", "export"])
def test_a_bad_file_is_explained_without_a_traceback(command: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("apiVersion: torchscript.dev/v1alpha1\nkind: TorchScriptModel\nmetadata: {name: x}\nspec: {}\n")
    result = tsm(command, str(file))
    assert result.exit_code == 2
    assert f"{file}:4: spec.source: is required: add it" in result.stderr
    assert f"{file}:4: spec.task: is required: add it" in result.stderr
    assert "Traceback" not in result.output


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    result = tsm("export", str(tmp_path / "missing.yaml"))
    assert result.exit_code == 2
    assert "No such file or directory" in result.stderr


def test_a_missing_source_folder_is_an_error(tmp_path: Path) -> None:
    result = tsm("export", "f.yaml", "--source", str(tmp_path / "missing"))
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_a_store_lists_its_artifacts(store: Path) -> None:
    lines = tsm("inspect", str(store)).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["key", KEY[:12], REFUSED[:12]]
    assert "Passed" in lines[1]
    assert "Failed" in lines[2]


def test_the_stores_variable_is_the_default(store: Path) -> None:
    assert tsm("inspect").stdout == tsm("inspect", str(store)).stdout


def test_a_list_for_programs(store: Path) -> None:
    found = json.loads(tsm("inspect", "-o", "json").stdout)
    assert found["uri"] == f"file://{store}"
    assert [(row["key"], row["published"], row["parity"]) for row in found["artifacts"]] == [
        (KEY, True, "Passed"),
        (REFUSED, False, "Failed"),
    ]


def test_an_unreadable_manifest_does_not_hide_the_others(store: Path) -> None:
    (store / KEY / "manifest.json").write_text("{}")
    found = json.loads(tsm("inspect", "-o", "json").stdout)["artifacts"]
    assert "cannot read" in found[0]["problem"]
    assert found[1]["parity"] == "Failed"


def test_the_default_store_may_be_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("TSM_STORE", raising=False)
    result = tsm("inspect")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"There is no artifact in {tmp_path}/torchscript-operator/artifacts.")


def test_an_artifact_is_shown_for_people(store: Path) -> None:
    text = tsm("inspect", str(store / KEY)).stdout
    assert str(store / KEY) in text
    assert "input_ids INT64 (batch dynamic, sequence 8)" in text
    assert "model.pt" in text


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_an_artifact_is_shown_for_programs(store: Path, form: str, read: Any) -> None:
    found = read(tsm("inspect", KEY[:8], "-o", form).stdout)
    assert found["manifest"] == json.loads((store / KEY / "manifest.json").read_text())
    assert (store / KEY / found["digest"].removeprefix("sha256:") / "manifest.json").exists()


@pytest.mark.usefixtures("store")
def test_a_refused_export_has_no_manifest_to_inspect() -> None:
    result = tsm("inspect", REFUSED)
    assert result.exit_code == 2
    assert "tsm report" in result.stderr


@pytest.mark.usefixtures("store")
def test_a_report_says_the_verdict_first() -> None:
    assert tsm("report", KEY).stdout.startswith("Parity Passed, published: BertModel, feature-extraction")


@pytest.mark.usefixtures("store")
def test_the_report_of_a_refused_export_shows_the_worst_first() -> None:
    lines = tsm("report", REFUSED).stdout.splitlines()
    assert lines[0].startswith("Parity Failed, not published")
    assert lines[3].split()[-1] == "Failed"
    assert lines[4].split()[-1] == "Passed"


def test_a_report_shows_its_answer_the_worst_texts_and_the_candidates(store: Path) -> None:
    found = json.loads((store / KEY / "report.json").read_text())
    found |= {
        "answer": "This may be rolled out.",
        "worstSamples": [{"output": "logits", "maximumAbsoluteDifference": "3e-5", "text": "A [red]cat[/red]"}],
    }
    candidate = {"precision": "bfloat16", "frozen": True, "verdict": "Passed", "textsPerSecond": "1234", "chosen": True}
    packed = {"precision": "float32", "frozen": False, "packed": True, "verdict": "Passed", "textsPerSecond": "567"}
    found["manifest"]["candidates"] = [candidate, packed]
    (store / KEY / "report.json").write_text(json.dumps(found))
    text = tsm("report", KEY).stdout
    assert "This may be rolled out." in text
    assert "A [red]cat[/red]" in text
    assert any(line.split()[:3] == ["✓", "bfloat16", "frozen"] and "1234" in line for line in text.splitlines())
    assert any(line.split()[:2] == ["float32", "packed"] and "567" in line for line in text.splitlines())


@pytest.mark.usefixtures("store")
def test_a_report_for_programs() -> None:
    assert json.loads(tsm("report", REFUSED, "-o", "json").stdout)["published"] is False


def test_a_report_is_opened_in_a_browser(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    assert tsm("report", KEY, "--open").exit_code == 0
    assert opened == [f"file://{store}/{KEY}/report.html"]


@pytest.mark.usefixtures("store")
def test_a_machine_without_a_browser_gets_the_pages_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webbrowser.open", lambda _url: False)
    result = tsm("report", KEY, "--open")
    assert result.exit_code == 1
    assert f"{KEY}/report.html" in result.stderr


def test_a_store_has_no_report(store: Path) -> None:
    result = tsm("report", str(store))
    assert result.exit_code == 2
    assert "report.json" in result.stderr


def test_a_store_cannot_be_verified(store: Path) -> None:
    result = tsm("verify", str(store))
    assert result.exit_code == 2
    assert "is no artifact" in result.stderr


def test_nothing_at_a_uri_has_the_exit_code_of_its_class(tmp_path: Path) -> None:
    result = tsm("verify", str(tmp_path / "missing"))
    assert result.exit_code == 88
    assert "Traceback" not in result.output


def test_a_stores_failure_keeps_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise WorkerError(FailureReason.STORE_ACCESS_DENIED, "Cannot list s3://bucket.")

    monkeypatch.setattr(locations, "find", denied)
    result = tsm("inspect", "s3://bucket")
    assert result.exit_code == 86
    assert "StoreAccessDenied: Cannot list s3://bucket." in result.stderr
    assert "Set AWS credentials" in result.stderr


def test_ctrl_c_has_the_shells_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(locations, "find", interrupted)
    assert tsm("inspect", "s3://bucket").exit_code == 130


@pytest.mark.usefixtures("store")
def test_piped_answers_have_no_colours() -> None:
    assert "\x1b" not in tsm("report", REFUSED).stdout


def test_completion_is_offered() -> None:
    assert "--install-completion" in tsm("--help").stdout
