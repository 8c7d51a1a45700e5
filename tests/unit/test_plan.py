"""A model's children as a whole: several targets, suspension, strangers, healing."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit import workers
from tests.unit.world import SETTINGS, World, spec, targets
from torchscript_operator.api import conditions
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.artifact.request import EXPORT_VARIABLE, ExportRequest
from torchscript_operator.controller.deletion import references
from torchscript_operator.controller.model import ATTEMPT_LABEL, MODEL_LABEL, ROLLBACK_ANNOTATION, TARGET_LABEL
from torchscript_operator.controller.observed import Observed
from torchscript_operator.controller.plan import REJECTED_SECONDS, obsolete
from torchscript_operator.controller.rollout_plan import RolloutPlan


def test_every_target_has_its_job_and_deployment() -> None:
    world = World(spec(targets=targets("one", "two")))
    world.settle()
    world.export_ends(workers.proven("a"), "one")
    world.settle()
    assert set(world.deployments) == {"minilm-one"}
    assert world.condition(conditions.READY).status == "False"
    world.export_ends(workers.proven("b"), "two")
    world.settle()
    assert set(world.deployments) == {"minilm-one", "minilm-two"}


def test_model_waits_for_its_last_target() -> None:
    world = World(spec(targets=targets("one", "two")))
    world.settle()
    world.export_ends(workers.proven("a"), "one")
    world.settle()
    world.rollout_ends("one")
    world.settle()
    assert world.condition(conditions.READY).status == "False"
    assert world.condition(conditions.COMPILED).status == "False"


def with_another_target(*names: str) -> World:
    """A model that serves target one, and is then to have these."""
    world = World(spec(targets=targets("one")))
    world.serves("a", "one")
    world.edit(targets=targets(*names))
    world.settle()
    return world


@pytest.mark.parametrize("names", [("one", "two"), ("two",)], ids=["added", "renamed"])
def test_what_serves_stays_ready_while_another_target_is_exported(names: tuple[str, ...]) -> None:
    world = with_another_target(*names)
    assert world.condition(conditions.READY).status == "True"
    assert world.condition(conditions.RECONCILING).status == "True"
    assert world.condition(conditions.AVAILABLE).status == "False"


@pytest.mark.parametrize("names", [("one", "two"), ("two",)], ids=["added", "renamed"])
def test_what_serves_stays_ready_when_the_export_of_another_target_fails(names: tuple[str, ...]) -> None:
    world = with_another_target(*names)
    world.export_fails(81, workers.failed(FailureReason.UNSUPPORTED_OPERATOR), "two")
    world.settle()
    assert world.condition(conditions.READY).status == "True"
    assert world.condition(conditions.STALLED).status == "True"


@pytest.mark.parametrize("names", [("one", "two"), ("two",)], ids=["added", "renamed"])
def test_model_is_not_ready_once_nothing_answers_although_another_target_is_exported(names: tuple[str, ...]) -> None:
    world = with_another_target(*names)
    world.deployments["minilm-one"]["status"]["availableReplicas"] = 0
    world.settle()
    assert world.condition(conditions.READY).status == "False"


def test_added_target_counts_once_all_its_pods_were_ready() -> None:
    world = with_another_target("one", "two")
    world.export_ends(workers.proven("b"), "two")
    world.settle()
    assert world.condition(conditions.READY).status == "True"
    world.rollout_ends("two")
    world.settle()
    assert world.condition(conditions.READY).message.count("serves") == 2
    world.deployments["minilm-two"]["status"]["availableReplicas"] = 0
    world.settle()
    assert world.condition(conditions.READY).status == "False"


def test_deployment_of_a_removed_target_is_told_and_its_artifact_referred_to_until_it_goes() -> None:
    world = with_another_target("two")
    serving = world.body["status"]["serving"]
    (told,) = serving["targets"]
    assert (told["name"], told["readyReplicas"], serving["readyReplicas"]) == ("one", 1, 1)
    assert ("", f"s3://artifacts/models/{'a' * 64}") in references(world.body)
    world.export_ends(workers.proven("b"), "two")
    world.settle()
    world.rollout_ends("two")
    world.settle()
    assert [it.name for it in world.model.status.serving.targets] == ["two"]  # type: ignore[union-attr]
    assert ("", f"s3://artifacts/models/{'a' * 64}") not in references(world.body)


def test_deleted_service_comes_back_although_only_a_removed_target_answers() -> None:
    world = with_another_target("two")
    world.service = None
    world.settle()
    assert world.service is not None


def test_failure_of_one_target_leaves_the_other_alone() -> None:
    world = World(spec(targets=targets("one", "two")))
    world.settle()
    world.export_fails(81, workers.failed(FailureReason.UNSUPPORTED_OPERATOR), "two")
    world.export_ends(workers.proven("a"), "one")
    world.settle()
    assert set(world.deployments) == {"minilm-one"}
    assert world.condition(conditions.COMPILED).message.startswith("two: ")


def test_running_job_of_a_removed_target_is_deleted() -> None:
    world = World(spec(targets=targets("one", "two")))
    world.settle()
    world.edit(targets=targets("one"))
    world.settle()
    assert len(world.jobs) == 1


@pytest.mark.parametrize("name", [TARGET_LABEL, ATTEMPT_LABEL, MODEL_LABEL])
def test_running_job_outlives_the_loss_of_a_label(name: str) -> None:
    world = World(spec(targets=targets("one", "two")))
    world.settle()
    job = world.running("one")
    del job["metadata"]["labels"][name]
    assert world.is_quiet(world.plan())


def test_running_job_of_a_removed_target_is_deleted_although_it_has_lost_its_label() -> None:
    world = World(spec(targets=targets("one", "two")))
    world.settle()
    del world.running("two")["metadata"]["labels"][TARGET_LABEL]
    world.edit(targets=targets("one"))
    world.settle()
    assert len(world.jobs) == 1


def deployed(name: str, owner: str = "model-1", **labels: str) -> dict[str, Any]:
    """A Deployment of these labels."""
    owners = [{"uid": owner, "controller": True}]
    return {"metadata": {"name": name, "uid": name, "labels": labels, "ownerReferences": owners}}


@pytest.mark.parametrize(
    ("served", "answering", "suspend", "live", "goes"),
    [
        (["cpu"], [True], False, deployed("minilm-old"), True),
        (["cpu"], [True], False, deployed("minilm-old", **{TARGET_LABEL: "cpu"}), True),
        (["cpu"], [True], False, deployed("minilm-cpu", **{TARGET_LABEL: "old"}), False),
        (["cpu"], [True], False, deployed("minilm-cpu"), False),
        (["cpu"], [True], False, deployed("minilm-old", owner="another"), False),
        (["cpu"], [False], False, deployed("minilm-old"), False),
        (["cpu", "two"], [True, False], False, deployed("minilm-old"), False),
        (["cpu"], [True], True, deployed("minilm-old"), False),
        ([], [], False, deployed("minilm-cpu"), True),
    ],
    ids=[
        "no longer served",
        "named as no target, whatever its label says",
        "named as a served target, whatever its label says",
        "without its label",
        "of another owner",
        "while its successor does not answer",
        "while one of its successors does not answer",
        "while suspended",
        "once nothing is served",
    ],
)
def test_which_deployments_are_obsolete(
    served: list[str], answering: list[bool], suspend: bool, live: dict[str, Any], goes: bool
) -> None:
    names = ["cpu", "two"]
    model = World(spec(targets=targets(*names), serving={"targets": served}, suspend=suspend)).model
    rollouts = [RolloutPlan(None, answering=answers) for answers in answering]
    assert obsolete(model, rollouts, Observed(deployments=(live,))) == ((live,) if goes else ())


def test_deployment_of_a_removed_target_stays_until_its_successor_answers() -> None:
    world = World(spec(targets=targets("one")))
    world.serves("a", "one")
    world.edit(targets=targets("two"))
    world.settle()
    world.export_ends(workers.proven("b"), "two")
    world.settle()
    assert set(world.deployments) == {"minilm-one", "minilm-two"}
    world.rollout_ends("two")
    world.settle()
    assert set(world.deployments) == {"minilm-two"}


def test_model_that_is_no_longer_served_gives_up_its_children() -> None:
    world = World()
    world.serves()
    world.edit(serving={"targets": []})
    world.settle()
    assert world.deployments == {}
    assert world.service is None
    assert world.model.status.serving is None
    assert world.condition(conditions.READY).status == "True"


def test_unserved_model_leaves_a_strangers_service_alone() -> None:
    world = World(spec(serving={"targets": []}))
    world.service = {"metadata": {"name": "minilm", "uid": "other"}, "kind": "Service", "spec": {}}
    world.settle()
    assert world.service is not None


def test_suspended_model_starts_nothing() -> None:
    world = World(spec(suspend=True))
    world.settle()
    assert world.created == []
    assert world.target().state == "Suspended"
    assert world.condition(conditions.RECONCILING).status == "False"


def test_suspended_model_lets_its_running_job_end_and_takes_in_the_report() -> None:
    world = World()
    world.settle()
    world.edit(suspend=True)
    world.settle()
    world.export_ends(workers.proven("a"))
    world.settle()
    assert world.target().state == "Proven"
    assert world.deployments == {}


def test_suspended_model_keeps_a_job_that_its_new_spec_does_not_ask_for() -> None:
    world = World()
    world.settle()
    world.edit(suspend=True, source={"s3": {"uri": "s3://models/other"}})
    world.settle()
    assert len(world.jobs) == 1


def test_suspended_model_keeps_a_job_although_its_spec_is_proven_already() -> None:
    world = World()
    proven = world.body["spec"]["source"]
    world.serves("a")
    world.edit(source={"s3": {"uri": "s3://models/other"}})
    world.settle()
    world.edit(suspend=True, source=proven)
    world.settle()
    assert len(world.jobs) == 2


def test_suspended_model_with_a_lost_report_comes_to_rest() -> None:
    world = World()
    world.settle()
    world.export_ends(None)
    world.edit(suspend=True)
    world.wait(60)
    planned = world.settle()
    assert planned.requeue_seconds is None
    assert len(world.jobs) == 1


def test_resumed_model_goes_on() -> None:
    world = World(spec(suspend=True))
    world.settle()
    world.edit(suspend=False)
    world.serves()
    assert world.condition(conditions.READY).status == "True"


def test_model_without_any_store_says_so() -> None:
    world = World(settings=SETTINGS.model_copy(update={"artifact_store": None}))
    world.settle()
    assert world.condition(conditions.READY).reason == conditions.NO_ARTIFACT_STORE
    assert world.created == []


TRUST = {"huggingFace": {"repository": "owner/name"}, "trust": ["RemoteCode"]}


def test_source_that_asks_for_more_trust_than_the_settings_give_is_not_exported() -> None:
    world = World(spec(source=TRUST))
    world.settle()
    assert world.condition(conditions.READY).reason == conditions.NOT_TRUSTED
    assert "RemoteCode" in world.condition(conditions.READY).message
    assert world.created == []


def without_store() -> World:
    """A model whose operator no longer knows a store."""
    world = World(spec(serving={"replicas": 2}))
    world.serves()
    world.settings = SETTINGS.model_copy(update={"artifact_store": None})
    world.settle()
    return world


def without_trust() -> World:
    """A model that its operator no longer trusts."""
    world = World(spec(source=TRUST), settings=SETTINGS.model_copy(update={"trust": ("RemoteCode",)}))
    world.serves()
    world.settings = SETTINGS
    world.settle()
    return world


@pytest.mark.parametrize(
    ("make", "reason"), [(without_store, conditions.NO_ARTIFACT_STORE), (without_trust, conditions.NOT_TRUSTED)]
)
def test_model_that_can_export_no_more_still_serves_and_heals(make: Callable[[], World], reason: str) -> None:
    world = make()
    assert (world.condition(conditions.READY).status, world.condition(conditions.STALLED).reason) == ("True", reason)
    assert world.model.status.serving is not None
    world.deployments.clear()
    world.settle()
    assert set(world.deployments) == {"minilm-cpu"}
    assert world.condition(conditions.READY).status == "False"
    world.rollout_ends()
    world.settle()
    assert (world.condition(conditions.READY).status, world.condition(conditions.STALLED).reason) == ("True", reason)


@pytest.mark.parametrize("make", [without_store, without_trust])
def test_model_that_can_export_no_more_stays_at_what_it_was_rolled_back_to(make: Callable[[], World]) -> None:
    world = make()
    before = world.settings
    world.settings = SETTINGS.model_copy(update={"trust": ("RemoteCode",)})
    world.edit(inputs={"shapes": [{"batch": 2, "sequence": 16}]})
    world.serves("b")
    world.body["metadata"]["annotations"][ROLLBACK_ANNOTATION] = "a" * 10
    world.settle()
    world.rollout_ends()
    world.settle()
    world.settings = before
    planned = world.settle()
    assert world.rolled() == workers.digest_of("a")
    assert planned.apply == ()
    world.settings = SETTINGS.model_copy(update={"trust": ("RemoteCode",)})
    world.settle()
    assert world.rolled() == workers.digest_of("a")


def test_model_that_can_export_no_more_is_rolled_back_once_it_can() -> None:
    world = World()
    world.serves()
    world.edit(source={"s3": {"uri": "s3://models/b"}})
    world.serves("b")
    world.settings = SETTINGS.model_copy(update={"artifact_store": None})
    world.body["metadata"]["annotations"][ROLLBACK_ANNOTATION] = "a" * 10
    world.settle()
    assert world.condition(conditions.STALLED).reason == conditions.NO_ARTIFACT_STORE
    assert world.rolled() == workers.digest_of("b")
    world.settings = SETTINGS
    world.settle()
    assert world.rolled() == workers.digest_of("a")


@pytest.mark.parametrize(
    ("source", "allowed", "trusted"),
    [
        (TRUST, ("RemoteCode", "PickleWeights"), ("RemoteCode",)),
        ({"huggingFace": {"repository": "owner/name"}}, ("RemoteCode", "PickleWeights"), None),
    ],
    ids=["both", "settings alone"],
)
def test_what_is_trusted_is_what_both_model_and_settings_name(
    source: Any, allowed: tuple[str, ...], trusted: tuple[str, ...] | None
) -> None:
    world = World(spec(source=source), settings=SETTINGS.model_copy(update={"trust": allowed}))
    world.settle()
    (job,) = world.jobs.values()
    variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
    value = next(variable["value"] for variable in variables if variable["name"] == EXPORT_VARIABLE)
    assert ExportRequest.model_validate_json(value).trust == trusted


def test_job_of_another_owner_is_waited_for() -> None:
    world = World()
    world.step()
    (job,) = world.jobs.values()
    job["metadata"]["ownerReferences"][0]["uid"] = "a-deleted-model"
    planned = world.step()
    assert world.condition(conditions.COMPILED).reason == conditions.NAME_CONFLICT
    assert planned.requeue_seconds is not None
    assert planned.delete == ()


def test_service_of_another_owner_is_left_alone_and_told() -> None:
    world = World()
    world.service = {"metadata": {"name": "minilm", "uid": "other"}, "kind": "Service", "spec": {}}
    world.serves()
    assert world.service["metadata"]["uid"] == "other"
    assert world.condition(conditions.READY).reason == conditions.NAME_CONFLICT
    assert world.condition(conditions.STALLED).status == "True"


def test_deployment_of_another_owner_is_left_alone_and_told() -> None:
    world = World()
    stranger = {"kind": "Deployment", "metadata": {"name": "minilm-cpu", "uid": "other"}, "spec": {}}
    world.deployments["minilm-cpu"] = stranger
    world.settle()
    world.export_ends(workers.proven("a"))
    world.settle()
    assert world.deployments["minilm-cpu"] is stranger
    assert world.condition(conditions.AVAILABLE).reason == conditions.NAME_CONFLICT


def left_behind(world: World, kind: str) -> None:
    """A child of a model of the same name, which is deleted; the garbage collector has not come to it yet."""
    child = world.service if kind == "Service" else world.deployments.get("minilm-cpu")
    child = world.companions[kind, "minilm-cpu"] if kind == "HorizontalPodAutoscaler" else child
    assert child is not None
    child["metadata"]["ownerReferences"][0]["uid"] = "a-deleted-model"


@pytest.mark.parametrize("kind", ["Deployment", "Service", "HorizontalPodAutoscaler"])
def test_what_a_deleted_model_of_the_same_name_left_behind_is_waited_for_and_no_stall(kind: str) -> None:
    world = World(spec(serving={"autoscaling": {"maxReplicas": 3}}))
    world.serves()
    left_behind(world, kind)
    world.body["status"] = {}
    planned = world.settle()
    assert world.condition(conditions.STALLED).status == "False"
    assert (planned.apply, planned.delete) == ((), ())
    if kind != "HorizontalPodAutoscaler":
        assert world.condition(conditions.RECONCILING).status == "True"
        assert world.condition(conditions.READY).reason == conditions.NAME_CONFLICT
        assert planned.requeue_seconds == REJECTED_SECONDS
    world.deployments.pop("minilm-cpu") if kind == "Deployment" else None
    world.service = None if kind == "Service" else world.service
    world.companions.clear() if kind == "HorizontalPodAutoscaler" else None
    world.settle()
    world.rollout_ends()
    world.settle()
    assert world.condition(conditions.READY).status == "True"
    assert world.service is not None


def test_service_that_a_deleted_model_left_behind_is_no_news_while_the_export_runs() -> None:
    world = World()
    world.serves()
    left_behind(world, "Service")
    world.jobs.clear()
    world.pods.clear()
    world.deployments.clear()
    world.body["status"] = {}
    world.settle()
    assert world.condition(conditions.READY).reason == conditions.EXPORTING
    assert world.condition(conditions.STALLED).status == "False"


@pytest.mark.parametrize("kind", ["Deployment", "Service", "HorizontalPodAutoscaler"])
def test_name_that_is_somebody_elses_is_looked_at_again_since_its_end_is_told_by_nothing(kind: str) -> None:
    world = World(spec(serving={"autoscaling": {"maxReplicas": 3}}))
    world.settle()
    world.export_ends(workers.proven("a"))
    name = "minilm" if kind == "Service" else "minilm-cpu"
    stranger = {"kind": kind, "metadata": {"name": name, "uid": "other"}, "spec": {}}
    if kind == "Deployment":
        world.deployments[name] = stranger
    elif kind == "Service":
        world.service = stranger
    else:
        world.companions[kind, name] = stranger
    world.settle()
    if kind != "Deployment":
        world.rollout_ends()
    assert world.settle().requeue_seconds == REJECTED_SECONDS


def test_orphaned_deployment_of_this_model_is_taken_back() -> None:
    world = World()
    world.serves()
    del world.deployments["minilm-cpu"]["metadata"]["ownerReferences"]
    world.settle()
    assert world.deployments["minilm-cpu"]["metadata"]["ownerReferences"][0]["uid"] == "model-1"


@pytest.mark.parametrize("kind", ["Deployment", "Service"])
def test_deleted_child_comes_back(kind: str) -> None:
    world = World()
    world.serves()
    if kind == "Deployment":
        world.deployments.clear()
    else:
        world.service = None
    planned = world.step()
    assert [item["kind"] for item in planned.apply] == [kind]


def test_lost_status_is_made_again_from_the_children() -> None:
    world = World()
    world.serves()
    before = {key: world.body["status"][key] for key in ("targets", "observedGeneration")}
    world.body["status"] = {}
    world.settle()
    assert {key: world.body["status"][key] for key in before} == before
    assert len(world.created) == 1


def test_unreadable_status_of_another_release_is_made_again() -> None:
    world = World()
    world.serves()
    world.body["status"]["targets"][0]["state"] = "Novel"
    world.settle()
    assert world.target().state == "Proven"


def test_children_carry_the_model_label_and_one_owner() -> None:
    world = World()
    world.serves()
    for child in (*world.jobs.values(), *world.deployments.values(), world.service):
        assert child is not None
        assert child["metadata"]["labels"][MODEL_LABEL] == "minilm"
        (owner,) = child["metadata"]["ownerReferences"]
        assert owner["uid"] == "model-1"
        assert owner["controller"] is True
