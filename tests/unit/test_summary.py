"""Conditions of a model, as kubectl wait, Flux and Argo CD read them."""

import pytest

from tests.unit import workers
from tests.unit.world import World, spec, targets
from torchscript_operator.api import conditions
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.controller import plan as planning
from torchscript_operator.controller.model import Model
from torchscript_operator.controller.observed import Observed
from torchscript_operator.controller.plan import Plan
from torchscript_operator.controller.reconcile import dump_status

SOURCE_FAILURES = [reason for reason in FailureReason if reason.value.startswith("Source")]


def kstatus(world: World) -> str:
    """What kstatus makes of a resource; its rules, in its order."""
    status = world.body["status"]
    if status.get("observedGeneration") != world.body["metadata"]["generation"]:
        return "InProgress"
    if world.condition(conditions.RECONCILING).status == "True":
        return "InProgress"
    if world.condition(conditions.STALLED).status == "True":
        return "Failed"
    return "Current" if world.condition(conditions.READY).status == "True" else "InProgress"


def test_exporting_model_is_in_progress() -> None:
    world = World()
    world.settle()
    assert kstatus(world) == "InProgress"
    assert world.condition(conditions.READY).reason == conditions.EXPORTING


def test_edited_model_is_in_progress_until_it_is_seen() -> None:
    world = World()
    world.serves()
    world.edit(serving={"replicas": 2})
    assert kstatus(world) == "InProgress"


def test_rolling_model_is_in_progress() -> None:
    world = World()
    world.settle()
    world.export_ends(workers.proven())
    world.settle()
    assert kstatus(world) == "InProgress"
    assert world.condition(conditions.RECONCILING).reason == conditions.ROLLING_OUT


def test_serving_model_is_current() -> None:
    world = World()
    world.serves()
    assert kstatus(world) == "Current"


def test_exported_model_that_is_not_to_be_served_is_current() -> None:
    world = World(spec(serving={"targets": []}))
    world.settle()
    world.export_ends(workers.proven())
    world.settle()
    assert kstatus(world) == "Current"
    assert world.condition(conditions.AVAILABLE).reason == conditions.NOT_SERVED


def test_model_whose_export_failed_is_failed() -> None:
    world = World()
    world.settle()
    world.export_fails(78, workers.failed(FailureReason.TASK_MISMATCH))
    world.settle()
    assert kstatus(world) == "Failed"


def test_model_that_serves_an_older_artifact_is_failed_and_ready() -> None:
    world = World()
    world.serves()
    world.edit(source={"s3": {"uri": "s3://models/other"}})
    world.settle()
    world.export_fails(78, workers.failed(FailureReason.TASK_MISMATCH))
    world.settle()
    assert kstatus(world) == "Failed"
    assert world.condition(conditions.READY).status == "True"
    assert world.condition(conditions.READY).reason == conditions.SERVING


@pytest.mark.parametrize("reason", list(FailureReason))
def test_failure_gives_its_class_and_the_next_step(reason: FailureReason) -> None:
    world = World()
    world.settle()
    world.export_fails(CLASSES[reason].exit_code, workers.failed(reason))
    world.settle()
    told = world.condition(conditions.COMPILED)
    assert (told.status, told.reason) == ("False", reason.value)
    assert CLASSES[reason].advice in told.message
    assert "torchscript.dev/retry" in told.message
    assert world.condition(conditions.READY).reason == reason.value
    failure = world.target().last_failure
    assert failure is not None
    assert failure.exit_code == CLASSES[reason].exit_code


@pytest.mark.parametrize("reason", list(FailureReason))
def test_only_a_failure_of_the_source_unresolves_it(reason: FailureReason) -> None:
    world = World()
    world.settle()
    world.export_fails(CLASSES[reason].exit_code, workers.failed(reason))
    world.settle()
    expected = "False" if reason in SOURCE_FAILURES else "Unknown"
    assert world.condition(conditions.SOURCE_RESOLVED).status == expected


def test_nothing_is_known_of_parity_before_an_export_ends() -> None:
    world = World()
    world.settle()
    assert world.condition(conditions.PARITY_VERIFIED).status == "Unknown"
    assert world.condition(conditions.SOURCE_RESOLVED).status == "Unknown"


