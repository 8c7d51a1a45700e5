"""Listening to children: one list and one watch for each kind, kept up for ever.

kopf watches the models; it spends about a millisecond and several KiB on each event and object, which children, five
or more objects and some twenty events for each model, would multiply. This listener keeps a digest of each.
"""

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field
from http import HTTPStatus

from torchscript_operator.controller import metrics
from torchscript_operator.controller.children import KINDS, Children, Urgency, key_of
from torchscript_operator.controller.cluster import Cluster
from torchscript_operator.controller.connection import ApiError
from torchscript_operator.controller.model import MODEL_LABEL, Json
from torchscript_operator.controller.queue import Key, Queue

logger = logging.getLogger(__name__)

SOON_SECONDS = 10.0
"""How long a change that only moves figures waits for others, so that a burst of events costs one pass."""
FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 30.0
JITTER = 0.2
"""Share by which a wait varies."""


class TooOldError(Exception):
    """The server no longer knows the version that a watch should go on from."""


@dataclass
class Watch:
    """One kind of children, in one namespace or in all."""

    cluster: Cluster
    queue: Queue
    children: Children
    plural: str
    namespace: str | None
    relist_seconds: float
    """After this time everything is listed again, in case an event has been lost."""
    version: str = ""
    """What has been taken in; empty before all was listed."""
    failures: int = 0
    """In a row, without an event between them."""
    listed: asyncio.Event = field(default_factory=asyncio.Event)
    """All children that there were at the start are known."""

    async def run(self) -> None:
        """List, then watch, for ever; what goes wrong is tried again ever more slowly."""
        until = 0.0
        while True:
            try:
                if not self.version or time.monotonic() > until:
                    await self.list()
                    until = time.monotonic() + self.relist_seconds * _spread()
                await self.follow()
            except TooOldError:
                self.version = ""
            except ApiError as error:
                logger.warning("listening to %s failed: %s", self.plural, error)
                await asyncio.sleep(min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2**self.failures) * _spread())
                self.failures = min(self.failures + 1, 8)

    async def list(self) -> None:
        """Take in all children, and the version that a watch goes on from. Raises ApiError."""
        kind, there, version = KINDS[self.plural], set[tuple[Key, str]](), ""
        async for items, now in self.cluster.pages(kind, self.plural, self.namespace, MODEL_LABEL):
            version = now
            for body in items:
                if key := key_of(body):
                    there.add((key, body["metadata"]["name"]))
                    self.ask(self.children.note(self.plural, body))
        for key, name in self.children.missing(self.plural, self.namespace, there):
            self.ask(self.children.forget(self.plural, key, name))
        self.version = version
        self.heard()
        self.listed.set()

    async def follow(self) -> None:
        """Watch until the server ends it. Raises TooOldError, ApiError."""
        kind = KINDS[self.plural]
        try:
            async for event in self.cluster.watch(kind, self.plural, self.namespace, MODEL_LABEL, self.version):
                self.heard()
                self.take(event)
        except ApiError as error:
            if error.status == HTTPStatus.GONE:
                raise TooOldError from error
            raise

    def heard(self) -> None:
        """Note a sign of life."""
        metrics.LAST_EVENT.labels(resource=self.plural).set(time.time())

    def take(self, event: Json) -> None:
        """Take in one event. Raises TooOldError, or ApiError for another error in the stream."""
        kind, body = event["type"], event["object"]
        if kind == "ERROR":
            if body.get("code") == HTTPStatus.GONE:
                raise TooOldError
            raise ApiError(body.get("code", 0), str(body.get("message", "the watch reports an error")))
        if kind == "DELETED":
            if key := key_of(body):
                self.ask(self.children.forget(self.plural, key, body["metadata"]["name"]))
        elif kind != "BOOKMARK":
            self.ask(self.children.note(self.plural, body))
        self.version, self.failures = body["metadata"]["resourceVersion"], 0

    def ask(self, change: tuple[Key, Urgency] | None) -> None:
        """Ask for the pass that a change wants."""
        if change is None:
            return
        key, urgency = change
        if urgency == "now":
            self.queue.add(key)
        else:
            self.queue.add_after(key, SOON_SECONDS)


def _spread() -> float:
    return random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 -- spreads load, hides nothing
