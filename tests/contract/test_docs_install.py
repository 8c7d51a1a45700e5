"""What the pages have a reader install with pip, in an environment that has nothing else, and that it suffices."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract import hub, old_torch, tiny
from tests.contract.serving import answers
from tests.reader import SECONDS, Reader
from tests.unit.pages import ROOT

CHECKOUT = ("pyproject.toml", "README.md", "LICENSE")
LOCKED = ROOT / "tests/requirements.txt"
IMPORTS = """
import importlib, pkgutil, sys
from torchscript_operator import cli
assert cli.__file__.startswith(sys.prefix), cli.__file__
for each in pkgutil.walk_packages(cli.__path__, cli.__name__ + "."):
    importlib.import_module(each.name)
"""


def reader(folder: Path, **environment: str | Path) -> Reader:
    """Someone in a checkout, with an environment of Python that is active and empty."""
    made = Reader(folder, {"tsm run": "tsm run --port 0"}, VIRTUAL_ENV=folder / "venv", **environment)
    for name in CHECKOUT:
        shutil.copy(ROOT / name, made.folder / name)
    shutil.copytree(ROOT / "operator", made.folder / "operator", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=SECONDS)
    made.environment["PATH"] = f"{folder}/venv/bin:{folder}/programs:{os.environ['PATH']}"
    return made


def imports(made: Reader) -> None:
    """Whether all modules of tsm find what they need."""
    python = Path(made.environment["VIRTUAL_ENV"]) / "bin/python"
    command = [python, "-I", "-c", IMPORTS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr


def test_pip_installs_what_the_command_line_needs_for_a_cluster(tmp_path: Path) -> None:
    # What is locked, so that a release of today makes no difference to this test.
    versions = [line.split()[0] for line in LOCKED.read_text().splitlines() if line[:1].isalpha()]
    (tmp_path / "versions.txt").write_text("\n".join(versions))
    made = reader(tmp_path, PIP_CONSTRAINT=tmp_path / "versions.txt", PIP_NO_COMPILE="1")
    with made.starts("pip install '.[cli]'") as typed:
        typed.ends()
    imports(made)
    with made.starts("tsm plan examples/least.yaml --offline --changes-ok") as typed:
        assert "1 to export" in typed.ends()
    with made.starts("tsm run examples/least.yaml") as typed:
        typed.ends(1)
        assert "pip install '.[cli,export,serve]'" in typed.text


@pytest.mark.timeout(2 * SECONDS)
def test_extras_suffice_to_export_verify_and_serve_on_this_machine(tmp_path: Path) -> None:
    source = tiny.write_sentence_model(tmp_path / "model")
    with hub.serving(source, "sentence-transformers/all-MiniLM-L6-v2") as served:
        own = {"HF_ENDPOINT": served.endpoint, "HF_HOME": tmp_path / "hub", "UV_CONSTRAINT": LOCKED}
        made = reader(tmp_path, **own)
        # pip would load gigabytes for every run; uv has them, and takes the same arguments.
        made.script(tmp_path / "programs/pip", f'exec {old_torch.uv()} pip "$@"')
        (tmp_path / "venv/bin/pip").unlink()
        with made.starts("pip install '.[cli,export,serve]'") as typed:
            typed.ends()
        with made.starts("tsm run examples/least.yaml") as typed:
            answers(typed)
