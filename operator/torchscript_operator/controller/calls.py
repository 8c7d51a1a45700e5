"""What requests to the API server tell beside their answers: how many, how long, and which watches are alive.

Both connections are listened to, kopf's and our own, at the HTTP client: nothing is missed that either does by itself,
such as a watch that begins again or a request that is sent once more.
"""

import re
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from types import SimpleNamespace

import aiohttp
from yarl import URL

from torchscript_operator.controller import metrics

RESOURCE = re.compile(r"/(?:api/[^/]+|apis/[^/]+/[^/]+)(?:/namespaces/[^/]+)?/(?P<plural>[^/]+)(?P<named>/.+)?$")
"""A resource in a request's path, which may begin with that of a proxy."""
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
"""Kubernetes' words for HTTP's methods; what GET does depends on what it is sent to."""
NO_ANSWER = "0"
"""Stands where an HTTP status would."""


def verb(method: str, url: URL) -> str:
    """What a request asks for, in the words of Kubernetes' audit log."""
    if method != "GET":
        return VERBS.get(method, method.lower())
    if url.query.get("watch") in {"true", "1"}:
        return "watch"
    found = RESOURCE.search(url.path)
    return "list" if found is not None and found["named"] is None else "get"


class Calls:
    """Counts requests, and knows when each watch was last begun, and when the API server comes back."""

    at_return: Callable[[], None]
    """Called when a watch has begun for which there was no answer before, or only an error of the server's."""

    def __init__(self, watched: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        """Take the paths of all watches there should be."""
        self._clock = clock
        self._begun: dict[str, float | None] = dict.fromkeys(watched)
        self._since = clock()
        self._away: set[str] = set()
        """Paths of watches for which the API server was last away."""
        self.at_return = lambda: None

    def trace(self) -> aiohttp.TraceConfig:
        """What an HTTP client has to be given."""
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(self._started)
        trace.on_request_end.append(self._ended)
        trace.on_request_exception.append(self._broke_off)
        return trace

    async def _started(
        self, _: aiohttp.ClientSession, call: SimpleNamespace, __: aiohttp.TraceRequestStartParams
    ) -> None:
        call.started = self._clock()

    async def _ended(
        self, _: aiohttp.ClientSession, call: SimpleNamespace, told: aiohttp.TraceRequestEndParams
    ) -> None:
        """The head of an answer is there; of a watch this means that it has begun."""
        asked = verb(told.method, told.url)
        self._count(asked, str(told.response.status), call)
        if asked == "watch" and told.response.ok:
            self.began(told.url.path)
        elif asked == "watch" and told.response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._away.add(told.url.path)

    async def _broke_off(
        self, _: aiohttp.ClientSession, call: SimpleNamespace, told: aiohttp.TraceRequestExceptionParams
    ) -> None:
        asked = verb(told.method, told.url)
        self._count(asked, NO_ANSWER, call)
        if asked == "watch":
            self._away.add(told.url.path)

    def _count(self, asked: str, code: str, call: SimpleNamespace) -> None:
        metrics.API_CALLS.labels(verb=asked, code=code).inc()
        metrics.API_SECONDS.labels(verb=asked).observe(self._clock() - call.started)

    def began(self, path: str) -> None:
        """Note that the server has accepted a watch."""
        for known in self._begun:
            if path.endswith(known):
                self._begun[known] = self._clock()
        if path in self._away:
            self._away.discard(path)
            self.at_return()

    def waiting(self) -> list[str]:
        """Paths of watches that have never been accepted."""
        return [path for path, begun in self._begun.items() if begun is None]

    def ages(self) -> dict[str, float]:
        """Seconds since each watch was last begun, or since the start; the server ends each after some minutes."""
        now = self._clock()
        return {path: now - (self._since if begun is None else begun) for path, begun in self._begun.items()}

    def age(self, plural: str) -> float:
        """The greatest age of a resource's watches."""
        return max((age for path, age in self.ages().items() if path.endswith(f"/{plural}")), default=0.0)
