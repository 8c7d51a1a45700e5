"""One pass over one model: read everything live, decide, write children, then the status once, then events."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pydantic import ValidationError

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.status import TorchScriptModelStatus
from torchscript_operator.controller import events
from torchscript_operator.controller import plan as planning
from torchscript_operator.controller.cluster import ApiError, Cluster
from torchscript_operator.controller.model import Json, Model
from torchscript_operator.controller.observed import Observed
from torchscript_operator.controller.plan import Plan
from torchscript_operator.controller.queue import Key
from torchscript_operator.controller.settings import Settings

logger = logging.getLogger(__name__)

Write = tuple[str, Callable[[Json], Awaitable[object]], Json]
"""What is done, how, and to which child."""
WARNING_FIELDS = "type=Warning,involvedObject.kind=Job"
"""Events that say why a Job has no pod."""


def dump_status(status: TorchScriptModelStatus) -> Json:
    """A status as it is written: camelCase, absent fields left out."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def explain(error: ValidationError) -> str:
    """A validation error in one line: which field, and what is wrong with it."""
    found = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()[:3]]
    return "; ".join(found)


@dataclass(frozen=True)
class Reconciler:
    """Everything a pass needs."""

    cluster: Cluster
    settings: Settings

    async def observe(self, model: Model) -> Observed:
        """Read a model's children, live and at once; a cache could show what is no longer there."""
        cluster, namespace, name = self.cluster, model.namespace, model.name
        jobs, pods, deployments, service = await asyncio.gather(
            cluster.children("batch/v1", "jobs", namespace, name),
            cluster.children("v1", "pods", namespace, name),
            cluster.children("apps/v1", "deployments", namespace, name),
            cluster.find("v1", "services", namespace, name),
        )
        # Items of a list carry no kind of their own.
        for items, api_version, kind in ((jobs, "batch/v1", "Job"), (deployments, "apps/v1", "Deployment")):
            for item in items:
                item |= {"apiVersion": api_version, "kind": kind}
        return Observed(jobs, pods, deployments, service)

    async def plan(self, model: Model, now: datetime) -> Plan:
        """Decide, and once more where the first decision rests on what only a closer look shows."""
        observed = await self.observe(model)
        planned = planning.plan(model, self.settings, observed, now)
        strangers = await self._strangers(planned, observed)
        if planned.look_for_events:
            told = await self.cluster.list("v1", "events", model.namespace, fields=WARNING_FIELDS)
            observed = replace(observed, events=tuple(told))
        elif not strangers:
            return planned
        observed = replace(observed, deployments=observed.deployments + strangers)
        return planning.plan(model, self.settings, observed, now)

    async def _strangers(self, planned: Plan, observed: Observed) -> tuple[Json, ...]:
        """Deployments that bear a new child's name without our labels: an application would take them over."""
        new = [
            body["metadata"]
            for body in planned.apply
            if body["kind"] == "Deployment" and observed.deployment(body["metadata"]["name"]) is None
        ]
        found = [await self.cluster.find("apps/v1", "deployments", it["namespace"], it["name"]) for it in new]
        return tuple(item for item in found if item is not None)

    async def __call__(self, key: Key) -> float | None:
        """Make one pass; returns after how many seconds the model wants another. Raises ApiError."""
        extra = {"model": f"{key.namespace}/{key.name}"}
        try:
            return await self._pass(key)
        except ApiError as error:
            logger.warning("the pass failed and is tried again: %s", error, extra=extra)
            raise
        except Exception:
            logger.exception("the pass failed on a fault of the operator's own", extra=extra)
            raise

    async def _pass(self, key: Key) -> float | None:
        body = await self.cluster.model(key.namespace, key.name)
        if body is None or "deletionTimestamp" in body["metadata"]:
            return None
        now = datetime.now(UTC)
        try:
            model = Model.parse(body)
        except ValidationError as error:
            await self._refuse(body, explain(error), now)
            return None
        planned = await self.plan(model, now)
        refusals = await self._act(model, planned)
        if refusals:
            planned = planning.rejected(model, planned, f"The API server refused a child: {refusals[0]}", now)
        await self._tell(model, body, planned, now)
        return planned.requeue_seconds

    async def _act(self, model: Model, planned: Plan) -> list[str]:
        """Write the children; returns what the API server refused for good, which keeps no other child waiting."""
        writes: list[Write] = [("deleted", self.cluster.delete, item) for item in planned.delete]
        writes += [("created", self.cluster.create, item) for item in planned.create]
        writes += [("applied", self.cluster.apply, item) for item in planned.apply]
        refusals = []
        for what, write, item in writes:
            try:
                await write(item)
            except ApiError as error:
                if not error.permanent:
                    raise
                refusals.append(error.message)
            else:
                extra = {"model": f"{model.namespace}/{model.name}"}
                logger.info("%s %s %s", what, item["kind"], item["metadata"]["name"], extra=extra)
        return refusals

    async def _tell(self, model: Model, body: Json, planned: Plan, now: datetime) -> None:
        """Write the status if it says anything new, then an event for each change."""
        wanted = dump_status(planned.status)
        if wanted == body.get("status"):
            return
        await self.cluster.apply_status(model.namespace, model.name, model.uid, wanted)
        for condition in events.changes(model.status.conditions, planned.status.conditions):
            logger.info(
                "%s is %s: %s",
                condition.type,
                condition.status,
                condition.message,
                extra={"model": f"{model.namespace}/{model.name}", "reason": condition.reason},
            )
            await self.cluster.create(events.build(model, condition, now))

    async def _refuse(self, body: Json, message: str, now: datetime) -> None:
        """Say that the types refuse a spec that the stored CRD let through: the two are of different releases."""
        model = Model.unreadable(body)
        text = (
            f"The spec does not fit this operator: {message}. Correct it, or install the CRD of the operator's release."
        )
        await self._tell(model, body, planning.stalled(model, conditions.INVALID_SPEC, text, now), now)
