"""One pass over one model: read everything live, decide, write children, then the status once, then events."""

import logging
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import NamedTuple, Self, TypeVar

import orjson
from pydantic import ValidationError

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.status import TorchScriptModelStatus
from torchscript_operator.controller import deletion, events
from torchscript_operator.controller import plan as planning
from torchscript_operator.controller.children import Children
from torchscript_operator.controller.closer import CloserLooks
from torchscript_operator.controller.cluster import Cluster
from torchscript_operator.controller.connection import ApiError, ExistsError
from torchscript_operator.controller.departure import depart
from torchscript_operator.controller.model import FINALIZER, Json, Model
from torchscript_operator.controller.observed import Observed
from torchscript_operator.controller.plan import Plan
from torchscript_operator.controller.queue import Key, Later, Rest, Slow
from torchscript_operator.controller.reading import Reader
from torchscript_operator.controller.settings import Settings
from torchscript_operator.controller.shown import Shown
from torchscript_operator.controller.writing import Writer

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
AGAIN_SECONDS = 0.2
"""Time to the next pass when a model was changed during this one."""


def dump_status(status: TorchScriptModelStatus) -> Json:
    """A status as it is written: camelCase, absent fields left out."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def explain(error: ValidationError) -> str:
    """A validation error in one line: which field, and what is wrong with it."""
    found = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()[:3]]
    return "; ".join(found)


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
    reader: Reader
    writer: Writer
    shown: Shown

    @classmethod
    def over(
        cls,
        cluster: Cluster,
        settings: Settings,
        children: Children,
        looks: CloserLooks | None = None,
        shown: Shown | None = None,
    ) -> Self:
        """One that reads and writes a cluster."""
        reader, writer = Reader(cluster, children, looks or CloserLooks()), Writer(cluster, children)
        return cls(cluster, settings, reader, writer, shown or Shown())

    async def plan(self, model: Model, now: datetime) -> tuple[Plan, Observed] | float:
        """Decide, and once more where the first decision rests on what only a closer look shows.

        Returns seconds instead, after which to try again, where that look is not this model's turn yet.
        """
        observed = await self.reader.observe(model)
        planned = planning.plan(model, self.settings, observed, now)
        unsaid = planned.look_for_events or (planned.look_closer and self.reader.children.starting(model))
        if not (planned.delete or unsaid):
            return planned, observed
        if not (planned.delete or planned.create or planned.apply or self.reader.looks.may_begin()):
            # Nothing is said meanwhile: without the look, what the last one found would seem to be over.
            return self.reader.looks.later(planned.requeue_seconds)
        with self.reader.looks.turn():
            return await self._look_closer(model, now)

    async def _look_closer(self, model: Model, now: datetime) -> tuple[Plan, Observed]:
        observed = await self.reader.look(model)
        planned = planning.plan(model, self.settings, observed, now)
        if planned.look_for_events:
            observed = await self.reader.with_events(model, observed, planned.look_for_events)
            planned = planning.plan(model, self.settings, observed, now)
        return planned, observed

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
        shown = self.shown.take(key)
        if shown is not None and (planned := await self._nothing_to_do(shown)) is not None:
            return planned.requeue_seconds
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

    async def _nothing_to_do(self, body: Json) -> Plan | None:
        """The plan for a model as it was lately, if nothing is done or told by it: so that being late does no harm.

        What has changed since then asks for a pass of its own.
        """
        now = self.cluster.clock.now()
        try:
            model = Model.parse(body)
        except ValidationError:
            return None
        held = deletion.finalizers(model, self.settings, body["metadata"].get("finalizers", ()))
        if held is not None or "deletionTimestamp" in body["metadata"]:
            return None
        planned = planning.plan(model, self.settings, await self.reader.observe(model), now)
        busy = planned.delete or planned.create or planned.apply or planned.look_closer or planned.look_for_events
        return None if busy or _News.of(model, body, planned, now) else planned

    async def _carry_out(self, model: Model, body: Json, now: datetime) -> Later | Rest:
        decided = await self.plan(model, now)
        if not isinstance(decided, tuple):
            return decided
        planned, observed = decided
        key = Key(model.namespace, model.name)
        at_first, service = self.writer.without_service(key, planned, observed)
        try:
            refusals, overtaken = await self.writer.write(model, at_first, observed)
        except ExistsError:
            observed = await self.reader.with_strangers(planned.apply, observed)
            planned, service = planning.plan(model, self.settings, observed, now), None
            refusals, overtaken = await self.writer.write(model, planned, observed, looked_for=True)
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
        return await depart(self.cluster, self.settings, model, await self.reader.look(model), deleted, now)

    async def _apply_later(self, key: Key, service: bytes, later: Later) -> Later:
        """Apply a new Service; whatever comes of it but success is for a whole pass to see."""
        is_whole = await self._logged(key, self.writer.apply_service(key, service))
        return later if is_whole else AGAIN_SECONDS

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
        observed = await self.reader.observe(model)
        news = _News.of(model, body, planning.stalled(model, conditions.INVALID_SPEC, text, now, observed), now)
        return None if news is None else await self._tell(news)