def test_proof_verifies_compilation_source_and_parity() -> None:
    world = World()
    world.settle()
    world.export_ends(workers.proven())
    world.settle()
    for kind in (conditions.COMPILED, conditions.SOURCE_RESOLVED, conditions.PARITY_VERIFIED):
        assert world.condition(kind).status == "True"
    assert "a" * 40 in world.condition(conditions.SOURCE_RESOLVED).message


def test_messages_of_several_targets_name_them() -> None:
    world = World(spec(targets=targets("one", "two")))
    world.settle()
    message = world.condition(conditions.COMPILED).message
    assert "one: Waiting for Job minilm-export-" in message
    assert "two: Waiting for Job minilm-export-" in message


def test_transition_time_stays_while_only_the_message_changes() -> None:
    world = World()
    world.settle()
    before = world.condition(conditions.COMPILED)
    world.wait(100)
    world.pod_of(world.running(), workers.pod_status("export", workers.waiting("ErrImagePull", "no")))
    world.settle()
    after = world.condition(conditions.COMPILED)
    assert after.message != before.message
    assert after.last_transition_time == before.last_transition_time


def test_transition_time_moves_with_the_status() -> None:
    world = World()
    world.settle()
    before = world.condition(conditions.READY).last_transition_time
    world.wait(100)
    world.serves()
    assert world.condition(conditions.READY).last_transition_time > before


def test_first_pass_replaces_the_schemas_default_condition() -> None:
    world = World()
    default = {"type": "Ready", "status": "Unknown", "reason": "NotReconciled", "message": ""}
    world.body["status"] = {"conditions": [{**default, "lastTransitionTime": "1970-01-01T00:00:00Z"}]}
    world.settle()
    assert world.condition(conditions.READY).status == "False"
    assert world.condition(conditions.READY).last_transition_time == "2026-01-01T00:00:00Z"


def test_refused_child_is_a_stall_and_is_tried_again() -> None:
    world = World()
    planned = planning.rejected(world.model, world.plan(), "The API server refused a child: quota", world.now)
    told = {item.type: item for item in planned.status.conditions}
    assert told[conditions.STALLED].reason == conditions.REJECTED
    assert told[conditions.READY].status == "False"
    assert told[conditions.RECONCILING].status == "False"
    assert planned.requeue_seconds == planning.REJECTED_SECONDS


def test_refused_child_leaves_a_serving_model_ready() -> None:
    world = World()
    world.serves()
    planned = planning.rejected(world.model, world.plan(), "quota", world.now)
    told = {item.type: item for item in planned.status.conditions}
    assert told[conditions.READY].status == "True"
    assert told[conditions.STALLED].status == "True"


def invalid() -> World:
    """A serving model whose stored spec this release cannot read any more."""
    world = World()
    world.serves()
    world.body["spec"] = {"source": {"carrierPigeon": {}}, "task": "feature-extraction"}
    world.body["metadata"]["generation"] += 1
    return world


def refused(world: World) -> Plan:
    model = Model.unreadable(world.body)
    observed = Observed(deployments=tuple(world.deployments.values()))
    planned = planning.stalled(model, conditions.INVALID_SPEC, "The spec does not fit.", world.now, observed)
    world.body["status"] = dump_status(planned.status)
    return planned


def test_invalid_stored_spec_is_told_and_what_serves_is_kept() -> None:
    world = invalid()
    before = world.body["status"]
    planned = refused(world)
    assert (planned.create, planned.apply, planned.delete) == ((), (), ())
    assert world.body["status"]["serving"] == before["serving"]
    assert world.body["status"]["targets"] == before["targets"]
    assert planned.status.observed_generation == 2
    told = {item.type: item for item in planned.status.conditions}
    assert told[conditions.STALLED].reason == conditions.INVALID_SPEC
    assert told[conditions.READY].status == "True"


def test_model_of_an_invalid_spec_is_ready_just_while_its_deployment_answers() -> None:
    world = invalid()
    deployment = world.deployments.pop("minilm-cpu")
    seen = []
    for present in (None, {**deployment, "status": {}}, deployment):
        if present is not None:
            world.deployments["minilm-cpu"] = present
        told = {item.type: item for item in refused(world).status.conditions}
        seen.append((told[conditions.READY].status, told[conditions.READY].reason))
    assert seen == [("False", "InvalidSpec"), ("False", "InvalidSpec"), ("True", "Serving")]
