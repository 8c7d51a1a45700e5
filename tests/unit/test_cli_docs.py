"""docs/cli.md and the command line say the same; looking costs no torch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.unit import views
from tests.unit.test_cli_access import kubeconfig, serving
from torchscript_operator.artifact.failures import CLASSES
from torchscript_operator.cli import plan_show, waiting
from torchscript_operator.cli.main import app

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
ROOT = typer.main.get_command(app)
COMMANDS: dict[str, set[str]] = {
    name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for name, command in ROOT.commands.items()  # type: ignore[attr-defined]
}
COMMON = {"--help", "-h", "--version", "--install-completion", "--show-completion"}
CALLS = re.findall(r"(?:kubectl )?tsm ([a-z]+)((?:[^\S\n]+[^\s`|;&)]+)*)", TEXT)
"""Every call in the page: a command, and the words behind it."""
WITH_CLUSTER = (
    "status",
    "wait",
    "logs",
    "report",
    "history",
    "retry",
    "rollback",
    "suspend",
    "resume",
    "plan",
    "doctor",
    "dashboard",
)
HEAVY = ("torch", "transformers", "boto3", "kopf", "huggingface_hub", "cel_expr_python", "aiohttp", "numpy")


def section(command: str) -> str:
    """What the page says of one command."""
    found = re.search(rf"^### `tsm {command}\b.*?(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_section_with_each_of_its_options(command: str) -> None:
    told = section(command)
    assert told, f"docs/cli.md has no section of {command}"
    shared = {"--context", "--kubeconfig", "--namespace", "-n", "--all-namespaces", "-A", "--output", "-o"}
    long = {option for option in COMMANDS[command] - shared - COMMON if option.startswith("--")}
    assert {option for option in long if f"`{option}" not in told} == set()


def test_every_call_in_the_page_is_one_of_the_command_line() -> None:
    assert CALLS
    assert {command for command, _ in CALLS} <= set(COMMANDS)
    for command, words in CALLS:
        options = {word.partition("=")[0] for word in words.split() if word.startswith("-") and word != "-"}
        assert options <= COMMANDS[command] | COMMON, f"tsm {command}{words}"


def test_every_option_in_the_page_is_one_of_the_command_line() -> None:
    known = set().union(*COMMANDS.values()) | COMMON
    assert {option for option in re.findall(r"`(--[a-z-]+)", TEXT) if option not in known} == set()


def test_exit_codes_are_told() -> None:
    table = TEXT[TEXT.index("## Exit codes") :]
    for code in (plan_show.NOTHING, plan_show.INVALID, plan_show.CHANGES, waiting.STALLED_EXIT, waiting.TIMEOUT_EXIT):
        assert f"`{code}`" in table
    codes = {known.exit_code for known in CLASSES.values()}
    assert {min(codes), max(codes - {137}), 137} <= {int(code) for code in re.findall(r"\d+", table)}


@pytest.mark.parametrize("command", WITH_CLUSTER)
def test_help_of_each_command_with_a_cluster_states_the_rights_it_needs(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert "Rights" in shown.stdout
    assert "--context" in shown.stdout


def test_looking_at_a_cluster_imports_nothing_heavy(tmp_path: Path) -> None:
    view, _ = views.recorded("serving")
    path = "/apis/torchscript.dev/v1alpha1/namespaces/ml/torchscriptmodels"

    def answer(asked: str) -> tuple[int, bytes]:
        if asked == f"{path}/minilm":
            return 200, json.dumps(view.body).encode()
        items = [view.body] if asked.startswith(path) else []
        return 200, json.dumps({"kind": "XList", "metadata": {}, "items": items}).encode()

    code = f"""
import sys
from torchscript_operator.cli.main import app
for command in (["status"], ["status", "minilm"], ["history", "minilm"]):
    try:
        app(command)
    except SystemExit as end:
        assert not end.code, end.code
print("heavy:", *(name for name in {HEAVY!r} if name in sys.modules))
"""
    with serving(answer) as server:
        environment = {**os.environ, "KUBECONFIG": kubeconfig(tmp_path, server.port)}
        command = [sys.executable, "-c", code]
        found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "heavy:"
    assert "minilm-cpu" in found.stdout


def test_no_colour_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = views.FakeCluster(views.view(views.parity_failed()))
    monkeypatch.setattr("torchscript_operator.cli.cluster.access.connect", lambda _options: views.connected(cluster))
    shown = CliRunner().invoke(app, ["status", "minilm"])
    assert shown.exit_code == 0, shown.output
    assert "\x1b" not in shown.output


def test_a_line_of_a_table_stays_a_line_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    world = views.new()
    world.edit(source={"s3": {"uri": f"s3://models/{'folder/' * 30}"}})
    cluster = views.FakeCluster(views.view(world))
    monkeypatch.setattr("torchscript_operator.cli.cluster.access.connect", lambda _options: views.connected(cluster))
    monkeypatch.delenv("COLUMNS", raising=False)
    shown = CliRunner().invoke(app, ["status", "-o", "wide"])
    assert shown.exit_code == 0, shown.output
    header, *rows = shown.stdout.splitlines()
    assert (header.split()[0], len(rows)) == ("name", 1)
    assert len(rows[0]) > 250


def test_no_page_is_opened_for_a_model_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = views.FakeCluster(views.view(views.new()))
    monkeypatch.setattr("torchscript_operator.cli.cluster.access.connect", lambda _options: views.connected(cluster))
    shown = CliRunner().invoke(app, ["dashboard", "other", "--no-open"])
    assert (shown.exit_code, "There is no model other" in shown.stderr) == (1, True), shown.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "No repository is named"), (["s3://models/minilm", "--file", "-"], "What the model is for is said nowhere")],
)
def test_init_asks_nobody_where_there_is_no_terminal(arguments: list[str], said: str) -> None:
    shown = CliRunner().invoke(app, ["init", *arguments])
    assert (shown.exit_code, said in shown.stderr) == (2, True), shown.output


def complete(line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the shell is given for a command line."""
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: "bash", raising=False)
    variables = {"_TSM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    return CliRunner().invoke(app, [], env=variables, prog_name="tsm").stdout.split()


def test_shell_completes_names_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = views.FakeCluster(views.view(views.new()))
    monkeypatch.setattr("torchscript_operator.cli.cluster.access.connect", lambda _options: views.connected(cluster))
    assert complete("tsm status min", monkeypatch) == ["minilm"]
    assert complete("tsm rollback other", monkeypatch) == []
    assert complete("tsm roll", monkeypatch) == ["rollback"]


def test_completion_is_silent_where_there_is_no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    assert complete("tsm status min", monkeypatch) == []


def test_no_colour_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchscript_operator.cli import output

    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert output.console().no_color
