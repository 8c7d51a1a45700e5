"""What people and the cluster's controllers do to a model and its children while an operator is at work on them."""

import asyncio
import copy
from collections.abc import Callable
from typing import Any

from tests.unit import workers
from tests.unit.race import TICK_SECONDS, Race
from tests.unit.racing import KEY
from tests.unit.world import World, spec, stamp, targets
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.controller.children import KINDS
from torchscript_operator.controller.model import (
    APPLIED_ANNOTATION,
    COMPONENT_LABEL,
    RETRY_ANNOTATION,
    ROLLBACK_ANNOTATION,
    SERVING,
    TARGET_LABEL,
    Json,
)
from torchscript_operator.controller.observed import ended, label

Act = Callable[[World], None]
UNREACHABLE, LOST, BROKEN = (
    CLASSES[reason].exit_code
    for reason in (FailureReason.STORE_UNREACHABLE, FailureReason.ARTIFACT_NOT_FOUND, FailureReason.REPLAY_FAILED)
)
BEGINNING = spec(source={"s3": {"uri": "s3://models/a"}})


def letter_of(world: World) -> str:
    """Of the source; a Job of a model that is gone still ends."""
    uri: str = (world.body or {"spec": BEGINNING})["spec"]["source"]["s3"]["uri"]
    return uri[-1]


# Jobs and their pods.


def running(world: World) -> list[Json]:
    return [job for job in world.jobs.values() if not ended(job)]


def of_a_running_job(act: Callable[[World, Json], None]) -> Act:
    def apply(world: World) -> None:
        for job in running(world)[-1:]:
            act(world, job)

    return apply


def pods_of(world: World, owner: Json) -> list[Json]:
    uid = owner["metadata"]["uid"]
    return [pod for pod in world.pods if pod["metadata"]["ownerReferences"][0]["uid"] == uid]


def counted(world: World, job: Json) -> None:
    """The Job's controller has seen its pods."""
    phases = [pod["status"].get("phase") for pod in pods_of(world, job)]
    ready = sum(pod["status"].get("phase") == "Running" for pod in pods_of(world, job))
    active = sum(phase in {None, "Pending", "Running"} for phase in phases)
    job["status"] = {"startTime": job["metadata"]["creationTimestamp"], "active": active, "ready": ready}


def gets_a_pod(world: World, job: Json) -> None:
    world.pod_of(job, {"phase": "Pending"})


def ends_well(world: World, job: Json) -> None:
    target = job["metadata"]["labels"][TARGET_LABEL]
    for pod in pods_of(world, job)[-1:]:
        world.pods.remove(pod)
    if [it for it in running(world) if label(it, TARGET_LABEL) == target] == [job]:
        world.export_ends(workers.proven(letter_of(world)), target)


def report_is_lost(world: World, job: Json) -> None:
    world.pods = [pod for pod in world.pods if pod not in pods_of(world, job)]
    job["status"] = workers.complete(stamp(world.now))


def ends_badly(world: World, job: Json) -> None:
    world.pod_of(job, workers.pod_status("export", workers.terminated(84)))
    job["status"] = workers.job_failed(stamp(world.now))


def is_halted(_: World, job: Json) -> None:
    job["spec"]["suspend"] = not job["spec"].get("suspend", False)
    job["metadata"]["generation"] += 1


def goes(world: World, job: Json) -> None:
    world._delete(job)


def old_jobs_go(world: World) -> None:
    for job in [job for job in world.jobs.values() if ended(job)]:
        world._delete(job)


# Any pod, the newest.


def of_a_pod(component: str, act: Callable[[World, Json], None]) -> Act:
    def apply(world: World) -> None:
        fitting = [pod for pod in world.pods if label(pod, COMPONENT_LABEL) == component]
        for pod in fitting[-1:]:
            act(world, pod)

    return apply


def _name(pod: Json) -> str:
    return "server" if label(pod, COMPONENT_LABEL) == SERVING else "export"


def is_placed(world: World, pod: Json) -> None:
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(world.now)}
    creating = workers.container_status(_name(pod), {"waiting": {"reason": "ContainerCreating"}})
    pod["status"] = {"phase": "Pending", "conditions": [placed], "containerStatuses": [creating]}


