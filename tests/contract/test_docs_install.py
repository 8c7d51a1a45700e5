"""What the pages have a reader install with pip, in an environment that has nothing else, and that it suffices."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.contract import hub, tiny
from tests.reader import SECONDS, Reader
from tests.unit.pages import ROOT

CHECKOUT = ("pyproject.toml", "README.md", "LICENSE")
UV = ROOT / "build/uv/bin/uv"
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
    source = tiny.write_model(tmp_path / "model", max_position_embeddings=512)
    tiny.write_pooling(source, "mean", normalize=True)
    with hub.serving(source, "sentence-transformers/all-MiniLM-L6-v2") as served:
        own = {"HF_ENDPOINT": served.endpoint, "HF_HOME": tmp_path / "hub", "UV_CONSTRAINT": LOCKED}
        made = reader(tmp_path, **own)
        # pip would load gigabytes for every run; uv has them, and takes the same arguments.
        program = tmp_path / "programs/pip"
        program.write_text(f'#!/bin/sh\nexec {UV} pip "$@"\n')
        program.chmod(0o755)
        (tmp_path / "venv/bin/pip").unlink()
        with made.starts("pip install '.[cli,export,serve]'") as typed:
            typed.ends()
        with made.starts("tsm run examples/least.yaml") as typed:
            url = typed.says(r"answers at (http://\S+)\s")[1]
            answer = httpx.post(f"{url}/v1/embeddings", json={"model": "minilm", "input": ["Hello."]})
            assert len(answer.json()["data"][0]["embedding"]) == 32
            assert typed.ctrl_c() == 0
