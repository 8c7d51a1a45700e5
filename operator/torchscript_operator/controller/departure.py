"""Carrying out the deletion of a model whose artifacts go with it; what is done next is decided in deletion.py."""

import logging
from dataclasses import replace
from datetime import datetime

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1 import API_VERSION, PLURAL
from torchscript_operator.controller import deletion, events, summary
from torchscript_operator.controller.cluster import Cluster
from torchscript_operator.controller.connection import ApiError
from torchscript_operator.controller.deletion import Departure
from torchscript_operator.controller.model import Json, Model
from torchscript_operator.controller.observed import Observed
from torchscript_operator.controller.settings import Settings

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 0.2
"""Time to the next look at a model that could not be let go."""


def _about(model: Model) -> dict[str, str]:
    return {"model": f"{model.namespace}/{model.name}"}


async def depart(
    cluster: Cluster, settings: Settings, model: Model, observed: Observed, deleted: str, now: datetime
) -> float | None:
    """Make one pass over a model that is being deleted; returns when to look again. Raises ApiError."""
    step = deletion.plan(model, settings, observed, None, deleted, now)
    if step.look_for_others:
        step = deletion.plan(model, settings, observed, await _others(cluster, settings, model), deleted, now)
    step = await _act(cluster, model, step)
    if not step.release:
        return deletion.LOOK_SECONDS
    if step.retained:
        await _warn(cluster, model, step.retained, now)
    if await cluster.apply_finalizers(model.namespace, model.name, model.uid, ()) is None:
        # Gone already, or another write came in between: the next pass sees.
        return AGAIN_SECONDS
    logger.info("the model is let go", extra=_about(model))
    return None


async def _others(cluster: Cluster, settings: Settings, model: Model) -> list[Json]:
    """All other models that are there to stay."""
    found: list[Json] = []
    for namespace in settings.watch_namespaces or (None,):
        found += await cluster.list(API_VERSION, PLURAL, namespace)
    return [
        item for item in found if item["metadata"]["uid"] != model.uid and "deletionTimestamp" not in item["metadata"]
    ]


async def _act(cluster: Cluster, model: Model, step: Departure) -> Departure:
    """Write the children; in a namespace that is being deleted none can be created, so nothing is left to wait for."""
    for item in step.delete:
        await cluster.delete(item)
    for item in step.create:
        try:
            await cluster.create(item)
        except ApiError as error:
            if not error.permanent:
                raise
            logger.warning("a removal Job is refused: %s", error, extra=_about(model))
            # Anything else, such as a quota, may pass; plan() knows when to stop trying.
            if deletion.TERMINATING in error.message:
                return replace(step, release=True, retained="Artifacts stay: the namespace is being deleted too.")
    return step


async def _warn(cluster: Cluster, model: Model, message: str, now: datetime) -> None:
    """Write an event; a namespace that is being deleted takes none, so the log says it too."""
    reason = conditions.ARTIFACTS_RETAINED
    logger.warning("%s", message, extra={**_about(model), "reason": reason})
    stall = next(it for it in summary.stalled(model, reason, message, now) if it.type == conditions.STALLED)
    try:
        await cluster.create(events.build(model, stall, now))
    except ApiError as error:
        if not error.permanent:
            raise
