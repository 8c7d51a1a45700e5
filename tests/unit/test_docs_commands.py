"""Every command of README.md, docs/, examples/ and images/ is typed by a test, as it stands there, or says why not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import typer
import yaml

from tests.reader import Reader
from tests.unit import pages
from tests.unit.pages import ROOT, Command
from torchscript_operator.cli.main import app

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
NOT_RUN = {
    "make test": "is what runs these tests",
    "make venv": "`make test` begins with it",
    "make lint": "`make test` begins with it",
    "make lint verify": "`make test` begins with both",
    "make verify": "`make test` begins with it",
    "make images": "`make test` begins with it",
    "python -m tests.cluster.images build": "is what `make images` runs",
    "make unit": "runs this test, among others that `make test` runs, too",
    "make test-scoped": "takes 8 minutes; runs tests that `make test` runs, too",
    "make demo": "takes two minutes; tests/e2e/test_path.py goes the same way by the same tests/e2e/site.py",
    "make docs": "writes build/site; tests/unit/test_docs.py runs the same mkdocs into a folder of its own",
    "make generate": "writes in the work tree; `make verify` runs the same generators",
    "make format": "writes in the work tree; `make lint` runs the same program",
    "make lock": "asks package indexes and writes in the work tree",
    "make cluster-down": "would remove the cluster that tests/e2e uses",
    "make bench-export": "takes 4 minutes of a quiet machine",
    "make bench-serve": "takes half an hour of a quiet machine",
    "make bench-serve BENCH=--quick": "takes minutes of a quiet machine",
    "make bench-operator": "takes an hour of a quiet machine",
    "make bench-operator BENCH=--quick": "takes minutes of a quiet machine",
    "make load-test": "takes ten minutes of a quiet machine",
    "make load-test MINUTES=10": "takes ten minutes of a quiet machine",
    "docker build -f images/operator/Dockerfile -t REGISTRY/torchscript-operator/operator:TAG .": "needs Docker; "
    "`make images` has buildah build the same file",
    "docker build -f images/worker/Dockerfile -t REGISTRY/torchscript-operator/worker:TAG .": "needs Docker; "
    "`make images` has buildah build the same file",
    "docker build -f images/neuron/Dockerfile --secret id=pip,src=pip.conf"
    " -t REGISTRY/torchscript-operator/neuron:TAG .": "needs AWS's image; tests/contract/test_old_torch.py stands in",
    "docker build -f images/neuronx/Dockerfile -t REGISTRY/torchscript-operator/neuronx:TAG .": (
        "needs AWS's base image; tests/unit/test_neuron_images.py reads the file"
    ),
    "buildah build --layers": "is how `make images` builds",
    "echo torch": "goes into the next",
    "uv pip compile - --generate-hashes --python-version 3.11 -c tests/requirements.txt --index YOUR_INDEX"
    " -o images/worker/torch.txt": "needs an index of wheels for CPUs",
}
"""Commands that no test types, each with its reason."""


def value_of(command: Command, *options: str) -> str | None:
    """What an option is given, in either spelling."""
    for index, word in enumerate(command.words):
        name, found, value = word.partition("=")
        if name in options:
            return value if found else command.words[index + 1]
    return None


def test_every_command_is_typed_by_a_test_or_says_why_not() -> None:
    typed = pages.typed()
    assert typed
    untyped = [each for each in pages.COMMANDS if not any(each.is_shown_by(words) for words in typed)]
    left = {each.line for each in untyped}
    assert left - NOT_RUN.keys() == set(), "type it by a tests/reader.py, or give a reason in NOT_RUN"
    assert NOT_RUN.keys() - left == set(), "a test types it, or no page has it any more"


@pytest.mark.parametrize(
    ("line", "inline", "typed", "shown"),
    [
        ("tsm wait NAME", False, "tsm wait minilm", True),
        ("tsm wait NAME", False, "tsm wait", False),
        ("tsm wait", False, "tsm wait minilm", False),
        ("tsm wait", True, "tsm wait minilm", True),
        ("kubectl -n NS describe tsm/MODEL", True, "kubectl -n a describe tsm/b", True),
        ("make load-test MINUTES=10", False, "make load-test HOURS=10", False),
        ("tsm plan model.yaml", False, "tsm plan model-yaml", False),
    ],
)
def test_command_counts_as_typed(line: str, typed: str, *, inline: bool, shown: bool) -> None:
    command = Command("page.md", tuple(line.split()), inline)
    assert command.is_shown_by(tuple(typed.split())) is shown


def test_line_that_no_page_has_is_not_typed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no page has this"):
        Reader(tmp_path).types("kubectl get tsm --show-kind")


def test_commands_without_a_cluster(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    assert "1 to export" in reader.types("tsm plan examples/least.yaml --offline --changes-ok")
    assert "rollback" in reader.types("tsm --help")
    assert "bench-operator" in reader.types("make help")
    built = list(yaml.safe_load_all(reader.types("kubectl kustomize examples/gitops/kustomize/overlays/production")))
    assert "TorchScriptModel" in {body["kind"] for body in built}
    with reader.starts("tsm --install-completion") as typed:
        typed.ends()
    assert "tsm" in (tmp_path / ".bashrc").read_text()


def test_files_that_commands_name_are_there() -> None:
    words = {word.partition("=")[2] or word for command in pages.COMMANDS for word in command.words}
    # What docs/cli.md plays through lies in a repository of the reader's own, and begins otherwise.
    named = {word for word in words if word.startswith(FOLDERS)}
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_models_that_commands_name_are_those_of_the_examples() -> None:
    named = set()
    for command in pages.COMMANDS:
        if command.words[0] == "kubectl":
            named |= set(re.findall(r"(?: tsm |tsm/|service/)([\w-]+)", " ".join(command.words)))
        elif command.words[0] == "tsm" and command.words[1] in WITH_MODEL:
            named |= set(command.words[2:3])
    named = {name for name in named if not name.startswith("-") and not PLACEHOLDER.fullmatch(name)}
    assert named - MODELS - set(TSM.commands) == set()  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", pages.of("make"), ids=str)
def test_make_has_the_targets_and_variables(command: Command) -> None:
    variables = {word.partition("=")[0] for word in command.words[1:] if "=" in word}
    assert set(command.words[1:]) - TARGETS == {word for word in command.words[1:] if "=" in word}
    assert {name for name in variables if f"$({name})" not in MAKEFILE} == set()


@pytest.mark.parametrize("command", pages.of("docker"), ids=str)
def test_image_is_built_from_a_file_that_is_there(command: Command) -> None:
    assert command.words[1] == "build"
    assert (ROOT / (value_of(command, "-f") or "")).is_file()
