"""Every command of README.md and docs/: run where that is cheap, else read by the program's own parser."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import typer
import yaml

from tests.cluster import paths
from tests.golden.chart import rendering
from tests.unit import pages
from tests.unit.pages import ROOT, Command
from torchscript_operator.cli import documents, rules, validation
from torchscript_operator.cli.main import app
from torchscript_operator.serve.http import ROUTES
from torchscript_operator.serve.openai import EmbeddingRequest
from torchscript_operator.serve.predict import PredictRequest

if TYPE_CHECKING:
    from pathlib import Path

TSM = typer.main.get_command(app)
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", MAKEFILE, re.MULTILINE))
EXAMPLES = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / "examples").glob("*.yaml")}
MODELS = {body["metadata"]["name"] for body in EXAMPLES.values()}
PLACEHOLDER = re.compile(r"[A-Z]+")
FOLDERS = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
"""What a path of the repository begins with."""
WITH_MODEL = ("status", "wait", "logs", "history", "retry", "rollback", "suspend", "resume")
"""Commands of tsm that begin with a model's name."""
CHECKED = ("tsm", "kubectl", "helm", "make", "curl", "pip", "docker")
"""Programs whose commands the tests below check."""
BYSTANDERS = ("jq", "tail", "git")
"""Programs that only hand on or show what others print."""
ELSEWHERE = {
    (
        "kustomize",
        "build",
    ): "tests/unit/test_kustomize.py::test_overlay_is_a_valid_model_of_a_pinned_commit_image_and_samples",
    ("make", "demo"): "tests/e2e/test_path.py::test_applied_model_is_proven_and_answers_what_transformers_computes",
    ("helm", "test"): "tests/e2e/test_chart.py::test_helm_test_applies_a_model_asks_it_and_leaves_nothing",
    ("helm", "uninstall"): "tests/integration/test_deletion_policy.py::test_released_model_goes_without_an_operator",
    ("kubectl", "apply"): "tests/integration/test_crd.py::test_example_is_taken",
    ("kubectl", "wait"): "tests/integration/test_waiting.py::test_kubectl_waits_until_a_model_is_ready",
    ("kubectl", "explain"): "tests/integration/test_crd.py::test_kubectl_explains_a_field",
    ("kubectl", "tsm"): "tests/integration/test_cli_cluster.py::test_kubectl_finds_the_plugin",
    ("tsm", "status"): "tests/integration/test_cli_cluster.py::test_status_follows_a_model_from_nothing_to_ready",
    ("tsm", "wait"): "tests/integration/test_cli_cluster.py::test_wait_ends_when_the_present_spec_answers",
    ("tsm", "rollback"): "tests/integration/test_cli_cluster.py::test_rollback_and_its_undo",
    ("tsm", "doctor"): "tests/integration/test_cli_cluster.py::test_doctor_says_what_is_missing_around_the_models",
    ("tsm", "run"): "tests/contract/test_cli.py::test_run_serves_what_eager_computes_and_ends_with_ctrl_c",
    ("tsm", "verify"): "tests/contract/test_cli.py::test_verify_shows_the_replay",
}
"""Commands that need more than a unit test has, and the test that shows what they do."""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One of the built programs; a FileNotFoundError says how to build it."""
    command = [str(paths.binary(program)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)


def value_of(command: Command, *options: str) -> str | None:
    """What an option is given, in either spelling."""
    for index, word in enumerate(command.words):
        name, found, value = word.partition("=")
        if name in options:
            return value if found else command.words[index + 1]
    return None


def test_no_program_is_left_unchecked() -> None:
    unknown = [
        command
        for command in pages.COMMANDS
        if command.words[0] not in (*CHECKED, *BYSTANDERS) and command.words[:2] not in ELSEWHERE
    ]
    assert unknown == []


@pytest.mark.parametrize("words", ELSEWHERE, ids=" ".join)
def test_commands_that_are_shown_elsewhere_are_in_the_pages_and_their_test_exists(words: tuple[str, ...]) -> None:
    file, _, name = ELSEWHERE[words].partition("::")
    assert pages.of(*words)
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_files_that_commands_name_are_there() -> None:
    words = {word.partition("=")[2] or word for command in pages.COMMANDS for word in command.words}
    # What docs/cli.md plays through lies in a repository of the reader's own, and begins otherwise.
    named = {word for word in words if word.startswith(FOLDERS)}
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("command", [*pages.of("tsm"), *pages.of("kubectl", "tsm")], ids=str)
def test_tsm_takes_the_command(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    name, *arguments = command.words[1:] if command.words[0] == "tsm" else command.words[2:] or ("--help",)
    if name.startswith("--"):
        assert name in {"--help", "--install-completion"}
        return
    asked = TSM.commands[name]  # type: ignore[attr-defined]
    # In a sentence a command stands for itself, without what it needs.
    if arguments:
        asked.make_context(name, arguments)


WITH_FLAGS = {
    frozenset(
        word.partition("=")[0] for word in command.words[:2] + command.words if word[0] == "-" or word.isalpha()
    ): command
    for command in pages.of("kubectl")
    if command.words[1] != "tsm"
}
"""One command of each set of flags."""


@pytest.mark.parametrize("command", WITH_FLAGS.values(), ids=str)
def test_kubectl_takes_the_flags(command: Command) -> None:
    done = run("kubectl", *command.words[1:], "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("command", [*pages.of("kubectl", "create"), *pages.of("kubectl", "kustomize")], ids=str)
def test_kubectl_makes_what_it_needs_no_cluster_for(command: Command) -> None:
    dry = ("--dry-run=client", "--output=yaml") if command.words[1] == "create" else ()
    done = run("kubectl", *command.words[1:], *dry)
    assert done.returncode == 0, done.stderr
    assert all(item["kind"] for item in yaml.safe_load_all(done.stdout))


def merged(value: Any, patch: Any) -> Any:
    """A JSON merge patch, RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    kept = value if isinstance(value, dict) else {}
    both = {**kept, **{key: merged(kept.get(key), item) for key, item in patch.items()}}
    return {key: item for key, item in both.items() if item is not None}


