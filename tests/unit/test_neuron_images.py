"""The images on AWS's bases cannot be built here; what can be held without a build is held here."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tests.cluster import images

FOLDER = Path(__file__).resolve().parents[2] / "images"
BASES = {
    "neuron": "public.ecr.aws/neuron/pytorch-inference-neuron:1.13.1-neuron-py310-sdk2.20.2-ubuntu20.04",
    "neuronx": "public.ecr.aws/neuron/pytorch-inference-neuronx:2.9.0-neuronx-py312-sdk2.31.1-ubuntu24.04",
}
PINNED = re.compile(r"^([a-z0-9._-]+)==([^\s]+) \\$", re.MULTILINE)


@pytest.fixture(params=sorted(BASES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def dockerfile(kind: str) -> str:
    return (FOLDER / kind / "Dockerfile").read_text()


def lock(kind: str) -> str:
    return (FOLDER / kind / "requirements.txt").read_text()


def test_base_is_the_documented_one_and_can_be_replaced(kind: str) -> None:
    assert f"ARG BASE_IMAGE={BASES[kind]}\nFROM ${{BASE_IMAGE}}\n" in dockerfile(kind)


def test_entry_point_that_never_exits_is_taken_away(kind: str) -> None:
    assert "\nENTRYPOINT []\n" in dockerfile(kind)


def test_every_source_is_there(kind: str) -> None:
    assert {"check.py", "requirements.txt"} <= {Path(name).name for name in images._sources(kind)}


def test_what_is_installed_is_locked_and_leaves_torch_and_numpy_alone(kind: str) -> None:
    pinned = dict(PINNED.findall(lock(kind)))
    assert {"transformers", "tokenizers", "safetensors", "pydantic", "boto3", "starlette"} <= pinned.keys()
    assert not {"torch", "numpy", "protobuf"} & pinned.keys()
    assert lock(kind).count("==") == len(pinned)
    assert "://" not in lock(kind)
    assert "--no-deps --require-hashes" in dockerfile(kind)


def test_everything_that_the_worker_imports_is_locked_or_the_bases(kind: str) -> None:
    extras = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {re.split(r"[\[<>=;~! ]", line)[0] for extra in ("export", "serve") for line in extras[extra]}
    # torch and numpy are the base's; grpcio and protobuf are left out on purpose, see requirements.in.
    missing = wanted - dict(PINNED.findall(lock(kind))).keys()
    assert missing == {"torch", "numpy", "grpcio", "protobuf"}


def test_check_in_the_build_wants_the_versions_that_are_locked(kind: str) -> None:
    text = (FOLDER / kind / "check.py").read_text()
    ast.parse(text, feature_version=(3, 10))
    assert f'transformers.__version__ != "{dict(PINNED.findall(lock(kind)))["transformers"]}"' in text
    python = re.search(r"-py(\d)(\d+)-", BASES[kind])
    assert python is not None
    assert f"sys.version_info[:2] != ({python[1]}, {python[2]})" in text


def test_reader_is_told_that_it_was_never_built(kind: str) -> None:
    assert "NEVER BUILT AND NEVER RUN" in dockerfile(kind)
    assert "**Never built and never run by this project**" in (FOLDER / kind / "README.md").read_text()
