"""What a pass writes of children: in order, each noted, so that no change by other hands goes unnoticed."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import orjson

from torchscript_operator.api import conditions
from torchscript_operator.controller.children import PLURALS, Children
from torchscript_operator.controller.cluster import Cluster
from torchscript_operator.controller.connection import ApiError, ExistsError
from torchscript_operator.controller.drift import drifted
from torchscript_operator.controller.model import MODEL_LABEL, Json, Model
from torchscript_operator.controller.observed import Observed, has_advanced, is_unmoved
from torchscript_operator.controller.plan import Plan
from torchscript_operator.controller.queue import Key

logger = logging.getLogger(__name__)

Write = tuple[str, Callable[[Json], Awaitable[bool | None]], Json]
"""What is done, how, and to which child."""


@dataclass(frozen=True)
class Writer:
    """Writes for one pass at a time of each model."""

    cluster: Cluster
    children: Children
    _at_once: set[Key] = field(default_factory=set)
    """Models whose next pass leaves nothing for later: what it left before did not go well."""

    async def write(
        self, model: Model, planned: Plan, observed: Observed, *, looked_for: bool = False
    ) -> tuple[list[str], bool]:
        """Write the children; `looked_for` where there is none of those that `observed` lacks.

        Returns what the API server refused for good, which keeps no other child waiting, and whether a child changed
        meanwhile by other hands. Raises ApiError, of these ExistsError where an application would take over what has
        not been looked at.
        """
        writes: list[Write] = [("deleted", self.cluster.delete, item) for item in planned.delete]
        writes += [("created", self._noted(self.cluster.create, observed), item) for item in planned.create]
        for item in planned.apply:
            apply = self.cluster.apply_new if not looked_for and observed.lacks(item) else self.cluster.apply
            writes.append(("applied", self._noted(apply, observed), item))
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

    def _noted(
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

    def without_service(self, key: Key, planned: Plan, observed: Observed) -> tuple[Plan, bytes | None]:
        """Leave a new Service, as JSON, for later where nobody asks it yet.

        An API server gives out one cluster IP at a time and writes it down meanwhile (Kubernetes 1.36,
        ipallocator/cidrallocator.go): where thousands are made, those that wait for one are to hold up nothing else.
        """
        ready = conditions.holds(planned.status.conditions, conditions.READY)
        new = next((item for item in planned.apply if item["kind"] == "Service" and observed.lacks(item)), None)
        if new is None or ready or planned.create or key in self._at_once:
            self._at_once.discard(key)
            return planned, None
        return replace(planned, apply=tuple(item for item in planned.apply if item is not new)), orjson.dumps(new)

    async def apply_service(self, key: Key, service: bytes) -> bool:
        """Apply what was left for later; returns whether nothing about it is left to a whole pass. Raises ApiError."""
        try:
            is_whole = not await self._noted(self.cluster.apply_new, Observed())(orjson.loads(service))
        except ApiError as error:
            if not (error.permanent or isinstance(error, ExistsError)):
                raise
            is_whole = False
        else:
            logger.info("applied Service %s", key.name, extra={"model": f"{key.namespace}/{key.name}"})
        if not is_whole:
            self._at_once.add(key)
        return is_whole
