"""Artifacts go with their model where it asks for that, and nothing keeps a model from going."""

from typing import Any

import pytest
import yaml

from tests.unit import workers
from tests.unit.test_children_golden import FOLDER, Plain, golden
from tests.unit.world import SETTINGS, World, spec
from torchscript_operator.api.v1alpha1.status import PendingStatus
from torchscript_operator.artifact import request
from torchscript_operator.artifact.outcome import ArtifactReference, ExportOutcome
from torchscript_operator.controller import deletion
from torchscript_operator.controller.deletion import Departure
from torchscript_operator.controller.export_plan import stamp
from torchscript_operator.controller.model import FINALIZER, Json

TWO_STEPS = {"name": "cpu", "compiler": "neuronx", "verify": {}}
STORE = {"uri": "s3://artifacts/models", "deletionPolicy": "Delete"}
SCOPED = SETTINGS.model_copy(update={"watch_namespaces": ("ml",)})


def made(*letters: str, **fields: Any) -> World:
    """A model that has served some artifacts."""
    world = World(spec(**{"artifact": STORE, **fields}))
    for letter in letters:
        world.edit(source={"s3": {"uri": f"s3://models/{letter}"}})
        world.serves(letter)
    return world


def other(letter: str, uri: str = "s3://artifacts/models", **artifact: Any) -> Json:
    """Another model that serves an artifact."""
    named = {"uri": f"{uri}/{letter * 64}", "digest": workers.digest_of(letter), "sizeBytes": 1, **artifact}
    return {
        "metadata": {"namespace": "other", "name": "other", "uid": "other"},
        "status": {"targets": [{"name": "cpu", "artifact": named}]},
    }


def step(world: World, others: list[Json] | None = None, waited: float = 0) -> Departure:
    """The next step of the deletion."""
    deleted = stamp(world.now)
    world.wait(waited)
    return deletion.plan(world.model, world.settings, world.observed(), others, deleted, world.now)


def carried_out(world: World) -> Json:
    """The removal Job, created."""
    (job,) = step(world, []).create
    world.jobs[job["metadata"]["name"]] = world._stored(job)
    return world.jobs[job["metadata"]["name"]]


def removed(job: Json) -> request.RemoveRequest:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    text = next(item["value"] for item in container["env"] if item["name"] == request.REMOVE_VARIABLE)
    return request.RemoveRequest.model_validate_json(text)


def letters(job: Json) -> str:
    return "".join(key[0] for key in removed(job).keys)


@pytest.mark.parametrize(
    ("given", "scoped", "expected"),
    [
        ({}, False, None),
        ({"artifact": {**STORE, "deletionPolicy": "Retain"}}, False, None),
        ({"artifact": STORE}, False, "Delete"),
        ({"artifact": STORE}, True, "Retain"),
    ],
)
def test_policy_that_takes_effect(given: Any, scoped: bool, expected: str | None) -> None:
    world = World(spec(**given), SCOPED if scoped else SETTINGS)
    assert deletion.effective(world.model, world.settings) == expected
    world.settle()
    assert world.model.status.deletion_policy == expected


def test_policy_of_the_settings_holds_for_models_without_a_store_of_their_own() -> None:
    settings = SETTINGS.model_copy(update={"artifact_store": World(spec(artifact=STORE)).model.spec.artifact})
    assert deletion.effective(World(settings=settings).model, settings) == "Delete"


@pytest.mark.parametrize(
    ("given", "present", "expected"),
    [
        ({}, [], None),
        ({}, ["example.com/other"], None),
        ({"artifact": STORE}, [], [FINALIZER]),
        ({"artifact": STORE}, [FINALIZER, "example.com/other"], None),
        ({}, [FINALIZER], []),
    ],
)
def test_finalizer_is_only_on_models_that_ask_for_it(given: Any, present: Any, expected: Any) -> None:
    world = World(spec(**given))
    assert deletion.finalizers(world.model, world.settings, present) == expected


def test_model_without_artifacts_goes_at_once() -> None:
    assert step(made()) == Departure(release=True)


def test_model_that_no_longer_asks_for_removal_goes_at_once() -> None:
    world = made("a")
    world.edit(artifact={**STORE, "deletionPolicy": "Retain"})
    assert step(world) == Departure(release=True)


def test_other_models_are_looked_at_before_anything_is_removed() -> None:
    assert step(made("a")) == Departure(look_for_others=True)


