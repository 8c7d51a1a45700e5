"""What is remembered of live children, when a change asks for a pass, and what a pass has to read."""

import copy
from typing import Any

import pytest

from tests.unit import workers
from tests.unit.world import World
from torchscript_operator.api import conditions
from torchscript_operator.controller import serving
from torchscript_operator.controller.children import KINDS, Children
from torchscript_operator.controller.export_plan import stamp
from torchscript_operator.controller.model import ATTEMPT_LABEL, MODEL_LABEL, Json
from torchscript_operator.controller.queue import Key

KEY = Key("ml", "minilm")
NOW, SOON = (KEY, "now"), (KEY, "soon")


@pytest.fixture
def world() -> World:
    """A model that is exported and about to be served."""
    made = World()
    made.step()
    return made


@pytest.fixture
def children() -> Children:
    return Children()


def service(world: World) -> Json:
    assert world.service is not None
    return copy.deepcopy(world.service)


def everything(world: World) -> dict[str, list[Json]]:
    services = [world.service] if world.service else []
    jobs, deployments = list(world.jobs.values()), list(world.deployments.values())
    return {"jobs": jobs, "pods": world.pods, "deployments": deployments, "services": services}


def known(world: World, *, but: str = "") -> Children:
    """A memory that has seen all of a world, but one kind."""
    found = Children()
    for plural, bodies in everything(world).items():
        for body in bodies if plural != but else ():
            found.note(plural, body)
    return found


# When a pass is wanted.


def test_new_job_wants_a_pass_and_the_same_again_none(children: Children, world: World) -> None:
    assert children.note("jobs", world.running()) == NOW
    assert children.note("jobs", world.running()) is None


def test_progress_of_a_job_wants_none(children: Children, world: World) -> None:
    job = world.running()
    children.note("jobs", job)
    assert children.note("jobs", {**job, "status": {"startTime": stamp(world.now), "active": 1}}) is None


@pytest.mark.parametrize("status", [workers.complete("2026-01-01T00:00:00Z"), workers.job_failed("t")])
def test_end_of_a_job_wants_a_pass_now(children: Children, world: World, status: Json) -> None:
    job = world.running()
    children.note("jobs", job)
    assert children.note("jobs", {**job, "status": status}) == NOW


@pytest.mark.parametrize(
    "edit", [{"labels": {MODEL_LABEL: "minilm"}}, {"ownerReferences": []}, {"deletionTimestamp": "t"}, {"uid": "2"}]
)
@pytest.mark.parametrize("plural", ["jobs", "deployments", "services"])
def test_edited_metadata_wants_a_pass_now(plural: str, edit: Json) -> None:
    world = World()
    world.serves()
    children, body = known(world), everything(world)[plural][0]
    assert children.note(plural, {**body, "metadata": {**body["metadata"], **edit}}) == NOW


def test_edited_spec_wants_a_pass_now() -> None:
    world = World()
    world.serves()
    children, body = known(world), world.deployments["minilm-cpu"]
    assert children.note("deployments", {**body, "metadata": {**body["metadata"], "generation": 2}}) == NOW


def test_export_pod_that_appears_wants_a_pass_soon(children: Children, world: World) -> None:
    pod = world.pod_of(world.running(), workers.pod_status("export", {"running": {}}))
    assert children.note("pods", pod) == SOON


@pytest.mark.parametrize(
    "status",
    [
        workers.unscheduled("0/1 nodes are available."),
        workers.pod_status("export", workers.waiting("ErrImagePull", "no")),
        {"phase": "Failed", "reason": "Evicted", "message": "disk"},
    ],
)
def test_export_pod_that_is_held_up_wants_a_pass_now(children: Children, world: World, status: Json) -> None:
    pod = world.pod_of(world.running(), workers.pod_status("export", {"running": {}}))
    children.note("pods", pod)
    assert children.note("pods", {**pod, "status": status}) == NOW


@pytest.mark.parametrize(("code", "wanted"), [(0, None), (137, SOON)])
def test_end_of_an_export_pod_waits_for_its_job(
    children: Children, world: World, code: int, wanted: tuple[Key, str] | None
) -> None:
    pod = world.pod_of(world.running(), workers.pod_status("export", {"running": {}}))
    children.note("pods", pod)
    ended = workers.pod_status("export", workers.terminated(code))
    assert children.note("pods", {**pod, "status": ended}) == wanted


