"""What kopf listens to: the models. A handler turns an event into a key and does nothing else."""

import os
import time
from dataclasses import replace
from typing import Any, cast

import aiohttp
import kopf
import orjson

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1 import GROUP, PLURAL, VERSION
from torchscript_operator.controller import cluster, metrics
from torchscript_operator.controller.census import Census
from torchscript_operator.controller.model import Json
from torchscript_operator.controller.queue import Key, Queue, Rank
from torchscript_operator.controller.shown import Shown


def wish(body: Json) -> int:
    """Changes with what of a model asks for a pass: not its status, or every status write would ask for another."""
    metadata = body["metadata"]
    wanted = (metadata["uid"], metadata["generation"], metadata.get("deletionTimestamp"), metadata.get("annotations"))
    return hash(orjson.dumps(wanted))


def at_rest(body: Json) -> bool:
    """Whether a model's status says that all that its spec asks for is there and well."""
    status = body.get("status", {})
    said = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    wanted = {conditions.READY: "True", conditions.RECONCILING: "False", conditions.STALLED: "False"}
    seen: int | None = status.get("observedGeneration")
    return wanted.items() <= said.items() and seen == body["metadata"]["generation"]


class Listener:
    """Remembers what was last asked of each model, and hands keys to the queue."""

    def __init__(self, queue: Queue, shown: Shown) -> None:
        """Take the queue that keys go to, and where models at rest are kept for their first pass."""
        self.queue = queue
        self.shown = shown
        self.census = Census()
        self.wishes: dict[Key, int] = {}

    async def model_event(self, event: Any, **_: Any) -> None:
        """A TorchScriptModel came, changed or went."""
        metrics.LAST_EVENT.labels(resource=PLURAL).set(time.time())
        body: Json = event["object"]
        key = Key(body["metadata"]["namespace"], body["metadata"]["name"])
        if event["type"] == "DELETED":
            self.forget(key)
            return
        wanted = wish(body)
        if self.wishes.get(key) != wanted:
            self.shown.drop(key)
            self.wishes[key] = wanted
            self.queue.add(key, Rank.ASKED)
        self.census.note(key, body)

    def is_news(self, key: Key, body: Json, *, keep: bool = False) -> bool:
        """Take in a model as a list shows it; returns whether no event has told of it as it is.

        The list may be older than the last event. What that has told stays: the event of what is put back as it was
        before would else be no news. keep: a model at rest that no event has told otherwise is kept for its first pass.
        """
        wanted = wish(body)
        known = self.wishes.get(key)
        if known is None:
            self.wishes[key] = wanted
        if keep and known in {None, wanted} and at_rest(body):
            self.shown.keep(key, body)
        return known != wanted

    def forget(self, key: Key) -> None:
        """A model is gone, whether an event has told it or not."""
        self.shown.drop(key)
        self.wishes.pop(key, None)
        self.census.forget(key)


def in_pod(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Find the pod's ServiceAccount, and the server where the kubelet says; kopf would ask the cluster's DNS for it."""
    found = kopf.login_with_service_account(**kwargs)
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if found is None or not host or not port:
        return found
    return replace(found, server=f"https://{f'[{host}]' if ':' in host else host}:{port}")


class Login:
    """Gives kopf its connection: as the pod's ServiceAccount, or outside a cluster as the kubeconfig says."""

    def __init__(self, *traces: aiohttp.TraceConfig) -> None:
        """Take what listens to the connection."""
        self._traces = traces
        self._given: tuple[kopf.ConnectionInfo, kopf.AiohttpSession] | None = None

    async def connection(self, **kwargs: Any) -> kopf.AiohttpSession | None:
        """Log in; kopf asks again when the server no longer takes a token."""
        found = in_pod(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
        if found is None:
            return None
        if self._given is None or self._given[0] != found:
            # Of credentials that it has refused before, kopf has to be given the same again, or it would try for ever.
            self._given = found, self._session(found)
        return self._given[1]

    def _session(self, found: kopf.ConnectionInfo) -> kopf.AiohttpSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=found.as_ssl_context()),
            headers=found.as_http_headers(),
            proxy=found.proxy_url,
            trust_env=found.trust_env,
            trace_configs=list(self._traces),
        )
        return kopf.AiohttpSession(
            server=found.server, default_namespace=found.default_namespace, aiohttp_session=session
        )


class NoDiffs(kopf.DiffBaseStorage):
    """What has changed is for our own passes to find; kopf would copy each object of each event to compare it."""

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:  # noqa: ARG002 - kopf's names
        """Nothing is compared."""
        return cast("kopf.BodyEssence", {})

    def fetch(self, *, body: kopf.Body) -> None:
        """Nothing is stored."""

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is stored."""


def register(registry: kopf.OperatorRegistry, listener: Listener, login: Login) -> None:
    """Subscribe. Low-level event handlers only: kopf then stores nothing in the objects and sets no finalizer."""
    kopf.on.event(GROUP, VERSION, PLURAL, registry=registry, id="model")(listener.model_event)
    kopf.on.login(registry=registry, id="login")(login.connection)


def configure(settings: kopf.OperatorSettings) -> None:
    """Make kopf a plain watcher: no scanning, no peering, no events or annotations of its own."""
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.watching.connect_timeout = 30
    # The server ends a watch after this time, so a deaf connection is noticed at the latest then.
    settings.watching.server_timeout = cluster.WATCH_SECONDS
    settings.watching.chunk_size = cluster.PAGE_SIZE
    settings.persistence.diffbase_storage = NoDiffs()
    # Until it ends, the worker of an object holds the last event, with the whole object.
    settings.queueing.idle_timeout = 0.2