def test_everything_that_the_status_names_is_removed() -> None:
    world = made("a", "b", "c")
    assert letters(carried_out(world)) == "abc"


def test_what_serves_is_removed_although_the_history_has_forgotten_it() -> None:
    world = made("a", revisionHistoryLimit=0)
    world.edit(source={"s3": {"uri": "s3://models/b"}})
    world.settle()
    world.export_ends(workers.proven("b"))
    world.settle()
    assert letters(carried_out(world)) == "ab"


def test_what_the_history_has_forgotten_is_removed_too() -> None:
    world = made("a", "b", "c", revisionHistoryLimit=1)
    assert [it.uri[-1] for it in world.model.status.retired] == ["a"]
    assert letters(carried_out(world)) == "abc"


def test_artifacts_of_a_target_that_the_spec_no_longer_has_are_removed_too() -> None:
    world = made("a")
    world.edit(targets=[{"name": "other"}], source={"s3": {"uri": "s3://models/b"}})
    world.settle()
    world.export_ends(workers.proven("b"), "other")
    world.settle()
    world.rollout_ends("other")
    world.settle()
    assert letters(carried_out(world)) == "ab"


def test_forgotten_artifact_that_comes_back_is_no_longer_retired() -> None:
    world = made("a", "b", revisionHistoryLimit=0)
    assert [it.uri[-1] for it in world.model.status.retired] == ["a"]
    world.edit(source={"s3": {"uri": "s3://models/a"}})
    world.settle()  # its Job is still there, and has ended well
    world.rollout_ends()
    world.settle()
    assert [it.uri[-1] for it in world.model.status.retired] == ["b"]


def test_retired_artifacts_are_remembered_while_the_operator_knows_no_store() -> None:
    world = made("a", "b", revisionHistoryLimit=0)
    before = world.model.status.retired
    world.settings = SETTINGS.model_copy(update={"artifact_store": None})
    del world.body["spec"]["artifact"]
    world.settle()
    assert before != ()
    assert world.model.status.retired == before


def test_nothing_is_retired_where_artifacts_stay() -> None:
    world = made("a", "b", "c", revisionHistoryLimit=0, artifact={**STORE, "deletionPolicy": "Retain"})
    assert world.model.status.retired == ()


def test_retired_artifacts_are_bounded_and_the_newest_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "MOST_RETIRED", 2)
    world = made("a", "b", "c", "d", revisionHistoryLimit=0)
    assert [it.uri[-1] for it in world.model.status.retired] == ["c", "b"]


@pytest.mark.parametrize(("settings", "told"), [(SETTINGS, False), (SCOPED, True)])
def test_status_says_why_artifacts_stay_although_they_were_to_go(settings: Any, told: bool) -> None:
    world = World(spec(artifact=STORE), settings)
    world.settle()
    message = world.model.status.deletion_policy_message
    assert ("watches a list of namespaces" in (message or "")) is told


def test_compiled_but_unproven_files_are_removed() -> None:
    world = made("a")
    pending = PendingStatus(attempt="x", key="f" * 64, digest="sha256:" + "f" * 64)
    world.body["status"]["targets"][0]["pending"] = pending.model_dump(mode="json", by_alias=True)
    assert letters(carried_out(world)) == "af"


def compiled(letter: str) -> World:
    """A model in two steps whose first one has ended."""
    world = World(spec(artifact=STORE, targets=[TWO_STEPS]))
    world.settle()
    compiles(world, letter)
    return world


def compiles(world: World, letter: str) -> None:
    pending = ArtifactReference(uri=f"{STORE['uri']}/{letter * 64}", digest=workers.digest_of(letter), size_bytes=7)
    outcome = ExportOutcome(request_digest="0" * 64, succeeded=True, key=letter * 64, pending=pending)
    world.export_ends(outcome.to_json())
    world.settle()


def test_files_that_are_to_be_proven_say_where_they_lie() -> None:
    world = compiled("a")
    pending = world.target().pending
    assert pending is not None
    assert (pending.uri, pending.size_bytes) == (f"{STORE['uri']}/{'a' * 64}", 7)
    assert world.model.status.retired == ()


def test_files_that_were_never_proven_are_removed_after_a_later_attempt() -> None:
    world = compiled("a")
    world.edit(source={"s3": {"uri": "s3://models/b"}})
    world.settle()
    compiles(world, "b")
    assert [it.uri[-1] for it in world.model.status.retired] == ["a"]
    world.export_ends(workers.proven("b"))
    world.settle()
    assert letters(carried_out(world)) == "ab"


