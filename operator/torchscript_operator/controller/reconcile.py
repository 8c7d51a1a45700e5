"""One pass over one model: read everything live, decide, write children, then the status once, then events."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import NamedTuple, Self, TypeVar

import orjson
from pydantic import ValidationError

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.status import TorchScriptModelStatus
from torchscript_operator.controller import deletion, events, scaling, serving
from torchscript_operator.controller import plan as planning
from torchscript_operator.controller.children import KINDS, Children
from torchscript_operator.controller.closer import CloserLooks
from torchscript_operator.controller.cluster import ApiError, Cluster, ExistsError
from torchscript_operator.controller.departure import depart
from torchscript_operator.controller.drift import drifted
from torchscript_operator.controller.model import FINALIZER, MODEL_LABEL, Json, Model
from torchscript_operator.controller.observed import Observed, ended, has_advanced, is_unmoved
from torchscript_operator.controller.plan import Plan
from torchscript_operator.controller.queue import Key, Later, Rest, Slow
from torchscript_operator.controller.settings import Settings

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Write = tuple[str, Callable[[Json], Awaitable[bool | None]], Json]
"""What is done, how, and to which child."""
PLURALS = {
    "Job": "jobs",
    "Deployment": "deployments",
    "Service": "services",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "PodDisruptionBudget": "poddisruptionbudgets",
}
"""Resource by kind, for the children that a pass writes."""
AGAIN_SECONDS = 0.2
"""Time to the next pass when a model was changed during this one."""
WARNING_FIELDS = "type=Warning,involvedObject.name="
"""Events that say why a Job has no pod or a pod does not start."""


def dump_status(status: TorchScriptModelStatus) -> Json:
    """A status as it is written: camelCase, absent fields left out."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def explain(error: ValidationError) -> str:
    """A validation error in one line: which field, and what is wrong with it."""
    found = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()[:3]]
    return "; ".join(found)


def _is_new(body: Json, observed: Observed) -> bool:
    """Whether nothing is known of a Deployment or Service that is to be applied."""
    if body["kind"] == "Deployment":
        return observed.deployment(body["metadata"]["name"]) is None
    return body["kind"] == "Service" and observed.service is None


