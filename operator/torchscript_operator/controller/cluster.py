"""The only module that talks to the API server: plain JSON objects in and out, every write under one field manager."""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from kubernetes.aio import config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.utils.retry import Backoff, on_retry_after_error  # type: ignore[attr-defined]

from torchscript_operator.api.v1alpha1 import API_VERSION, KIND, PLURAL
from torchscript_operator.controller.clock import Clock
from torchscript_operator.controller.model import FINALIZER, MANAGER, MODEL_LABEL, Json

REQUEST_SECONDS = 30
"""Longest time for one call; a server that takes longer is retried by the queue."""
TIMEOUT = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
WATCH_SECONDS = 300
"""The server ends a watch after this time, so a deaf connection is noticed at the latest then."""
SILENCE_SECONDS = 70
"""A watch that says nothing for so long is dead: the server sends a bookmark every minute."""
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_SECONDS)
CONNECTIONS = 100
"""Calls on their way at once, besides watches."""
READ_BUFFER = 2**21
"""Bytes that may wait to be read; one watch event can be larger than the client's default."""
TOO_MANY_BACKOFF = Backoff(steps=8, duration=0.25, factor=2.0, jitter=0.2)
"""Waits, in seconds, where the server says "too many requests" but not for how long; then the queue takes over."""
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
UNPRINTABLE = re.compile("[\x7f-\x9f\ufeff\ufffe\uffff]")
"""What JSON may hold as it is and YAML may not (YAML 1.2, production 1, c-printable; NEL and BOM for safety)."""
FORCED = {"fieldManager": MANAGER, "force": "true"}
"""A server-side apply that takes its fields from whoever had them."""
NO_VERSION = "1"
"""The resourceVersion of no object: etcd gives the first thing that is ever stored in it the second."""
PAGE_SIZE = 100
"""Objects in one page of a list; a parsed pod takes some 50 KiB, and several lists are read at once."""
PATHS = {
    API_VERSION: PLURAL,
    "batch/v1": "jobs",
    "apps/v1": "deployments",
}
"""Resource by apiVersion, for the kinds of which we use one a group."""


class ApiError(Exception):
    """The API server said no, or nothing."""

    def __init__(self, status: int, message: str) -> None:
        """Take the HTTP status, 0 without an answer, and the server's own words."""
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message

    @property
    def permanent(self) -> bool:
        """Whether the same call will be refused again until somebody changes something."""
        return self.status in {400, 403, 404, 422}


class ExistsError(ApiError):
    """There is an object of that name already."""


def _is_retriable(error: Exception) -> bool:
    return isinstance(error, ApiException) and error.status == HTTPStatus.TOO_MANY_REQUESTS


def _is_overtaken(error: ApiError) -> bool:
    """Whether an object has changed since, or is gone, or its name is another's by now, whose uid cannot be changed."""
    renamed = error.status == HTTPStatus.UNPROCESSABLE_ENTITY and "metadata.uid" in error.message
    return renamed or error.status in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}


def _words(error: ApiException) -> str:
    try:
        return str(orjson.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def encode(body: Json) -> bytes:
    """JSON that is YAML too, as the API server reads what is applied: YAML takes some characters only when escaped."""
    text = orjson.dumps(body)
    if text.isascii() and b"\x7f" not in text:
        return text
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text.decode()).encode()


