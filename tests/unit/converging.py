"""A world in which everything goes well: what is exported has its request's address, what is rolled out gets Ready."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from tests.unit import workers
from torchscript_operator.artifact import digest
from torchscript_operator.artifact.outcome import ArtifactReference, ExportOutcome
from torchscript_operator.artifact.request import EXPORT_VARIABLE, ExportRequest
from torchscript_operator.controller.model import TARGET_LABEL
from torchscript_operator.controller.observed import ended

if TYPE_CHECKING:
    from tests.unit.world import World

Json = dict[str, Any]
ROUNDS = 12


def asked(job: Json) -> ExportRequest:
    """What a Job is to do."""
    environment = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return ExportRequest.model_validate_json(
        next(item["value"] for item in environment if item["name"] == EXPORT_VARIABLE)
    )


def outcome(job: Json) -> str:
    """The termination message of a Job that ends well. Equal requests make equal artifacts."""
    request = asked(job)
    if request.pending is not None:
        key = request.pending.key
    else:
        kept = request.model_copy(update={"model": "", "target": "", "proof": None})
        key = digest.of_value(kept.model_dump(mode="json"))
    reference = ArtifactReference(uri=f"{request.store.uri}/{key}", digest=f"sha256:{key}", size_bytes=1)
    if request.proof == "Deferred" and request.pending is None:
        return ExportOutcome(
            request_digest="0" * 64, succeeded=True, key=key, source_revision="r" * 40, pending=reference
        ).to_json()
    return workers.proven(key=key, artifact=reference.model_dump(mode="json", by_alias=True))


def converge(world: World) -> None:
    """Everything goes well until nothing is left to do."""
    for _ in range(ROUNDS):
        world.settle()
        running = [job for job in world.jobs.values() if not ended(job)]
        for job in running:
            world.export_ends(outcome(job), job["metadata"]["labels"][TARGET_LABEL])
        behind = [
            item
            for item in world.deployments.values()
            if item.get("status", {}).get("observedGeneration") != item["metadata"]["generation"]
            or item["status"].get("replicas") != item["spec"]["replicas"]
        ]
        for deployment in behind:
            deployment["status"] = workers.rolled_out(deployment)
        if not running and not behind:
            return
    raise AssertionError("there is always something left to do")


def plain(value: Any) -> Any:
    """Without identities and times."""
    volatile = {
        "uid",
        "creationTimestamp",
        "lastTransitionTime",
        "observedGeneration",
        "generation",
        "provenTime",
        "managedFields",
    }
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in volatile}
    return [plain(item) for item in value] if isinstance(value, list) else value


def shown(world: World) -> Json:
    """What people and the cluster see of a model."""
    found: Json = {
        "jobs": {name: job["spec"] for name, job in world.jobs.items() if not ended(job)},
        "deployments": {name: [it["metadata"], it["spec"]] for name, it in world.deployments.items()},
        "service": world.service,
        "companions": {f"{kind} {name}": it["spec"] for (kind, name), it in world.companions.items()},
        "status": world.body["status"],
    }
    return copy.deepcopy({key: plain(value) for key, value in found.items()})


def without_history(found: Json) -> Json:
    """The same without what tells of earlier specs."""
    found = copy.deepcopy(found)
    found["status"].pop("retired", None)
    for target in found["status"].get("targets", []):
        for key in ("history", "lastFailure", "pending", "job", "attempt"):
            target.pop(key, None)
    return found


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two values differ, and how."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = dict.fromkeys([*one, *other])
        return [found for key in keys for found in differences(one.get(key), other.get(key), f"{path}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            found
            for place, pair in enumerate(zip(one, other, strict=True))
            for found in differences(*pair, f"{path}/{place}")
        ]
    return [] if one == other else [f"{path}: {one!r} and not {other!r}"]