def test_unproven_files_of_a_target_that_the_spec_no_longer_has_are_removed() -> None:
    world = compiled("a")
    world.edit(targets=[{"name": "other"}])
    world.settle()
    assert [it.uri[-1] for it in world.model.status.retired] == ["a"]
    world.export_ends(workers.proven("b"), "other")
    world.settle()
    assert letters(carried_out(world)) == "ab"


def test_unproven_files_in_a_store_that_the_spec_no_longer_names_are_removed_there() -> None:
    world = compiled("a")
    world.edit(artifact={**STORE, "uri": "s3://elsewhere"})
    world.settle()
    request = removed(carried_out_after_the_end(world))
    assert (request.store.uri, request.keys) == (STORE["uri"], ("a" * 64,))


def carried_out_after_the_end(world: World) -> Json:
    """The removal Job of a model whose exports are stopped."""
    for job in step(world).delete:
        world._delete(job)
    return carried_out(world)


def test_proven_files_are_no_longer_to_be_proven_and_not_retired() -> None:
    world = compiled("a")
    world.export_ends(workers.proven("a"))
    world.settle()
    assert world.model.status.retired == ()
    assert letters(carried_out(world)) == "a"


@pytest.mark.parametrize("where", ["targets", "history", "serving"])
def test_artifact_that_another_model_refers_to_stays(where: str) -> None:
    world = made("a", "b")
    body = other("b")
    (target,) = body["status"]["targets"]
    if where == "history":
        body["status"]["targets"] = [{"name": "cpu", "history": [target]}]
    elif where == "serving":
        body["status"] = {"serving": {"targets": [{"name": "cpu", "active": target}]}}
    (job,) = step(world, [body]).create
    assert letters(job) == "a"


def test_artifact_that_another_model_is_about_to_prove_stays() -> None:
    body = other("z")
    body["status"]["targets"][0]["pending"] = {"key": "a" * 64}
    assert step(made("a"), [body]) == Departure(release=True)


def test_model_goes_at_once_when_others_refer_to_all_it_has() -> None:
    assert step(made("a"), [other("a")]) == Departure(release=True)


def test_same_key_in_another_store_is_no_reference() -> None:
    (job,) = step(made("a"), [other("a", uri="s3://elsewhere")]).create
    assert letters(job) == "a"


def test_model_that_has_said_nothing_yet_refers_to_nothing() -> None:
    bodies = [{"metadata": {"namespace": "x", "name": "x", "uid": "x"}}, {**other("a"), "status": {}}]
    (job,) = step(made("a"), bodies).create
    assert letters(job) == "a"


@pytest.mark.parametrize(("namespace", "stays"), [("ml", True), ("other", False)])
def test_folder_is_only_the_same_in_the_same_claim(namespace: str, stays: bool) -> None:
    store = "file:///mnt/artifacts/models"
    claim = {"claimName": "artifacts", "path": "models"}
    world = World(spec(artifact={"persistentVolumeClaim": claim, "deletionPolicy": "Delete"}))
    world.settle()
    world.export_ends(workers.proven("a", store=store))
    world.settle()
    body = other("a", uri=store, store={"claimName": "artifacts"})
    body["metadata"]["namespace"] = namespace
    assert (step(world, [body]).create == ()) is stays


def test_stores_are_emptied_each_by_its_own_job() -> None:
    world = made("a")
    world.edit(artifact={**STORE, "uri": "s3://second"}, source={"s3": {"uri": "s3://models/b"}})
    world.settle()
    world.export_ends(workers.proven("b", store="s3://second"))
    world.settle()
    jobs = step(world, []).create
    assert {removed(job).store.uri: letters(job) for job in jobs} == {"s3://artifacts/models": "a", "s3://second": "b"}


def test_store_is_reached_with_the_newest_credentials() -> None:
    world = made("a", artifact={**STORE, "credentialsSecret": {"name": "old"}})
    world.edit(artifact={**STORE, "credentialsSecret": {"name": "new"}})
    world.settle()
    (job,) = step(world, []).create
    (container,) = job["spec"]["template"]["spec"]["containers"]
    secrets = {item["valueFrom"]["secretKeyRef"]["name"] for item in container["env"] if "valueFrom" in item}
    assert secrets == {"new"}


