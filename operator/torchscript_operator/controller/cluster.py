"""The only module that talks to the API server: plain JSON objects in and out, every write under one field manager."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from torchscript_operator.api.v1alpha1 import API_VERSION, KIND, PLURAL
from torchscript_operator.controller.connection import ApiError, Connection, ExistsError, log_in, proxy_of
from torchscript_operator.controller.model import FINALIZER, MANAGER, MODEL_LABEL, Json

WATCH_SECONDS = 300
"""The server ends a watch after this time, so a deaf connection is noticed at the latest then."""
CONNECTIONS = 100
"""Calls on their way at once, besides watches."""
READ_BUFFER = 2**21
"""Bytes that may wait to be read; one watch event can be larger than the client's default."""
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
FORCED = {"fieldManager": MANAGER, "force": "true"}
"""A server-side apply that takes its fields from whoever had them."""
NO_VERSION = "1"
"""The resourceVersion of no object: etcd gives the first thing that is ever stored in it the second."""
PAGE_SIZE = 200
"""Objects in one page of a list: a page costs the server some 40 ms beside them, and us memory for all of them."""
PATHS = {
    API_VERSION: PLURAL,
    "batch/v1": "jobs",
    "apps/v1": "deployments",
}
"""Resource by apiVersion, for the kinds of which we use one a group."""


def _is_overtaken(error: ApiError) -> bool:
    """Whether an object has changed since, or is gone, or its name is another's by now, whose uid cannot be changed."""
    renamed = error.status == HTTPStatus.UNPROCESSABLE_ENTITY and "metadata.uid" in error.message
    return renamed or error.status in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}


def collection(api_version: str, namespace: str | None, plural: str) -> str:
    """Path of a resource, in one namespace or in all."""
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def _path(body: Json) -> str:
    plural = PATHS.get(body["apiVersion"]) or f"{body['kind'].lower()}s"
    return collection(body["apiVersion"], body["metadata"]["namespace"], plural)


class Cluster(Connection):
    """An API server: its objects."""

    async def find(self, api_version: str, plural: str, namespace: str, name: str) -> Json | None:
        """One object, or None."""
        return await self._get(f"{collection(api_version, namespace, plural)}/{name}")

    async def _get(self, path: str) -> Json | None:
        try:
            return await self.call("GET", path)
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
            page = await self.call(
                "GET",
                collection(api_version, namespace, plural),
                query={"labelSelector": selector, "fieldSelector": fields, "limit": PAGE_SIZE, "continue": token},
            )
            yield page["items"], page["metadata"]["resourceVersion"]
            # Several lists are read at once, and a parsed pod takes some 50 KiB: who waits for a page holds no other.
            page["items"].clear()
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
        async for event in self.lines(collection(api_version, namespace, plural), query):
            yield event

    async def children(self, api_version: str, plural: str, namespace: str, model: str) -> tuple[Json, ...]:
        """Children of a model, by label."""
        return tuple(await self.list(api_version, plural, namespace, f"{MODEL_LABEL}={model}"))

    async def create(self, body: Json) -> Json | None:
        """Create an object, or find it created; None for an event that is there. Raises ApiError if another owns it."""
        try:
            return await self.call("POST", _path(body), body, query={"fieldManager": MANAGER})
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
        return await self.call("PATCH", path, body, APPLY, query=FORCED)

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
            await self.call("PATCH", path, body, APPLY, query=FORCED)
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
            written = await self.call("PATCH", path, body, APPLY, query=FORCED)
            there = written["metadata"].get("finalizers", [])
            if FINALIZER not in there or FINALIZER in finalizers:
                return written
            # Another has set it too, such as whoever has put a backup back: what is not applied stays theirs.
            metadata = {field: written["metadata"][field] for field in ("uid", "resourceVersion")}
            rest = {"metadata": {**metadata, "finalizers": [held for held in there if held != FINALIZER]}}
            return await self.call("PATCH", path, rest, MERGE, query={"fieldManager": MANAGER})
        except ApiError as error:
            if not _is_overtaken(error):
                raise
            return None

    async def scale(self, namespace: str, name: str, replicas: int) -> Json | None:
        """Set the number of a Deployment's pods; None where there is no such Deployment."""
        path = f"{collection('apps/v1', namespace, 'deployments')}/{name}"
        body = {"spec": {"replicas": replicas}}
        try:
            return await self.call("PATCH", path, body, MERGE, query={"fieldManager": MANAGER})
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None

    async def write_lease(self, body: Json) -> Json | None:
        """Create a Lease, or replace one as it was read; None where another was quicker. Raises ApiError."""
        is_new = "resourceVersion" not in body["metadata"]
        method, path = ("POST", _path(body)) if is_new else ("PUT", f"{_path(body)}/{body['metadata']['name']}")
        try:
            return await self.call(method, path, body, query={"fieldManager": MANAGER})
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
            await self.call("DELETE", path, options)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return
            # A conflict says that the name is another object's by now, or that the server could not delete this one.
            live = await self._get(path) if error.status == HTTPStatus.CONFLICT else item
            if live is not None and live["metadata"]["uid"] == item["metadata"]["uid"]:
                raise


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
        yield Cluster(session, configuration, proxy_of(configuration))
