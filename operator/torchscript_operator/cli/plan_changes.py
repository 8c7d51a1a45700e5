"""What differs: between two specs, between the inputs of two exports, and between a live child and an applied one."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torchscript_operator.api.v1alpha1.spec import Target
from torchscript_operator.cli.cluster.access import Json
from torchscript_operator.cli.plan_facts import Change
from torchscript_operator.controller import jobs
from torchscript_operator.controller.drift import contains
from torchscript_operator.controller.model import Model
from torchscript_operator.controller.settings import Settings

RENAMED = {
    "compilation.arguments": "spec.targets[{target}].compilerArguments",
    "compilation.searchSeconds": "spec.targets[{target}].precisionSearchSeconds",
    "workerImage": "worker image",
    "proof": "spec.targets[{target}].verify",
}
NOT_INPUTS = ("model", "target", "schemaVersion", "pending")
"""Fields of a request that no artifact depends on."""


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of an object by their paths; a list whose items have no names is a leaf."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from flat(item, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        for item in value:
            rest = {name: inner for name, inner in item.items() if name != "name"}
            yield from flat(rest or None, f"{prefix}[{item['name']}]")
            yield f"{prefix}[{item['name']}].name", item["name"]
    elif value is not None:
        yield prefix, value


def differences(before: Any, after: Any) -> tuple[Change, ...]:
    """Leaves that differ, in the order of their paths."""
    old, new = dict(flat(before)), dict(flat(after))
    return tuple(
        Change(path, old.get(path), new.get(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    )


def applied(live: Any, wanted: Any) -> tuple[Change, ...]:
    """Leaves that are applied with another value than the live one; what others, or defaults, add is passed over."""
    old = dict(flat(live))
    return tuple(
        Change(path, old.get(path), value)
        for path, value in flat(wanted)
        if not contains(old.get(path), value, quantities="resources" in path)
    )


def inputs(model: Model, target: Target, settings: Settings, image: str | None = None) -> Json:
    """What a target's artifact depends on, as far as a spec and the settings tell, by the request's names."""
    wanted = jobs.export_request(model, target, settings)
    if image is not None:
        wanted = wanted.model_copy(update={"worker_image": image})
    found = wanted.model_dump(mode="json", by_alias=True, exclude_none=True)
    kept = {name: value for name, value in found.items() if name not in NOT_INPUTS}
    source = model.spec.source.persistent_volume_claim
    volume = jobs.store_status(jobs.artifact_of(model, settings)).claim_name
    claims = {"source": source.claim_name if source else None, "artifact": volume}
    return {**kept, "claims": {name: claim for name, claim in claims.items() if claim}}


def named(change: Change, target: str) -> Change:
    """The same with the path that the user knows."""
    for inner, path in RENAMED.items():
        if change.path == inner or change.path.startswith(f"{inner}."):
            return replace(change, path=path.format(target=target))
    first, _, rest = change.path.partition(".")
    if first == "claims":
        return replace(change, path=f"spec.{rest}.persistentVolumeClaim.claimName")
    if first == "compilation":
        return replace(change, path=f"spec.targets[{target}].{rest}")
    if first in {"shapes", "samples"}:
        return replace(change, path=f"spec.inputs.{change.path}")
    if first == "store":
        return replace(change, path=f"spec.artifact.{rest}")
    return replace(change, path=f"spec.{change.path}")