def test_artifact_whose_report_the_status_does_not_hold_yet_is_removed_too() -> None:
    world = made("a")
    world.edit(source={"s3": {"uri": "s3://models/b"}})
    world.settle()
    world.export_ends(workers.proven("b"))
    assert letters(carried_out(world)) == "ab"


def test_first_artifact_whose_report_the_status_does_not_hold_yet_is_removed() -> None:
    world = made()
    world.settle()
    world.export_ends(workers.proven("a"))
    assert letters(carried_out(world)) == "a"


def test_model_that_is_no_longer_trusted_takes_its_artifacts_along() -> None:
    source = {"huggingFace": {"repository": "owner/name"}, "trust": ["RemoteCode"]}
    world = World(spec(artifact=STORE, source=source), SETTINGS.model_copy(update={"trust": ("RemoteCode",)}))
    world.serves("a")
    world.settings = SETTINGS
    assert letters(carried_out(world)) == "a"


def test_running_export_is_stopped_and_awaited_first() -> None:
    world = made("a")
    world.edit(source={"s3": {"uri": "s3://models/b"}})
    world.settle()
    job = world.running()
    pod = world.pod_of(job, workers.pod_status("export", {"running": {}}))
    assert step(world).delete == (job,)
    del world.jobs[job["metadata"]["name"]]
    assert step(world) == Departure()
    pod["status"]["phase"] = "Failed"
    assert step(world).look_for_others


def test_model_waits_for_the_removal() -> None:
    world = made("a")
    carried_out(world)
    assert step(world) == Departure()


def test_model_goes_when_the_removal_is_done() -> None:
    world = made("a")
    carried_out(world)["status"] = workers.complete(stamp(world.now))
    assert step(world) == Departure(release=True)


def test_model_goes_when_the_removal_has_failed_and_says_what_stays() -> None:
    world = made("a")
    job = carried_out(world)
    message = workers.failed(workers.FailureReason.STORE_ACCESS_DENIED)
    world.pod_of(job, workers.pod_status("export", workers.terminated(86, message)))
    job["status"] = workers.job_failed(stamp(world.now))
    found = step(world)
    assert found.release
    assert found.retained is not None
    assert f"s3://artifacts/models/{'a' * 64}" in found.retained
    assert "What was found." in found.retained


def test_removal_that_never_starts_is_told_with_what_held_it_up() -> None:
    world = made("a")
    job = carried_out(world)
    world.pod_of(job, workers.unscheduled("0/3 nodes are available"))
    job["status"] = workers.job_failed(stamp(world.now), reason="DeadlineExceeded")
    found = step(world)
    assert found.release
    assert "900 s" in (found.retained or "")
    assert "0/3 nodes" in (found.retained or "")


@pytest.mark.parametrize("others", [None, []])
def test_model_goes_after_an_hour_whatever_it_waits_for(others: list[Json] | None) -> None:
    world = made("a")
    found = step(world, others, waited=3601)
    assert found.release
    assert "3600 s" in (found.retained or "")


def test_removal_has_no_owner_that_takes_it_along_too_early() -> None:
    assert "ownerReferences" not in carried_out(made("a"))["metadata"]


def test_removals_of_a_model_of_the_same_name_are_told_apart() -> None:
    first, second = made("a"), made("a")
    second.body["metadata"]["uid"] = "model-2"
    assert carried_out(first)["metadata"]["name"] != carried_out(second)["metadata"]["name"]


def test_name_of_a_removal_is_short_enough() -> None:
    world = made("a")
    world.body["metadata"]["name"] = "m" * 40
    assert len(deletion.job_name(world.model, next(iter(deletion.keys(world.model, world.settings))))) <= 58


@pytest.mark.parametrize("case", ["full", "volumes"])
def test_removal_is_as_recorded(case: str) -> None:
    body = yaml.safe_load((FOLDER / case / "model.yaml").read_text())
    world = World(body["spec"])
    world.body["spec"]["artifact"]["deletionPolicy"] = "Delete"
    world.settle()
    on_volume = "persistentVolumeClaim" in body["spec"]["artifact"]
    world.export_ends(workers.proven(store="file:///mnt/artifacts/models" if on_volume else "s3://team/models"))
    world.settle()
    text = yaml.dump(step(world, []).create[0], Dumper=Plain, sort_keys=False, width=120)
    golden(FOLDER / case / "remove.yaml", text)
