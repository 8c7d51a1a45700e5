"""A proxy between operators and the API server that misbehaves by rule: the faults of networks, servers and machines.

    with Proxy(plane.kubeconfig) as proxy:
        line = proxy.line()                               # one operator's way to the server, on a port of its own
        line.rule(faults.is_write, faults.lost(), nth=3)  # the answer to its third write never arrives

It runs in a thread of its own; lines and rules may be made from any other. What the faults are is in faults.py.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp
import yaml
from aiohttp import web

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

Json = dict[str, Any]
PATH = re.compile(
    r"/(?:api/(?P<core>[^/]+)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+))?(?:/(?P<resource>[^/]+))?(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[^/]+))?$"
)
CLUSTER_WIDE = re.compile(r"(/api/v1|/apis/(?:torchscript\.dev|batch|apps|autoscaling|policy)/[^/]+)(/[a-z]+(?:$|\?))")
"""Lists and watches over all namespaces."""
HOP_HEADERS = frozenset({"host", "connection", "content-length", "transfer-encoding", "accept-encoding"})
"""What belongs to one connection and is not passed on."""
PASSED_BACK = ("Content-Type", "Retry-After", "Audit-Id")
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
WRITES = frozenset(VERBS.values())


@dataclass(frozen=True)
class Call:
    """One request in the API server's own words."""

    verb: str
    resource: str
    name: str = ""
    subresource: str = ""

    @property
    def what(self) -> str:
        """Verb and resource, as RBAC names them: `patch torchscriptmodels/status`."""
        return f"{self.verb} {self.resource}" + (f"/{self.subresource}" if self.subresource else "")

    @classmethod
    def of(cls, request: web.BaseRequest) -> Call:
        """Read a request."""
        found = PATH.match(request.path)
        parts = found.groupdict() if found else {}
        resource, name = parts.get("resource") or "", parts.get("name") or ""
        verb = VERBS.get(request.method) or ("get" if name or not resource else "list")
        if request.query.get("watch"):
            verb = "watch"
        return cls(verb, resource, name, parts.get("subresource") or "")


@dataclass(frozen=True)
class Answer:
    """What the API server said."""

    status: int
    body: bytes
    headers: dict[str, str]


@dataclass
class Exchange:
    """One request on its way."""

    line: Line
    request: web.Request
    call: Call
    body: bytes

    def _sent(self) -> Any:
        headers = {name: value for name, value in self.request.headers.items() if name.lower() not in HOP_HEADERS}
        proxy, path = self.line.proxy, self.request.path_qs
        if self.line.namespace and CLUSTER_WIDE.match(self.request.path):
            path = CLUSTER_WIDE.sub(rf"\1/namespaces/{self.line.namespace}\2", path)
        return proxy.session.request(
            self.request.method, f"{proxy.server}{path}", data=self.body or None, headers=headers
        )

    async def upstream(self) -> Answer:
        """Let the API server act."""
        async with self._sent() as answer:
            kept = {name: answer.headers[name] for name in PASSED_BACK if name in answer.headers}
            text = await answer.read()
        self.line.acted.append((self.call, answer.status))
        return Answer(answer.status, text, kept)

    async def events(self) -> AsyncIterator[bytes]:
        """What a watch brings, line by line; a refusal is one line too."""
        async with self._sent() as answer:
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line + b"\n"
            if rest:
                yield rest

    async def give(self, answer: Answer) -> web.Response:
        """Answer the operator; it has the whole answer, or is gone, when this returns."""
        response = web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        await response.prepare(self.request)
        await response.write_eof()
        return response

    async def stream(self, events: AsyncIterator[bytes]) -> web.StreamResponse:
        """Answer a watch."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(self.request)
        async for line in events:
            await response.write(line)
        await response.write_eof()
        return response

    def cut(self) -> web.Response:
        """Break the connection."""
        if self.request.transport is not None:
            self.request.transport.abort()
        return web.Response(status=500)


Action = Callable[[Exchange], Awaitable[web.StreamResponse]]
Matches = Callable[[Call], bool]


async def forward(exchange: Exchange) -> web.StreamResponse:
    """What a proxy does."""
    if exchange.call.verb == "watch":
        return await exchange.stream(exchange.events())
    return await exchange.give(await exchange.upstream())


@dataclass
class Rule:
    """A fault that happens to the n-th matching call, and to so many after it, every so many calls."""

    matches: Matches
    action: Action
    nth: int = 1
    times: float = 1
    stride: int = 1
    seen: int = 0
    fired: int = 0

    def takes(self, call: Call) -> bool:
        """Whether it is this call's turn."""
        if not self.matches(call):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.seen - self.nth) % self.stride or self.fired >= self.times:
            return False
        self.fired += 1
        return True


@dataclass
class Line:
    """One operator's way to the API server."""

    proxy: Proxy
    namespace: str = ""
    """The only one that the operator sees, as if it were the whole cluster; empty: all."""
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    acted: list[tuple[Call, int]] = field(default_factory=list)
    """What the API server did and said, in order, watches left out."""
    rules: list[Rule] = field(default_factory=list)

    def rule(self, matches: Matches, action: Action, *, nth: int = 1, times: float = 1, stride: int = 1) -> Rule:
        """Add a fault; the first rule that takes a call has it."""
        added = Rule(matches, action, nth, times, stride)
        self.rules.append(added)
        return added

    def writes(self) -> list[str]:
        """What the operator wrote with success."""
        return [call.what for call, status in self.acted if call.verb in WRITES and status < HTTPStatus.BAD_REQUEST]

    def awaits_quiet(self, seconds: float = 1.0) -> None:
        """Wait until the operator has read and written no single object for some time; it may list and watch."""
        quiet_since, count = time.monotonic(), -1
        deadline = quiet_since + 60
        while (now := time.monotonic()) - quiet_since < seconds:
            assert now < deadline, "the operator goes on asking"
            if (asked := sum(call.verb not in {"list", "watch"} for call in self.calls)) != count:
                quiet_since, count = now, asked
            time.sleep(0.1)

    def kubeconfig(self, path: Path, like: Path) -> Path:
        """Write a kubeconfig that goes this way, as the user of another one."""
        config = yaml.safe_load(like.read_text())
        for cluster in config["clusters"]:
            cluster["cluster"] = {"server": f"http://127.0.0.1:{self.port}"}
        path.write_text(yaml.safe_dump(config))
        return path

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Take one request."""
        call = Call.of(request)
        self.calls.append(call)
        exchange = Exchange(self, request, call, await request.read())
        action = next((rule.action for rule in list(self.rules) if rule.takes(call)), forward)
        try:
            return await action(exchange)
        except (aiohttp.ClientError, ConnectionError):
            return exchange.cut()


class Proxy:
    """All lines to one API server."""

    def __init__(self, kubeconfig: Path) -> None:
        cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
        self.server: str = cluster["server"]
        self._authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._runners: list[web.AppRunner] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.session: aiohttp.ClientSession

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(60)

    async def _open(self) -> None:
        context = ssl.create_default_context(cadata=self._authority)
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        self.session = aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=2**21)

    async def _close(self) -> None:
        # First what waits for ever, or the runners would wait for it.
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))
        await self.session.close()
        # Transports of TLS connections close in the loop's next rounds.
        await asyncio.sleep(0.2)

    def line(self, namespace: str = "") -> Line:
        """Open another way to the server."""
        made = Line(self, namespace)
        self._do(self._listen(made))
        return made

    async def _listen(self, line: Line) -> None:
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", line.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        line.port = runner.addresses[0][1]
