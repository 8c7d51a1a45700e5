"""How the API server is spoken to: requests with the right token, retries that it asks for, errors in its words."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
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
from kubernetes.aio.utils.retry import Backoff, on_retry_after_error  # type: ignore[attr-defined]

from torchscript_operator.controller.clock import Clock
from torchscript_operator.controller.model import Json

REQUEST_SECONDS = 30
"""Longest time for one call; a server that takes longer is retried by the queue."""
TIMEOUT = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
SILENCE_SECONDS = 70
"""A watch that says nothing for so long is dead: the server sends a bookmark every minute."""
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_SECONDS)
TOO_MANY_BACKOFF = Backoff(steps=8, duration=0.25, factor=2.0, jitter=0.2)
"""Waits, in seconds, where the server says "too many requests" but not for how long; then the queue takes over."""
UNPRINTABLE = re.compile("[\x7f-\x9f\ufeff\ufffe\uffff]")
"""What JSON may hold as it is and YAML may not (YAML 1.2, production 1, c-printable; NEL and BOM for safety)."""


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


def _with_query(path: str, query: Mapping[str, str | int | None]) -> str:
    given = {key: value for key, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


@dataclass(frozen=True)
class Connection:
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

    async def call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str | int | None] | None = None,
    ) -> Json:
        """One call, repeated as long as the server asks for it; an empty answer is {}. Raises ApiError."""
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

    async def lines(self, path: str, query: Mapping[str, str | int | None]) -> AsyncIterator[Json]:
        """What a watch says, until the server ends it or falls silent. Raises ApiError."""
        try:
            async with self._request("GET", _with_query(path, query), WATCH_TIMEOUT) as answer:
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


def proxy_of(configuration: Configuration) -> str | None:
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