def serving_pod(state: Json, *, ready: bool = False) -> Json:
    world = World()
    world.serves()
    deployment = world.deployments["minilm-cpu"]
    status = workers.pod_status("server", state, ready=ready)
    return world._pod(deployment, deployment["spec"]["template"], status)


@pytest.mark.parametrize("ready", [True, False])
def test_serving_pod_that_is_well_wants_none(children: Children, ready: bool) -> None:
    assert children.note("pods", serving_pod({"running": {}}, ready=ready)) is None


def test_serving_pod_that_gives_up_wants_a_pass_now(children: Children) -> None:
    assert children.note("pods", serving_pod(workers.terminated(64))) == NOW


def deployment_changes(before: Json, after: Json) -> tuple[Key, str] | None:
    """The pass that is wanted when a Deployment that serves has one status and then another."""
    world = World()
    world.serves()
    children, body = Children(), world.deployments["minilm-cpu"]
    children.note("deployments", {**body, "status": body["status"] | before})
    return children.note("deployments", {**body, "status": body["status"] | before | after})


@pytest.mark.parametrize(
    "status",
    [
        {"availableReplicas": 0},
        {"replicas": 2},
        {"observedGeneration": 0},
        {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "quota"}]},
        {"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]},
    ],
)
def test_deployment_that_is_no_longer_well_wants_a_pass_now(status: Json) -> None:
    assert deployment_changes({}, status) == NOW


def test_figures_of_a_rollout_want_a_pass_soon() -> None:
    assert deployment_changes({"replicas": 2, "updatedReplicas": 0}, {"updatedReplicas": 1}) == SOON