PATCHES = [command for command in pages.of("kubectl", "patch") if value_of(command, "-p", "--patch")]


@pytest.mark.parametrize("command", PATCHES, ids=str)
def test_patched_model_is_valid(command: Command) -> None:
    assert value_of(command, "--type") == "merge"
    patched = merged(EXAMPLES["least.yaml"], json.loads(value_of(command, "-p", "--patch") or ""))
    (document,) = documents.read(json.dumps(patched), "patched")
    validation.to_model(document)


def test_models_that_commands_name_are_those_of_the_examples() -> None:
    named = set()
    for command in pages.COMMANDS:
        if command.words[0] == "kubectl":
            named |= set(re.findall(r"(?: tsm |tsm/|service/)([\w-]+)", " ".join(command.words)))
        elif command.words[0] == "tsm" and command.words[1] in WITH_MODEL:
            named |= set(command.words[2:3])
    named = {name for name in named if not name.startswith("-") and not PLACEHOLDER.fullmatch(name)}
    assert named - MODELS - set(TSM.commands) == set()  # type: ignore[attr-defined]


JSONPATHS = [command for command in pages.of("kubectl") if (value_of(command, "-o") or "").startswith("jsonpath=")]


@pytest.mark.parametrize("command", JSONPATHS, ids=str)
def test_fields_that_a_jsonpath_reads_are_in_the_api(command: Command) -> None:
    path = (value_of(command, "-o") or "").removeprefix("jsonpath={").removesuffix("}")
    steps: list[str | int] = []
    for name, item in re.findall(r"\.(\w+)|(\[[^\]]+\])", path):
        steps.append(0 if item else name)
    assert steps
    assert rules.schema_at(tuple(steps)) is not None, path


@pytest.mark.parametrize("command", pages.of("helm"), ids=str)
def test_helm_takes_the_flags_and_the_chart_the_values(command: Command) -> None:
    done = run("helm", *command.words[1:], "--help")
    assert done.returncode == 0, done.stderr
    values = [word for index, word in enumerate(command.words) if command.words[index - 1] == "--set"]
    if "charts/torchscript-operator" in command.words:
        assert values
        done = rendering.template(*(f"--set={value}" for value in values))
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", pages.of("make"), ids=str)
def test_make_has_the_targets_and_variables(command: Command) -> None:
    variables = {word.partition("=")[0] for word in command.words[1:] if "=" in word}
    assert set(command.words[1:]) - TARGETS == {word for word in command.words[1:] if "=" in word}
    assert {name for name in variables if f"$({name})" not in MAKEFILE} == set()


@pytest.mark.parametrize("command", pages.of("curl"), ids=str)
def test_server_has_the_path_and_takes_the_body(command: Command) -> None:
    path = "/" + command.words[1].removeprefix("http://").partition("/")[2]
    if path == "/readyz":
        return
    methods = {method for method, route, *_ in ROUTES if route == path}
    body = value_of(command, "-d")
    assert ("POST" if body else "GET") in methods
    if body:
        kind = {"/v1/embeddings": EmbeddingRequest, "/predict": PredictRequest}[path]
        kind.model_validate_json(body)


@pytest.mark.parametrize("command", pages.of("pip"), ids=str)
def test_extras_are_those_of_the_distribution(command: Command) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name, extras = re.fullmatch(r"([\w.-]+)\[([\w,]+)\]", command.words[2]).groups()  # type: ignore[union-attr]
    assert command.words[1] == "install"
    assert name in {".", project["name"]}
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("command", pages.of("docker"), ids=str)
def test_image_is_built_from_a_file_that_is_there(command: Command) -> None:
    assert command.words[1] == "build"
    assert (ROOT / (value_of(command, "-f") or "")).is_file()