def collection(api_version: str, namespace: str | None, plural: str) -> str:
    """Path of a resource, in one namespace or in all."""
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def _with_query(path: str, query: Mapping[str, str | int | None]) -> str:
    given = {key: value for key, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _path(body: Json) -> str:
    plural = PATHS.get(body["apiVersion"]) or f"{body['kind'].lower()}s"
    return collection(body["apiVersion"], body["metadata"]["namespace"], plural)


@dataclass(frozen=True)
class Cluster:
    """An API server, seen through a connection pool."""

    session: aiohttp.ClientSession
    configuration: Configuration
    proxy: str | None
    clock: Clock = field(default_factory=Clock)
    """The server's."""
    may_write: Callable[[], bool] = lambda: True
    """Asked right before each write: whoever no longer leads changes nothing."""

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, limit: aiohttp.ClientTimeout, data: bytes | None = None, content_type: str = ""
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One HTTP request. Raises ApiException for any answer but a good one."""
        headers = {"Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = content_type
        # Reads the token's file again once a minute, as the kubelet renews it.
        if token := await self.configuration.get_api_key_with_prefix("BearerToken"):
            headers["Authorization"] = token
        async with self.session.request(
            method,
            f"{self.configuration.host}{path}",
            data=data,
            headers=headers,
            timeout=limit,
            proxy=self.proxy,
            server_hostname=self.configuration.tls_server_name,
        ) as answer:
            self.clock.hear(answer.headers.get("Date"))
            if answer.status == HTTPStatus.UNAUTHORIZED:
                # The token was replaced before its time; the next call has the new one.
                with suppress(config.ConfigException):
                    await log_in(self.configuration)
            if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
                refusal = ApiException(status=answer.status, reason=answer.reason, body=await answer.text())
                refusal.headers = answer.headers
                raise refusal
            yield answer

    async def _call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str | int | None] | None = None,
    ) -> Json:
        data = None if body is None else encode(body)
        target = _with_query(path, query or {})

        async def sent() -> Json:
            if method != "GET" and not self.may_write():
                raise ApiError(0, "this operator does not lead, so it writes nothing")
            async with self._request(method, target, TIMEOUT, data, content_type) as answer:
                text = await answer.read()
            parsed: Json = orjson.loads(text) if text else {}
            return parsed

        async def once() -> Json:
            try:
                return await sent()
            except ApiException as error:
                if error.status != HTTPStatus.UNAUTHORIZED:
                    raise
                return await sent()

        try:
            # Too many requests is the server's own flow control: wait as long as it asks, with no limit of our own.
            return await on_retry_after_error(TOO_MANY_BACKOFF, _is_retriable, once)
        except ApiException as error:
            raise ApiError(error.status or 0, _words(error)) from error
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ApiError(0, f"no answer from the API server: {type(error).__name__}") from error

    async def find(self, api_version: str, plural: str, namespace: str, name: str) -> Json | None:
        """One object, or None."""
        return await self._get(f"{collection(api_version, namespace, plural)}/{name}")

    async def _get(self, path: str) -> Json | None:
        try:
            return await self._call("GET", path)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def model(self, namespace: str, name: str) -> Json | None:
        """One TorchScriptModel, or None."""
        return await self.find(API_VERSION, PLURAL, namespace, name)

    async def pages(
        self,
        api_version: str,
        plural: str,
        namespace: str | None = None,
        selector: str | None = None,
        fields: str | None = None,
    ) -> AsyncIterator[tuple[list[Json], str]]:
        """All objects that match, page by page, each with the version that a watch goes on from."""
        token: str | None = None
        while True:
            page = await self._call(
                "GET",
                collection(api_version, namespace, plural),
                query={"labelSelector": selector, "fieldSelector": fields, "limit": PAGE_SIZE, "continue": token},
            )
            yield page["items"], page["metadata"]["resourceVersion"]
            token = page["metadata"].get("continue")
            if not token:
                return

    async def list(
        self,
        api_version: str,
        plural: str,
        namespace: str | None = None,
        selector: str | None = None,
        fields: str | None = None,
    ) -> list[Json]:
        """All objects that match."""
        return [
            item async for items, _ in self.pages(api_version, plural, namespace, selector, fields) for item in items
        ]

    async def watch(
        self, api_version: str, plural: str, namespace: str | None, selector: str, since: str
    ) -> AsyncIterator[Json]:
        """Events after a version, bookmarks too, until the server ends the watch or falls silent. Raises ApiError."""
        query: dict[str, str | int | None] = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": WATCH_SECONDS,
            "labelSelector": selector,
            "resourceVersion": since,
        }
        path = _with_query(collection(api_version, namespace, plural), query)
        try:
            async with self._request("GET", path, WATCH_TIMEOUT) as answer:
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield orjson.loads(line)
        except ApiException as error:
            raise ApiError(error.status or 0, _words(error)) from error
        except aiohttp.SocketTimeoutError:
            return
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ApiError(0, f"the watch broke off: {type(error).__name__}") from error

    async def children(self, api_version: str, plural: str, namespace: str, model: str) -> tuple[Json, ...]:
        """Children of a model, by label."""
        return tuple(await self.list(api_version, plural, namespace, f"{MODEL_LABEL}={model}"))

    async def create(self, body: Json) -> Json | None:
        """Create an object, or find it created; None for an event that is there. Raises ApiError if another owns it."""
        try:
            return await self._call("POST", _path(body), body, query={"fieldManager": MANAGER})
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            return await self._found(body)

    async def _found(self, body: Json) -> Json | None:
        wanted = {owner["uid"] for owner in body["metadata"].get("ownerReferences", [])}
        if not wanted:
            return None
        name = body["metadata"]["name"]
        live = await self._get(f"{_path(body)}/{name}")
        if live is None:
            # It was there and is not any more: nothing is decided, the next pass creates it.
            raise ApiError(HTTPStatus.CONFLICT, f"{body['kind']} {name} went while it was to be created")
        if wanted.isdisjoint(owner["uid"] for owner in live["metadata"].get("ownerReferences", [])):
            message = f"{body['kind']} {name} exists and belongs to another object; delete it or rename the model"
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, message)
        return live

    async def apply(self, body: Json) -> Json:
        """Server-side apply: ours are just the fields named, and we take them from whoever had them."""
        path = f"{_path(body)}/{body['metadata']['name']}"
        return await self._call("PATCH", path, body, APPLY, query=FORCED)

    async def apply_new(self, body: Json) -> Json:
        """Server-side apply of what is not there yet, in one call. Raises ExistsError if it is, having changed nothing.

        The server compares the version with that of what it has, and does not look at it where it has nothing.
        """
        try:
            return await self.apply({**body, "metadata": {**body["metadata"], "resourceVersion": NO_VERSION}})
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            raise ExistsError(error.status, error.message) from error

    async def apply_status(self, model: Json, status: Json) -> bool:
        """Write the status of a model as it was read; False where it has changed since, or is gone.

        So an operator that was held up, or that no longer leads, overwrites nothing that another has found out since.
        """
        namespace, name = model["metadata"]["namespace"], model["metadata"]["name"]
        body: Json = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {field: model["metadata"][field] for field in ("name", "namespace", "uid", "resourceVersion")},
            "status": status,
        }
        path = f"{collection(API_VERSION, namespace, PLURAL)}/{name}/status"
        try:
            await self._call("PATCH", path, body, APPLY, query=FORCED)
        except ApiError as error:
            if not _is_overtaken(error):
                raise
            return False
        return True

    async def apply_finalizers(self, namespace: str, name: str, uid: str, finalizers: Sequence[str]) -> Json | None:
        """Set which finalizers of a model are ours; those of others stay. None for one that is gone or has changed."""
        body: Json = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name, "namespace": namespace, "uid": uid, "finalizers": list(finalizers)},
        }
        try:
            path = f"{collection(API_VERSION, namespace, PLURAL)}/{name}"
            written = await self._call("PATCH", path, body, APPLY, query=FORCED)
            there = written["metadata"].get("finalizers", [])
            if FINALIZER not in there or FINALIZER in finalizers:
                return written
            # Another has set it too, such as whoever has put a backup back: what is not applied stays theirs.
            metadata = {field: written["metadata"][field] for field in ("uid", "resourceVersion")}
            rest = {"metadata": {**metadata, "finalizers": [held for held in there if held != FINALIZER]}}
            return await self._call("PATCH", path, rest, MERGE, query={"fieldManager": MANAGER})
        except ApiError as error:
            if not _is_overtaken(error):
                raise
            return None

    async def scale(self, namespace: str, name: str, replicas: int) -> Json | None:
        """Set the number of a Deployment's pods; None where there is no such Deployment."""
        path = f"{collection('apps/v1', namespace, 'deployments')}/{name}"
        body = {"spec": {"replicas": replicas}}
        try:
            return await self._call("PATCH", path, body, MERGE, query={"fieldManager": MANAGER})
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None

    async def write_lease(self, body: Json) -> Json | None:
        """Create a Lease, or replace one as it was read; None where another was quicker. Raises ApiError."""
        is_new = "resourceVersion" not in body["metadata"]
        method, path = ("POST", _path(body)) if is_new else ("PUT", f"{_path(body)}/{body['metadata']['name']}")
        try:
            return await self._call(method, path, body, query={"fieldManager": MANAGER})
        except ApiError as error:
            if error.status == HTTPStatus.CONFLICT or (error.status == HTTPStatus.NOT_FOUND and not is_new):
                return None
            raise

    async def delete(self, item: Json) -> None:
        """Delete exactly this object, its pods in the background; one that is gone already is fine. Raises ApiError."""
        options: Json = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": item["metadata"]["uid"]},
        }
        path = f"{_path(item)}/{item['metadata']['name']}"
        try:
            await self._call("DELETE", path, options)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return
            # A conflict says that the name is another object's by now, or that the server could not delete this one.
            live = await self._get(path) if error.status == HTTPStatus.CONFLICT else item
            if live is not None and live["metadata"]["uid"] == item["metadata"]["uid"]:
                raise


def _proxy(configuration: Configuration) -> str | None:
    """The kubeconfig's proxy or the environment's; asked once, since aiohttp would ask anew, in a thread, each time."""
    host = urlsplit(configuration.host)
    if configuration.proxy or proxy_bypass(host.hostname or ""):
        return configuration.proxy
    return getproxies().get(host.scheme)


async def log_in(configuration: Configuration) -> None:
    """Take the pod's ServiceAccount, or outside a cluster what the user's kubeconfig says. Raises ConfigException."""
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def connect(*traces: aiohttp.TraceConfig, watches: int = 0) -> AsyncIterator[Cluster]:
    """Connect, with room for so many watches. Raises ConfigException where nothing says to whom."""
    configuration = Configuration()
    await log_in(configuration)
    context = RESTClientObject(configuration).ssl_context
    connector = aiohttp.TCPConnector(ssl=context, limit=CONNECTIONS + watches)
    async with aiohttp.ClientSession(
        connector=connector, read_bufsize=READ_BUFFER, trace_configs=list(traces)
    ) as session:
        yield Cluster(session, configuration, _proxy(configuration))
