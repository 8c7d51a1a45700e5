"""The only module that talks to the API server: plain JSON objects in and out, every write under one field manager."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.utils.retry import Backoff, on_retry_after_error  # type: ignore[attr-defined]

from torchscript_operator.api.v1alpha1 import API_VERSION, PLURAL
from torchscript_operator.controller import metrics
from torchscript_operator.controller.model import MANAGER, MODEL_LABEL, Json

REQUEST_SECONDS = 30
"""Longest time for one call; a server that takes longer is retried by the queue."""
TOO_MANY_BACKOFF = Backoff(steps=8, duration=0.25, factor=2.0, jitter=0.2)
"""Waits, in seconds, where the server says "too many requests" but not for how long; then the queue takes over."""
APPLY = "application/apply-patch+yaml"
FORCED = {"fieldManager": MANAGER, "force": "true"}
"""A server-side apply that takes its fields from whoever had them."""
PAGE_SIZE = 500
"""Objects in one page of a list."""
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


def _is_retriable(error: Exception) -> bool:
    return isinstance(error, ApiException) and error.status == HTTPStatus.TOO_MANY_REQUESTS


def _words(error: ApiException) -> str:
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def collection(api_version: str, namespace: str | None, plural: str) -> str:
    """Path of a resource, in one namespace or in all."""
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def _path(body: Json) -> str:
    plural = PATHS.get(body["apiVersion"]) or f"{body['kind'].lower()}s"
    return collection(body["apiVersion"], body["metadata"]["namespace"], plural)


@dataclass(frozen=True)
class Cluster:
    """An API server, seen through a connection pool."""

    client: ApiClient

    async def _call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        content_type: str | None = None,
        query: Mapping[str, str | int | None] | None = None,
    ) -> Json:
        given = {key: value for key, value in (query or {}).items() if value is not None}
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type or "application/json"
        started = time.monotonic()

        async def once() -> Json:
            call = await self.client.param_serialize(
                method,
                f"{path}?{urlencode(given)}" if given else path,
                header_params=dict(headers),
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self.client.call_api(*call, _request_timeout=REQUEST_SECONDS)
            data = await answer.read()  # type: ignore[no-untyped-call]
            if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
                refusal = ApiException(status=answer.status, reason=answer.reason, body=data.decode(errors="replace"))
                refusal.headers = answer.headers
                raise refusal
            parsed: Json = json.loads(data) if data else {}
            return parsed

        code = 0
        try:
            # Too many requests is the server's own flow control: wait as long as it asks, with no limit of our own.
            result = await on_retry_after_error(TOO_MANY_BACKOFF, _is_retriable, once)
            code = 200
        except ApiException as error:
            code = error.status or 0
            raise ApiError(code, _words(error)) from error
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ApiError(0, f"no answer from the API server: {type(error).__name__}") from error
        else:
            return result
        finally:
            metrics.API_CALLS.labels(verb=method, code=str(code)).inc()
            metrics.API_SECONDS.labels(verb=method).observe(time.monotonic() - started)

    async def find(self, api_version: str, plural: str, namespace: str, name: str) -> Json | None:
        """One object, or None."""
        try:
            return await self._call("GET", f"{collection(api_version, namespace, plural)}/{name}")
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def model(self, namespace: str, name: str) -> Json | None:
        """One TorchScriptModel, or None."""
        return await self.find(API_VERSION, PLURAL, namespace, name)

    async def list(
        self,
        api_version: str,
        plural: str,
        namespace: str | None = None,
        selector: str | None = None,
        fields: str | None = None,
    ) -> list[Json]:
        """All objects that match, page by page."""
        items: list[Json] = []
        token: str | None = None
        while True:
            page = await self._call(
                "GET",
                collection(api_version, namespace, plural),
                query={"labelSelector": selector, "fieldSelector": fields, "limit": PAGE_SIZE, "continue": token},
            )
            items += page["items"]
            token = page["metadata"].get("continue")
            if not token:
                return items

    async def children(self, api_version: str, plural: str, namespace: str, model: str) -> tuple[Json, ...]:
        """Children of a model, by label."""
        return tuple(await self.list(api_version, plural, namespace, f"{MODEL_LABEL}={model}"))

    async def create(self, body: Json) -> bool:
        """Create an object; False where it exists already. Raises ApiError where that one has another owner."""
        try:
            await self._call("POST", _path(body), body, query={"fieldManager": MANAGER})
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            await self._assert_same_owner(body)
            return False
        return True

    async def _assert_same_owner(self, body: Json) -> None:
        wanted = {owner["uid"] for owner in body["metadata"].get("ownerReferences", [])}
        if not wanted:
            return
        name = body["metadata"]["name"]
        live = await self._call("GET", f"{_path(body)}/{name}")
        if wanted.isdisjoint(owner["uid"] for owner in live["metadata"].get("ownerReferences", [])):
            message = f"{body['kind']} {name} exists and belongs to another object; delete it or rename the model"
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, message)

    async def apply(self, body: Json) -> None:
        """Server-side apply: ours are just the fields named, and we take them from whoever had them."""
        path = f"{_path(body)}/{body['metadata']['name']}"
        await self._call("PATCH", path, body, APPLY, query=FORCED)

    async def apply_status(self, namespace: str, name: str, uid: str, status: Json) -> None:
        """Write a model's status. The uid keeps a late write from reaching a newer model of the same name."""
        body: Json = {
            "apiVersion": API_VERSION,
            "kind": "TorchScriptModel",
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "status": status,
        }
        path = f"{collection(API_VERSION, namespace, PLURAL)}/{name}/status"
        await self._call("PATCH", path, body, APPLY, query=FORCED)

    async def delete(self, item: Json) -> None:
        """Delete exactly this object, its pods in the background; one that is gone already is fine."""
        options: Json = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": item["metadata"]["uid"]},
        }
        try:
            await self._call("DELETE", f"{_path(item)}/{item['metadata']['name']}", options)
        except ApiError as error:
            if error.status not in {404, 409}:
                raise


@asynccontextmanager
async def connect() -> AsyncIterator[Cluster]:
    """Connect as the pod's ServiceAccount, or outside a cluster as the user's kubeconfig says."""
    configuration = Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    async with ApiClient(configuration) as client:
        yield Cluster(client)