def test_words_of_the_deployment_controller_want_none() -> None:
    told = {"conditions": [{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated", "message": "on"}]}
    assert deployment_changes({}, told) is None


def test_revision_that_the_deployment_controller_writes_wants_none() -> None:
    world = World()
    world.serves()
    children = known(world)
    body = copy.deepcopy(world.deployments["minilm-cpu"])
    body["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1"
    assert children.note("deployments", body) is None


def test_edited_service_wants_a_pass_now() -> None:
    world = World()
    world.serves()
    children, body = known(world), service(world)
    body["spec"]["ports"] = []
    assert children.note("services", body) == NOW


def test_status_of_an_autoscaler_wants_none(children: Children) -> None:
    body: Any = {"metadata": {"namespace": "ml", "name": "minilm-cpu", "uid": "1", "labels": {MODEL_LABEL: "minilm"}}}
    children.note("horizontalpodautoscalers", {**body, "spec": {"maxReplicas": 3}})
    seen = {**body, "spec": {"maxReplicas": 3}, "status": {"currentReplicas": 2}}
    assert children.note("horizontalpodautoscalers", seen) is None
    assert children.note("horizontalpodautoscalers", {**body, "spec": {"maxReplicas": 4}}) == NOW


def test_child_that_goes_wants_a_pass(children: Children, world: World) -> None:
    job = world.running()
    children.note("jobs", job)
    assert children.forget("jobs", KEY, job["metadata"]["name"]) == NOW
    assert children.forget("jobs", KEY, job["metadata"]["name"]) is None


@pytest.mark.parametrize("plural", KINDS)
def test_object_without_the_model_label_is_nobodys(children: Children, plural: str) -> None:
    assert children.note(plural, {"metadata": {"namespace": "ml", "name": "x", "uid": "1"}, "spec": {}}) is None


def test_what_a_list_lacks_is_missing_in_its_namespace_only(children: Children, world: World) -> None:
    job = world.running()
    children.note("jobs", job)
    name = job["metadata"]["name"]
    assert children.missing("jobs", None, set()) == children.missing("jobs", "ml", set()) == [(KEY, name)]
    assert children.missing("jobs", "other", set()) == []
    assert children.missing("jobs", None, {(KEY, name)}) == []


# What a pass writes.


def test_event_of_our_own_write_wants_none_whenever_it_comes(children: Children, world: World) -> None:
    job = world.running()
    name = job["metadata"]["name"]
    children.begin("jobs", KEY, name)
    assert children.note("jobs", job) is None
    assert not children.finish("jobs", KEY, name, job)
    assert children.note("jobs", job) is None


def test_other_change_during_a_write_is_told_with_its_answer(children: Children, world: World) -> None:
    job = world.running()
    name = job["metadata"]["name"]
    ended = {**job, "status": workers.complete(stamp(world.now))}
    children.begin("jobs", KEY, name)
    assert children.note("jobs", ended) is None
    assert children.finish("jobs", KEY, name, job)
    assert children.note("jobs", ended) is None, "the newer state is kept"


def test_deletion_during_a_write_is_told_with_its_answer(children: Children, world: World) -> None:
    job = world.running()
    name = job["metadata"]["name"]
    children.begin("jobs", KEY, name)
    assert children.forget("jobs", KEY, name) is None
    assert children.finish("jobs", KEY, name, job)
    assert children.of("jobs", KEY) == {}


def test_write_without_an_answer_tells_of_what_was_heard(children: Children, world: World) -> None:
    job = world.running()
    name = job["metadata"]["name"]
    children.begin("jobs", KEY, name)
    children.note("jobs", job)
    assert children.finish("jobs", KEY, name, None)
    assert list(children.of("jobs", KEY)) == [name]


def test_write_that_failed_leaves_nothing_behind(children: Children, world: World) -> None:
    children.begin("jobs", KEY, "x")
    assert not children.finish("jobs", KEY, "x", None)
    assert children.of("jobs", KEY) == {}
    assert children.note("jobs", world.running()) == NOW


# What a pass reads.


def test_running_export_has_its_job_read_and_not_the_pod_that_runs(world: World) -> None:
    world.pod_of(world.running(), workers.pod_status("export", {"running": {}}))
    names = known(world).to_read(world.model)
    assert (len(names["jobs"]), names["pods"], names["deployments"]) == (1, [], [])


@pytest.mark.parametrize(
    "status",
    [
        workers.unscheduled("0/1 nodes are available."),
        workers.pod_status("export", workers.waiting("ContainerCreating")),
        workers.pod_status("export", workers.terminated(0)),
        {"phase": "Pending"},
        {"phase": "Running"},
    ],
)
def test_export_pod_that_does_not_run_is_read(world: World, status: Json) -> None:
    world.pod_of(world.running(), status)
    assert len(known(world).to_read(world.model)["pods"]) == 1


def test_all_pods_of_a_job_are_read_where_one_has_something_to_say(world: World) -> None:
    world.pod_of(world.running(), workers.pod_status("export", workers.terminated(137)))
    world.pod_of(world.running(), workers.pod_status("export", {"running": {}}))
    assert len(known(world).to_read(world.model)["pods"]) == 2


def test_pod_that_seemed_to_run_is_read_once_its_job_has_ended(world: World) -> None:
    pod = world.pod_of(world.running(), workers.pod_status("export", {"running": {}}))
    world.running()["status"] = workers.complete(stamp(world.now))
    assert known(world).to_read(world.model)["pods"] == [pod["metadata"]["name"]]


def applied(world: World) -> Children:
    """What is remembered right after a Service was applied."""
    children, body = known(world), service(world)
    children.begin("services", KEY, "minilm")
    children.finish("services", KEY, "minilm", body)
    return children


def test_service_is_as_applied_until_something_else_is_heard_of_it() -> None:
    world = World()
    world.serves()
    children, body = applied(world), service(world)
    wanted = serving.service(world.model)
    assert children.is_as_applied(wanted)
    assert children.note("services", body) is None
    assert children.is_as_applied(wanted), "its own event changes nothing"
    body["spec"]["selector"] = {"app": "other"}
    assert children.note("services", body) == NOW
    assert not children.is_as_applied(wanted)


def test_service_is_not_as_applied_when_another_is_wanted() -> None:
    world = World()
    world.serves()
    children = applied(world)
    world.edit(serving={"tls": {"secretName": "minilm-tls"}})
    assert not children.is_as_applied(serving.service(world.model))


def test_service_that_was_only_seen_or_is_gone_is_not_as_applied() -> None:
    world = World()
    world.serves()
    wanted = serving.service(world.model)
    assert not known(world).is_as_applied(wanted)
    children = applied(world)
    children.forget("services", KEY, "minilm")
    assert not children.is_as_applied(wanted)
    children.note("services", service(world))
    assert not children.is_as_applied(wanted)


def first_heard(world: World, entries: list[Json]) -> Children:
    """What is remembered once a list has shown a Service with such entries of who has written to it."""
    children, body = known(world, but="services"), service(world)
    body["metadata"]["managedFields"] = entries
    children.note("services", body)
    return children


OURS: Json = {"manager": "torchscript-operator", "operation": "Apply", "apiVersion": "v1", "fieldsV1": {}}


def test_service_that_nobody_else_has_written_to_is_as_applied_when_first_heard_of() -> None:
    world = World()
    world.serves()
    children = first_heard(world, [OURS])
    assert children.is_as_applied(serving.service(world.model))
    world.edit(serving={"tls": {"secretName": "minilm-tls"}})
    assert not children.is_as_applied(serving.service(world.model))


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [OURS, {**OURS, "manager": "kubectl-edit", "operation": "Update"}],
        [OURS, {**OURS, "operation": "Update"}],
        [{**OURS, "manager": "kubectl"}],
        [{**OURS, "operation": "Update"}],
    ],
    ids=["nobody", "another", "a webhook", "somebody else's", "not applied"],
)
def test_service_that_somebody_else_has_written_to_is_read(entries: list[Json]) -> None:
    world = World()
    world.serves()
    assert not first_heard(world, entries).is_as_applied(serving.service(world.model))


def test_service_that_is_known_already_is_not_taken_for_ours_alone() -> None:
    world = World()
    world.serves()
    children, body = applied(world), service(world)
    body["spec"]["selector"] = {"app": "other"}
    body["metadata"]["managedFields"] = [OURS]
    children.note("services", body)
    assert not children.is_as_applied(serving.service(world.model))


def test_change_of_a_service_while_it_is_applied_is_not_taken_for_the_answer() -> None:
    world = World()
    world.serves()
    children, body = known(world), service(world)
    children.begin("services", KEY, "minilm")
    edited = copy.deepcopy(body)
    edited["spec"]["selector"] = {"app": "other"}
    children.note("services", edited)
    assert children.finish("services", KEY, "minilm", body)
    assert not children.is_as_applied(serving.service(world.model))


def test_end_that_the_status_lacks_is_read(world: World) -> None:
    world.export_ends(workers.proven())
    names = known(world).to_read(world.model)
    assert (len(names["jobs"]), len(names["pods"])) == (1, 1)


def test_end_that_the_status_tells_is_not_read_again() -> None:
    world = World()
    world.serves()
    names = known(world).to_read(world.model)
    assert names == {"jobs": [], "pods": [], "deployments": ["minilm-cpu"], "services": ["minilm"]}


def test_failure_that_the_status_tells_is_not_read_again(world: World) -> None:
    world.export_fails(65)
    world.settle()
    names = known(world).to_read(world.model)
    assert (names["jobs"], names["pods"]) == ([], [])


def test_old_job_that_still_runs_is_read() -> None:
    world = World()
    world.serves()
    job = next(iter(world.jobs.values()))
    job["status"] = {}
    assert known(world).to_read(world.model)["jobs"] == [job["metadata"]["name"]]


def test_new_attempt_is_read_beside_one_that_is_told() -> None:
    world = World()
    world.serves()
    world.edit(source={"s3": {"uri": "s3://models/other"}})
    world.step()
    job = world.running()
    assert known(world).to_read(world.model)["jobs"] == [job["metadata"]["name"]]
    assert job["metadata"]["labels"][ATTEMPT_LABEL] != world.target().attempt


def test_serving_pod_is_read_only_in_trouble() -> None:
    world = World()
    world.serves()
    deployment = world.deployments["minilm-cpu"]
    well = workers.pod_status("server", {"running": {}}, ready=True)
    world._pod(deployment, deployment["spec"]["template"], well)
    assert known(world).to_read(world.model)["pods"] == []
    ill = workers.pod_status("server", workers.waiting("ErrImagePull", "no"))
    pod = world._pod(deployment, deployment["spec"]["template"], ill)
    assert known(world).to_read(world.model)["pods"] == [pod["metadata"]["name"]]


def test_somebody_elses_service_is_looked_for_from_the_second_pass_until_the_first_export_ends() -> None:
    world = World()
    assert known(world).to_read(world.model)["services"] == []
    world.step()
    assert known(world).to_read(world.model)["services"] == ["minilm"]
    world.export_ends(workers.proven())
    assert known(world).to_read(world.model)["services"] == []


def test_somebody_elses_service_is_looked_for_while_it_is_in_the_way() -> None:
    world = World()
    world.serves()
    ready = next(it for it in world.body["status"]["conditions"] if it["type"] == conditions.READY)
    ready["reason"] = conditions.NAME_CONFLICT
    assert Children().to_read(world.model)["services"] == ["minilm"]