def finds_no_node(_: World, pod: Json) -> None:
    pod["status"] = workers.unscheduled("0/3 nodes are available: 3 Insufficient memory.")


def finds_no_image(_: World, pod: Json) -> None:
    pod["status"] = workers.pod_status(_name(pod), workers.waiting("ImagePullBackOff"))


def runs(_: World, pod: Json) -> None:
    pod["status"] = workers.pod_status(_name(pod), {"running": {}})


def is_ready(_: World, pod: Json) -> None:
    pod["status"] = workers.pod_status(_name(pod), {"running": {}}, ready=True)


def crashes(code: int) -> Callable[[World, Json], None]:
    def apply(_: World, pod: Json) -> None:
        pod["status"] = workers.pod_status(_name(pod), workers.terminated(code))

    return apply


def vanishes(world: World, pod: Json) -> None:
    world.pods.remove(pod)


def is_without_its_volume(world: World, pod: Json) -> None:
    """What only an event tells."""
    metadata = {"name": "mount", "creationTimestamp": stamp(world.now)}
    about = {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    said = 'MountVolume.SetUp failed for volume "artifact" : secret "s3" not found'
    world.events.append(
        {
            "metadata": metadata,
            "involvedObject": about,
            "reason": "FailedMount",
            "message": said,
            "lastTimestamp": stamp(world.now),
        }
    )


# Deployments.


def of_a_deployment(act: Callable[[World, Json], None]) -> Act:
    def apply(world: World) -> None:
        for deployment in list(world.deployments.values())[:1]:
            act(world, deployment)

    return apply


def rolls_out(_: World, deployment: Json) -> None:
    deployment["status"] = workers.rolled_out(deployment)


def _progress(world: World, deployment: Json) -> None:
    for found in deployment["status"].get("conditions", []):
        if found["type"] == "Progressing":
            found["lastUpdateTime"] = stamp(world.now)


def rolls(world: World, deployment: Json) -> None:
    deployment["status"] = workers.rolling(deployment)
    _progress(world, deployment)


def is_late(world: World, deployment: Json) -> None:
    deployment["status"] = workers.rolling(deployment, late=True)
    _progress(world, deployment)


def is_noticed(_: World, deployment: Json) -> None:
    """Its controller has seen the present generation, and done no more."""
    deployment["status"]["observedGeneration"] = deployment["metadata"]["generation"]


def loses_pods(_: World, deployment: Json) -> None:
    deployment["status"] |= {"availableReplicas": 0, "readyReplicas": 0}


def lacks_a_pod(_: World, deployment: Json) -> None:
    """One of them waits."""
    deployment["status"] = workers.rolled_out(deployment)
    for count in ("availableReplicas", "readyReplicas"):
        deployment["status"][count] = max(0, deployment["status"][count] - 1)


def makes_a_pod(world: World, deployment: Json) -> None:
    world._pod(deployment, deployment["spec"]["template"], {"phase": "Pending"})


def is_refused_pods(_: World, deployment: Json) -> None:
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: gpu"}
    deployment["status"].setdefault("conditions", []).append(refused)


def is_scaled(_: World, deployment: Json) -> None:
    """By an autoscaler, whose number it then is."""
    if deployment["spec"]["replicas"] == 3:
        return
    deployment["spec"]["replicas"] = 3
    deployment["metadata"]["generation"] += 1
    deployment["metadata"]["managedFields"] = [
        {"manager": "autoscaler", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    ]


def has_another_image(_: World, deployment: Json) -> None:
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "other"
    deployment["metadata"]["generation"] += 1


def is_paused(_: World, deployment: Json) -> None:
    deployment["spec"]["paused"] = not deployment["spec"].get("paused", False)
    deployment["metadata"]["generation"] += 1


def loses_a_label(_: World, deployment: Json) -> None:
    labels = deployment["metadata"]["labels"]
    deployment["metadata"]["labels"] = {key: value for key, value in labels.items() if not key.startswith("app.")}


def loses_its_mark(_: World, deployment: Json) -> None:
    deployment["metadata"]["annotations"].pop(APPLIED_ANNOTATION, None)


def loses_its_owner(_: World, deployment: Json) -> None:
    deployment["metadata"].pop("ownerReferences", None)


# Services, autoscalers, budgets.


def service(act: Callable[[Json], None]) -> Act:
    def apply(world: World) -> None:
        if world.service is not None:
            act(world.service)

    return apply


def service_goes(world: World) -> None:
    world.service = None


def companions_go(world: World) -> None:
    world.companions.clear()


def companions_change(world: World) -> None:
    for body in world.companions.values():
        body["spec"] = {**body["spec"], "minReplicas": 9, "maxUnavailable": 9}
        body["metadata"]["generation"] += 1


def stranger(kind: str, name: str) -> Act:
    """Somebody else's object, which does not bear our label."""

    def apply(world: World) -> None:
        metadata = {"name": name, "namespace": KEY.namespace, "uid": "stranger", "generation": 1}
        body: Json = {"kind": kind, "metadata": metadata, "spec": {}, "status": {}}
        if kind == "Service":
            world.service = body
        else:
            world.deployments[name] = body

    return apply


def stranger_goes(world: World) -> None:
    world._delete({"metadata": {"uid": "stranger"}})


# The model.


def of_the_model(act: Act) -> Act:
    return lambda world: act(world) if world.body else None


def edit(**fields: Any) -> Act:
    return of_the_model(lambda world: world.edit(**fields))


def annotate(name: str, value: str | None) -> Act:
    def apply(world: World) -> None:
        annotations = world.body["metadata"]["annotations"]
        annotations.pop(name, None)
        if value is not None:
            annotations[name] = value

    return of_the_model(apply)


def is_deleted(world: World) -> None:
    if world.body["metadata"].get("finalizers"):
        world.body["metadata"].setdefault("deletionTimestamp", stamp(world.now))
    else:
        world.body = {}


def is_made_anew(world: World) -> None:
    if not world.body:
        metadata = {"namespace": "ml", "name": KEY.name, "uid": f"model-{stamp(world.now)}", "generation": 1}
        world.body = {"metadata": {**metadata, "annotations": {}}, "spec": copy.deepcopy(BEGINNING), "status": {}}


def garbage_goes(world: World) -> None:
    """Children of whoever is gone."""
    found = [*world.jobs.values(), *world.deployments.values(), *world.companions.values()]
    found += [world.service] if world.service is not None else []
    for item in found:
        owners = item["metadata"].get("ownerReferences", [])
        if owners and world.body.get("metadata", {}).get("uid") not in {it["uid"] for it in owners}:
            world._delete(item)
    there = {it["metadata"]["uid"] for it in [*world.jobs.values(), *world.deployments.values()]}
    world.pods = [pod for pod in world.pods if pod["metadata"]["ownerReferences"][0]["uid"] in there]


JOBS: dict[str, Act] = {
    "a Job gets a pod": of_a_running_job(gets_a_pod),
    "a Job's status follows its pods": of_a_running_job(counted),
    "a Job ends well": of_a_running_job(ends_well),
    "a Job ends without its pod": of_a_running_job(report_is_lost),
    "a Job fails": of_a_running_job(ends_badly),
    "a Job is halted or let go on": of_a_running_job(is_halted),
    "a Job is deleted": of_a_running_job(goes),
    "ended Jobs are deleted": old_jobs_go,
    "an export pod is placed": of_a_pod("export", is_placed),
    "an export pod finds no node": of_a_pod("export", finds_no_node),
    "an export pod finds no image": of_a_pod("export", finds_no_image),
    "an export pod has no volume": of_a_pod("export", is_without_its_volume),
    "an export pod runs": of_a_pod("export", is_ready),
    "an export pod fails for now": of_a_pod("export", crashes(UNREACHABLE)),
    "an export pod vanishes": of_a_pod("export", vanishes),
}
ROLLOUTS: dict[str, Act] = {
    "a Deployment is rolled out": of_a_deployment(rolls_out),
    "a Deployment is rolling": of_a_deployment(rolls),
    "a Deployment is past its deadline": of_a_deployment(is_late),
    "a Deployment is noticed": of_a_deployment(is_noticed),
    "a Deployment loses its pods": of_a_deployment(loses_pods),
    "a Deployment lacks a pod": of_a_deployment(lacks_a_pod),
    "a Deployment gets a pod": of_a_deployment(makes_a_pod),
    "a Deployment is refused pods": of_a_deployment(is_refused_pods),
    "a serving pod is placed": of_a_pod(SERVING, is_placed),
    "a serving pod finds no node": of_a_pod(SERVING, finds_no_node),
    "a serving pod finds no image": of_a_pod(SERVING, finds_no_image),
    "a serving pod has no volume": of_a_pod(SERVING, is_without_its_volume),
    "a serving pod runs": of_a_pod(SERVING, runs),
    "a serving pod is Ready": of_a_pod(SERVING, is_ready),
    "a serving pod fails its replay": of_a_pod(SERVING, crashes(BROKEN)),
    "a serving pod misses its artifact": of_a_pod(SERVING, crashes(LOST)),
    "a serving pod vanishes": of_a_pod(SERVING, vanishes),
}
HANDS: dict[str, Act] = {
    "an autoscaler scales": of_a_deployment(is_scaled),
    "a Deployment gets another image": of_a_deployment(has_another_image),
    "a Deployment is paused or goes on": of_a_deployment(is_paused),
    "a Deployment loses a label": of_a_deployment(loses_a_label),
    "a Deployment loses what it was applied from": of_a_deployment(loses_its_mark),
    "a Deployment loses its owner": of_a_deployment(loses_its_owner),
    "a Deployment is deleted": of_a_deployment(goes),
    "the Service selects others": service(lambda it: it["spec"].update(selector={"app": "other"})),
    "the Service selects fewer": service(lambda it: it["spec"]["selector"].update(version="v1")),
    "the Service loses its labels": service(lambda it: it["metadata"].update(labels={})),
    "the Service is deleted": service_goes,
    "companions are deleted": companions_go,
    "companions are changed": companions_change,
}
STRANGERS: dict[str, Act] = {
    "a stranger has the Service's name": stranger("Service", KEY.name),
    "a stranger has the Deployment's name": stranger("Deployment", f"{KEY.name}-cpu"),
    "the stranger goes": stranger_goes,
}
PEOPLE: dict[str, Act] = {
    **{f"source {letter}": edit(source={"s3": {"uri": f"s3://models/{letter}"}}) for letter in "ab"},
    "one replica": edit(serving={"replicas": 1}),
    "two replicas": edit(serving={"replicas": 2}),
    "autoscaled": edit(serving={"autoscaling": {"minReplicas": 1, "maxReplicas": 4}}),
    "more memory": edit(serving={"resources": {"limits": {"memory": "8Gi"}}}),
    "nothing is served": edit(serving={"targets": []}),
    "everything is served": edit(serving={}),
    "one target": edit(targets=targets("cpu")),
    "two targets": edit(targets=targets("cpu", "two")),
    "no history": edit(revisionHistoryLimit=0),
    "suspended": edit(suspend=True),
    "resumed": edit(suspend=False),
    "artifacts go with the model": edit(artifact={"uri": "s3://artifacts/models", "deletionPolicy": "Delete"}),
    **{f"retry {value}": annotate(RETRY_ANNOTATION, value) for value in ("1", "2")},
    "rolled back": annotate(ROLLBACK_ANNOTATION, "a" * 8),
    "rolled back no more": annotate(ROLLBACK_ANNOTATION, None),
    "the model is deleted": of_the_model(is_deleted),
    "the model is made anew": is_made_anew,
    "garbage is collected": garbage_goes,
}


def _slow(seconds: float) -> Callable[[Race], None]:
    def apply(race: Race) -> None:
        race.slow = seconds

    return apply


def _fail(race: Race) -> None:
    race.server.fails = True


def _relist(plural: str) -> Callable[[Race], None]:
    return lambda race: race.relist(plural)


def _die(race: Race) -> None:
    race.slow = TICK_SECONDS
    asyncio.get_running_loop().call_soon(race.start)


NETWORK: dict[str, Callable[[Race], None]] = {
    "3 s pass": _slow(3),
    "12 s pass": _slow(12),
    "25 s pass": _slow(25),
    "a call fails": _fail,
    "the operator dies": _die,
    **{f"{plural} are listed anew": _relist(plural) for plural in KINDS},
}


def _on_world(act: Act) -> Callable[[Race], None]:
    return lambda race: act(race.world)


ACTIONS: dict[str, Callable[[Race], None]] = {
    **{name: _on_world(act) for name, act in {**JOBS, **ROLLOUTS, **HANDS, **STRANGERS, **PEOPLE}.items()},
    **NETWORK,
}
