"""Golden files: a model.yaml, and the Job, Deployment and Service that it becomes. UPDATE_GOLDEN=1 writes them anew."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit import workers
from tests.unit.world import World
from torchscript_operator.controller.settings import Settings

FOLDER = Path(__file__).resolve().parents[1] / "golden/controller"
CASES = sorted(path.parent.name for path in FOLDER.glob("*/model.yaml"))
FILES = ("job.yaml", "deployment.yaml", "service.yaml")


class Plain(yaml.SafeDumper):
    """Writes what is repeated again, as a person would."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 -- the signature is PyYAML's
        return True


def children(case: str) -> dict[str, Any]:
    """The children that a model of the folder comes to have."""
    given = yaml.safe_load((FOLDER / "settings.yaml").read_text())
    if (own := FOLDER / case / "settings.yaml").exists():
        given |= yaml.safe_load(own.read_text())
    settings = Settings.model_validate(given)
    body = yaml.safe_load((FOLDER / case / "model.yaml").read_text())
    world = World(body["spec"], settings)
    world.body["metadata"] |= {"name": body["metadata"]["name"], "namespace": "ml"}
    (job,) = world.step().create
    on_volume = "persistentVolumeClaim" in body["spec"].get("artifact", {})
    world.export_ends(workers.proven(store="file:///mnt/artifacts/models" if on_volume else "s3://artifacts/models"))
    deployment, service, *_ = world.step().apply
    return dict(zip(FILES, (job, deployment, service), strict=True))


def test_there_are_cases() -> None:
    named = {"least", "full", "volumes", "hugging-face", "config-map", "placement", "private-network", "guarded"}
    assert named <= set(CASES)


def golden(path: Path, text: str) -> None:
    """Compare with a recorded file."""
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text, f"{path} changed; if that is meant, run with UPDATE_GOLDEN=1"


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("case", CASES)
def test_child_is_as_recorded(case: str, file: str) -> None:
    text = yaml.dump(children(case)[file], Dumper=Plain, sort_keys=False, width=120)
    golden(FOLDER / case / file, text)