class _News(NamedTuple):
    """What a pass has to tell, as JSON: of ten thousand models applied at once, each has its Job before any is told."""

    read: Json
    """What of the model's metadata an application of its status names."""
    status: bytes
    changes: bytes
    """For each condition that is told of: its type, status and message, and its event."""
    later: Later

    @classmethod
    def of(cls, model: Model, body: Json, planned: Plan, now: datetime) -> Self | None:
        """Compare what was read with what was decided; None where there is no difference."""
        wanted = dump_status(planned.status)
        if wanted == body.get("status"):
            return None
        read = {name: body["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
        changed = events.changes(model.status.conditions, planned.status.conditions)
        told = [(item.type, item.status, item.message, events.build(model, item, now)) for item in changed]
        return cls({"metadata": read}, orjson.dumps(wanted), orjson.dumps(told), planned.requeue_seconds)


@dataclass(frozen=True)
class Reconciler:
    """Everything a pass needs."""

    cluster: Cluster
    settings: Settings
    children: Children
    looks: CloserLooks = field(default_factory=CloserLooks)
    at_once: set[Key] = field(default_factory=set)
    """Models whose next pass leaves nothing for later: what it left before did not go well."""

    async def observe(self, model: Model) -> Observed:
        """Read the children that matter to a pass, live and at once; a cache could show what is no longer there."""
        names = self.children.to_read(model)
        known = dict(self.children.of("jobs", Key(model.namespace, model.name)))
        service = serving.service(model) if model.served else None
        if service is not None and self.children.is_as_applied(service):
            names["services"] = []
        else:
            service = None
        kinds = ("jobs", "pods", "deployments", "services")
        found = await asyncio.gather(*(self._find(kind, model.namespace, names[kind]) for kind in kinds))
        jobs, pods, deployments, services = found
        observed = Observed(jobs, pods, deployments, next(iter(services), service))
        awaited = {target.job for target in model.status.targets}
        for job in filter(ended, jobs):
            name = job["metadata"]["name"]
            # A Job that has ended since it was last heard of: its pods were left out as those of one that runs. Or one
            # of whose pods not all have been heard of: what it ended with would be told without its cause.
            if not known[name].over or (name in awaited and observed.lacks_pods(job)):
                return await self.look(model)
        return await self._accompanied(model, observed)

    async def _find(self, plural: str, namespace: str, names: Iterable[str]) -> tuple[Json, ...]:
        finds = (self.cluster.find(KINDS[plural], plural, namespace, name) for name in names)
        return tuple(item for item in await asyncio.gather(*finds) if item is not None)

    async def _accompanied(self, model: Model, observed: Observed) -> Observed:
        """Add what stands beside Deployments, where something may."""
        names = scaling.looked_for(model, observed.deployments)
        if not names:
            return observed
        autoscalers = await self._find("horizontalpodautoscalers", model.namespace, names)
        budgets = await self._find("poddisruptionbudgets", model.namespace, names)
        return replace(observed, autoscalers=autoscalers, budgets=budgets)

    async def look(self, model: Model) -> Observed:
        """List all children, for a decision that rests on what is not there."""
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
        return await self._accompanied(model, Observed(jobs, pods, deployments, service))

    async def plan(self, model: Model, now: datetime) -> tuple[Plan, Observed] | float:
        """Decide, and once more where the first decision rests on what only a closer look shows.

        Returns seconds instead, after which to try again, where that look is not this model's turn yet.
        """
        observed = await self.observe(model)
        planned = planning.plan(model, self.settings, observed, now)
        unsaid = planned.look_for_events or (planned.look_closer and self.children.starting(model))
        if not (planned.delete or unsaid):
            return planned, observed
        if not (planned.delete or planned.create or planned.apply or self.looks.may_begin()):
            # Nothing is said meanwhile: without the look, what the last one found would seem to be over.
            return self.looks.later(planned.requeue_seconds)
        with self.looks.turn():
            return await self._look_closer(model, now)

    async def _look_closer(self, model: Model, now: datetime) -> tuple[Plan, Observed]:
        observed = await self.look(model)
        planned = planning.plan(model, self.settings, observed, now)
        if planned.look_for_events:
            told = [
                await self.cluster.list("v1", "events", model.namespace, fields=WARNING_FIELDS + name)
                for name in planned.look_for_events
            ]
            observed = replace(observed, events=tuple(event for found in told for event in found))
            planned = planning.plan(model, self.settings, observed, now)
        return planned, observed

    async def _with_strangers(self, planned: Plan, observed: Observed) -> Observed:
        """Add what bears a new child's name without being known: somebody else's, or ours of which no event told."""
        for body in planned.apply:
            namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
            if not _is_new(body, observed):
                continue
            found = await self._find(PLURALS[body["kind"]], namespace, [name])
            if body["kind"] == "Deployment":
                observed = replace(observed, deployments=observed.deployments + found)
            else:
                observed = replace(observed, service=next(iter(found), None))
        return observed

    async def __call__(self, key: Key) -> Later | Rest:
        """Make one pass; returns when the model wants another, or what is left of this one. Raises ApiError."""
        return await self._logged(key, self._pass(key))

    async def _logged(self, key: Key, step: Awaitable[Answer]) -> Answer:
        extra = {"model": f"{key.namespace}/{key.name}"}
        try:
            return await step
        except ApiError as error:
            logger.warning("the pass failed and is tried again: %s", error, extra=extra)
            raise
        except Exception:  # logged with its model, and raised: the queue brings the key back
            logger.exception("the pass failed on a fault of the operator's own", extra=extra)
            raise

    async def _pass(self, key: Key) -> Later | Rest:
        body = await self.cluster.model(key.namespace, key.name)
        if body is None:
            return None
        now = self.cluster.clock.now()
        if "deletionTimestamp" in body["metadata"]:
            return await self._depart(body, now)
        try:
            model = Model.parse(body)
        except ValidationError as error:
            return await self._refuse(body, explain(error), now)
        held = deletion.finalizers(model, self.settings, body["metadata"].get("finalizers", ()))
        if held is not None:
            written = await self.cluster.apply_finalizers(model.namespace, model.name, model.uid, held)
            if written is None:
                return AGAIN_SECONDS
            body["metadata"]["resourceVersion"] = written["metadata"]["resourceVersion"]
        return await self._carry_out(model, body, now)

    async def _carry_out(self, model: Model, body: Json, now: datetime) -> Later | Rest:
        decided = await self.plan(model, now)
        if not isinstance(decided, tuple):
            return decided
        planned, observed = decided
        key = Key(model.namespace, model.name)
        at_first, service = self._without_service(key, planned, observed)
        try:
            refusals, overtaken = await self._act(model, at_first, observed)
        except ExistsError:
            observed = await self._with_strangers(planned, observed)
            planned, service = planning.plan(model, self.settings, observed, now), None
            refusals, overtaken = await self._act(model, planned, observed, looked_for=True)
        if refusals:
            planned = planning.rejected(model, planned, f"The API server refused a child: {refusals[0]}", now)
        if overtaken:
            planned = replace(planned, requeue_seconds=AGAIN_SECONDS)
        news = _News.of(model, body, planned, now)
        if planned.create and news is not None:
            # Whoever applies a thousand models wants a thousand Jobs first, and then to be told of them.
            return partial(self._tell_later, key, news)
        later = planned.requeue_seconds if news is None else await self._tell(news)
        return later if service is None else Slow(partial(self._apply_later, key, service, later))

    async def _depart(self, body: Json, now: datetime) -> float | None:
        """Let a model go that is being deleted, once its artifacts are removed where it asks for that."""
        if FINALIZER not in body["metadata"].get("finalizers", ()):
            return None
        try:
            model = Model.parse(body)
        except ValidationError:
            model = Model.unreadable(body)
        deleted = body["metadata"]["deletionTimestamp"]
        return await depart(self.cluster, self.settings, model, await self.look(model), deleted, now)

    async def _act(
        self, model: Model, planned: Plan, observed: Observed, *, looked_for: bool = False
    ) -> tuple[list[str], bool]:
        """Write the children; `looked_for` where there is none of those that `observed` lacks.

        Returns what the API server refused for good, which keeps no other child waiting, and whether a child changed
        meanwhile by other hands. Raises ApiError, of these ExistsError where an application would take over what has
        not been looked at.
        """
        writes: list[Write] = [("deleted", self.cluster.delete, item) for item in planned.delete]
        writes += [("created", self._writing(self.cluster.create, observed), item) for item in planned.create]
        for item in planned.apply:
            apply = self.cluster.apply_new if not looked_for and _is_new(item, observed) else self.cluster.apply
            writes.append(("applied", self._writing(apply, observed), item))
        refusals, overtaken = [], False
        for what, write, item in writes:
            try:
                overtaken |= bool(await write(item))
            except ApiError as error:
                if not error.permanent:
                    raise
                refusals.append(error.message)
            else:
                extra = {"model": f"{model.namespace}/{model.name}"}
                logger.info("%s %s %s", what, item["kind"], item["metadata"]["name"], extra=extra)
        return refusals, overtaken

    def _writing(
        self, write: Callable[[Json], Awaitable[Json | None]], observed: Observed
    ) -> Callable[[Json], Awaitable[bool]]:
        """A write whose own event asks for no pass; it returns whether the child has changed since it was read."""

        async def noted(item: Json) -> bool:
            metadata, plural = item["metadata"], PLURALS[item["kind"]]
            key = Key(metadata["namespace"], metadata["labels"][MODEL_LABEL])
            self.children.begin(plural, key, metadata["name"])
            live = None
            try:
                live = await write(item)
            finally:
                heard = self.children.finish(plural, key, metadata["name"], live)
            if heard or live is None:
                return heard
            # The answer may already tell what no event will then be news of, or that no event will follow.
            return has_advanced(observed, live) or (is_unmoved(observed, live) and not drifted(live, item))

        return noted

    def _without_service(self, key: Key, planned: Plan, observed: Observed) -> tuple[Plan, bytes | None]:
        """Leave a new Service, as JSON, for later where nobody asks it yet.

        An API server gives out one cluster IP at a time and writes it down meanwhile (Kubernetes 1.36,
        ipallocator/cidrallocator.go): where thousands are made, those that wait for one are to hold up nothing else.
        """
        ready = any((found.type, found.status) == (conditions.READY, "True") for found in planned.status.conditions)
        new = next((item for item in planned.apply if item["kind"] == "Service" and _is_new(item, observed)), None)
        if new is None or ready or planned.create or key in self.at_once:
            self.at_once.discard(key)
            return planned, None
        return replace(planned, apply=tuple(item for item in planned.apply if item is not new)), orjson.dumps(new)

    async def _apply_later(self, key: Key, service: bytes, later: Later) -> Later:
        """Apply a new Service; whatever comes of it but success is for a whole pass to see."""
        return await self._logged(key, self._apply_new(key, orjson.loads(service), later))

    async def _apply_new(self, key: Key, service: Json, later: Later) -> Later:
        try:
            is_whole = not await self._writing(self.cluster.apply_new, Observed())(service)
        except ApiError as error:
            if not (error.permanent or isinstance(error, ExistsError)):
                raise
            is_whole = False
        else:
            logger.info("applied Service %s", key.name, extra={"model": f"{key.namespace}/{key.name}"})
        if is_whole:
            return later
        self.at_once.add(key)
        return AGAIN_SECONDS

    async def _tell_later(self, key: Key, news: _News) -> Later:
        return await self._logged(key, self._tell(news))

    async def _tell(self, news: _News) -> Later:
        """Write the status, then an event for each change; returns when to look again."""
        if not await self.cluster.apply_status(news.read, orjson.loads(news.status)):
            # Whoever changed the model since it was read knows more than this pass.
            return AGAIN_SECONDS
        metadata = news.read["metadata"]
        extra = {"model": f"{metadata['namespace']}/{metadata['name']}"}
        for kind, status, message, event in orjson.loads(news.changes):
            logger.info("%s is %s: %s", kind, status, message, extra={**extra, "reason": event["reason"]})
            await self.cluster.create(event)
        return news.later

    async def _refuse(self, body: Json, message: str, now: datetime) -> float | None:
        """Say that the types refuse a spec that the stored CRD let through: the two are of different releases."""
        model = Model.unreadable(body)
        text = (
            f"The spec does not fit this operator: {message}. Correct it, or install the CRD of the operator's release."
        )
        news = _News.of(model, body, planning.stalled(model, conditions.INVALID_SPEC, text, now), now)
        return None if news is None else await self._tell(news)
