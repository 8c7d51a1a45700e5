"""A model in every state that it can be in, made by the planner itself."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from tests.unit import workers
from tests.unit.world import SETTINGS, World, spec, targets
from torchscript_operator.api.v1alpha1 import API_VERSION, KIND
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.controller import plan as planning
from torchscript_operator.controller.model import ROLLBACK_ANNOTATION, Model
from torchscript_operator.controller.reconcile import dump_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from torchscript_operator.controller.plan import Plan

Json = dict[str, Any]
OTHER = {"s3": {"uri": "s3://models/other"}}
DEFAULT_CONDITION = {
    "type": "Ready",
    "status": "Unknown",
    "reason": "NotReconciled",
    "message": "The operator has not seen this model yet.",
    "lastTransitionTime": "1970-01-01T00:00:00Z",
}
"""What the schema gives a model that the operator has not seen."""


def _exporting(given: Json | None = None) -> World:
    world = World(given)
    world.settle()
    return world


def _failed(reason: FailureReason, given: Json | None = None) -> World:
    world = _exporting(given)
    world.export_fails(CLASSES[reason].exit_code, workers.failed(reason))
    world.settle()
    return world


def _serving(letter: str = "a") -> World:
    world = World()
    world.serves(letter)
    return world


def _updated() -> World:
    world = _serving()
    world.wait(60)
    world.edit(source=OTHER)
    world.settle()
    return world


def _rolling() -> World:
    world = _updated()
    world.export_ends(workers.proven("b"))
    world.settle()
    world.rollout_hangs()
    world.settle()
    return world


def unseen() -> World:
    """Just created."""
    world = World()
    world.body["status"] = {"conditions": [DEFAULT_CONDITION]}
    return world


def exporting() -> World:
    """The first export runs."""
    return _exporting()


def verifying() -> World:
    """Compiled, and being proven on the accelerator."""
    from tests.unit.test_neuron_plan import compiled

    world = _exporting(spec(targets=[{"name": "inf1", "compiler": "neuron", "verify": {}}]))
    world.export_ends(compiled(), "inf1")
    world.settle()
    return world


def export_failed() -> World:
    """The first export failed for good."""
    return _failed(FailureReason.TASK_MISMATCH)


def parity_failed() -> World:
    """Compiled, but it does not compute what eager computes."""
    return _failed(FailureReason.PARITY_FAILED)


def first_rollout() -> World:
    """Proven; its first pods start."""
    world = _exporting()
    world.export_ends(workers.proven())
    world.settle()
    return world


def serving() -> World:
    """Answers requests."""
    return _serving()


def serving_two_targets() -> World:
    """Answers requests from two Deployments."""
    world = World(spec(targets=targets("one", "two"), serving={"targets": ["one", "two"]}))
    world.settle()
    for name, letter in (("one", "a"), ("two", "b")):
        world.export_ends(workers.proven(letter), name)
        world.settle()
        world.rollout_ends(name)
        world.settle()
    return world


def exported_only() -> World:
    """Proven, and not to be served."""
    world = _exporting(spec(serving={"targets": []}))
    world.export_ends(workers.proven())
    world.settle()
    return world


def edited() -> World:
    """Answers requests; the operator has not seen the latest edit."""
    world = _serving()
    world.edit(source=OTHER)
    return world


def update_exporting() -> World:
    """Answers requests while its successor is exported."""
    return _updated()


def update_failed() -> World:
    """Answers requests with the artifact before: the new source failed."""
    world = _updated()
    reason = FailureReason.TASK_MISMATCH
    world.export_fails(CLASSES[reason].exit_code, workers.failed(reason))
    world.settle()
    return world


def update_rolling() -> World:
    """Old pods answer while new ones start."""
    return _rolling()


def updated() -> World:
    """Answers requests with its second artifact."""
    world = _rolling()
    world.pods.clear()
    world.rollout_ends()
    world.settle()
    return world


def update_rolled_back() -> World:
    """New pods did not become Ready in time: the artifact before answers again."""
    world = _updated()
    world.export_ends(workers.proven("b"))
    world.settle()
    world.rollout_hangs(late=True)
    world.settle()
    world.pods.clear()
    world.rollout_ends()
    world.settle()
    return world


def pinned() -> World:
    """Put back to its first artifact by annotation."""
    world = updated()
    world.body["metadata"]["annotations"][ROLLBACK_ANNOTATION] = workers.digest_of("a")
    world.settle()
    world.rollout_ends()
    world.settle()
    return world


def pinned_to_unknown() -> World:
    """Told to go back to an artifact that it does not know."""
    world = updated()
    world.body["metadata"]["annotations"][ROLLBACK_ANNOTATION] = workers.digest_of("f")
    world.settle()
    return world


def suspended() -> World:
    """Suspended before its first export."""
    return _exporting(spec(suspend=True))


def serving_suspended() -> World:
    """Answers requests and is suspended."""
    world = _serving()
    world.edit(suspend=True)
    world.settle()
    return world


def name_conflict() -> World:
    """Another object has the Service of its name."""
    world = _exporting()
    world.service = {"metadata": {"name": "minilm", "uid": "stranger"}, "spec": {}}
    world.export_ends(workers.proven())
    world.settle()
    return world


def _told(world: World, planned: Plan) -> World:
    world.body["status"] = dump_status(planned.status)
    return world


def no_store() -> World:
    """Neither the model nor the chart says where artifacts go."""
    world = World(settings=SETTINGS.model_copy(update={"artifact_store": None}))
    world.settle()
    return world


def child_rejected() -> World:
    """The API server refuses its Job."""
    world = World()
    refusal = 'The API server refused a child: jobs.batch "minilm-export" is forbidden: exceeded quota'
    return _told(world, planning.rejected(world.model, world.plan(), refusal, world.now))


def invalid_spec() -> World:
    """Stored by an older or newer API: the operator cannot read the spec."""
    world = _serving()
    observed = world.observed()
    world.body["spec"] = {"source": {"carrierPigeon": {}}, "task": "feature-extraction"}
    world.body["metadata"]["generation"] += 1
    model = Model.unreadable(world.body)
    said = "The spec does not fit the schema."
    return _told(world, planning.stalled(model, "InvalidSpec", said, world.now, observed))


def deleting() -> World:
    """Deleted, with a finalizer that still has work to do."""
    world = _serving()
    world.body["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z"
    return world


STATES: dict[str, Callable[[], World]] = {
    make.__name__: make
    for make in (
        unseen,
        exporting,
        verifying,
        export_failed,
        parity_failed,
        first_rollout,
        serving,
        serving_two_targets,
        exported_only,
        edited,
        update_exporting,
        update_failed,
        update_rolling,
        updated,
        update_rolled_back,
        pinned,
        pinned_to_unknown,
        suspended,
        serving_suspended,
        name_conflict,
        no_store,
        child_rejected,
        invalid_spec,
        deleting,
    )
}


def recorded(world: World) -> Json:
    """The model as the API server gives it."""
    body = copy.deepcopy(world.body)
    metadata = {key: value for key, value in body["metadata"].items() if value != {}}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": metadata,
        "spec": body["spec"],
        "status": body["status"],
    }
