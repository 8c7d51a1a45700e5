"""What a pass writes and says, as far as no API server is needed."""

import pytest
from pydantic import ValidationError

from tests.unit import workers
from tests.unit.world import World
from torchscript_operator.api.v1alpha1.status import TorchScriptModelStatus
from torchscript_operator.controller.model import Model
from torchscript_operator.controller.reconcile import dump_status, explain


def test_validation_error_names_field_and_fault_in_one_line() -> None:
    world = World()
    world.body["spec"]["targets"] = [{"name": "cpu", "engine": "steam"}]
    with pytest.raises(ValidationError) as caught:
        Model.parse(world.body)
    told = explain(caught.value)
    assert told.startswith("targets.0.engine: Extra inputs are not permitted")
    assert "\n" not in told


def test_status_is_written_in_camel_case_without_what_is_absent() -> None:
    world = World()
    world.step()
    (target,) = world.body["status"]["targets"]
    assert set(target) >= {"name", "state", "job"}
    assert None not in target.values()
    assert "lastFailure" not in target


def test_written_status_reads_back_the_same() -> None:
    world = World()
    world.serves()
    assert dump_status(TorchScriptModelStatus.model_validate(world.body["status"])) == world.body["status"]


def test_status_holds_no_floats() -> None:
    def walk(value: object) -> None:
        assert not isinstance(value, float)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(item)

    world = World()
    world.settle()
    world.export_ends(workers.proven())
    world.settle()
    walk(world.body["status"])
