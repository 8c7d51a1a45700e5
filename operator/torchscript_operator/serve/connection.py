"""One HTTP connection within bounds: uvicorn's protocol bounds neither a request's head nor how long it may take.

A client that sends its head slowly, opens connections and says nothing, floods headers, or does not read its answer
loses its own connection and takes nothing from the others.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from torchscript_operator.serve.metrics import Metrics

MAXIMUM_HEADERS = 100
"""Headers of one request; browsers and proxies send a third of that."""
FULL = "too many connections are open"
TOO_LARGE = "the request's head is too large"


@dataclass(frozen=True)
class Bounds:
    """Of all connections of one server."""

    connections: int
    """Open at one time; beyond, the one that was idle longest makes room."""
    head_bytes: int
    """Request line and headers."""
    head_seconds: float
    """From the connection, or a request's first byte, to the end of its head."""
    write_seconds: float
    """A client that takes no byte of its answer for this long is given up."""
    metrics: Metrics


class Gathering:
    """A transport that sends an answer's head and body by one system call.

    uvloop writes at once, and uvicorn the two apart: two packets, and two wake-ups of the client.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Take the transport that sends."""
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send with what is held, or soon: what is alone may be a head, and its body comes in the same turn."""
        self._held.append(data)
        if len(self._held) > 1:
            self._send()
        else:
            self._loop.call_soon(self._send)

    def close(self) -> None:
        """Send what is held, and close."""
        self._send()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """Bytes that the client has not taken."""
        return self._transport.get_write_buffer_size() + sum(map(len, self._held))

    def _send(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held) if len(held) > 1 else held[0])


class Connection(HttpToolsProtocol):
    """A connection; `bounded` makes the class for one server."""

    bounds: ClassVar[Bounds]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As uvicorn makes it."""
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        """Bytes received since the request's first, while its head is not whole."""
        self._fields_bytes = 0
        """Of them, those of the request line and of whole headers."""
        self._in_head = True
        self._too_large = False
        self.idle_since = time.monotonic()
        """Since when nothing is answered."""

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, if need be in the place of an idle one."""
        super().connection_made(cast("asyncio.Transport", Gathering(transport, self.loop)))
        self._watch_head()
        if len(self.connections) > self.bounds.connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; end the connection when a head has grown too large."""
        if self.transport.is_closing():
            return
        in_body = self.busy
        super().data_received(data)
        # What comes while an answer is made is a body, with at most the start of the next head behind it.
        if self._in_head and not in_body:
            self._head_bytes += len(data)
        if self.parser is None or self.transport.is_closing():
            return
        if self._in_head and self._head_bytes > self.bounds.head_bytes:
            self._too_large = True
            self.send_400_response("")
            return
        self._watch_head()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._fields_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The connection is idle again."""
        self.idle_since = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.bounds.write_seconds, self.drop, "slow_reader")

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one whose client has not even read its answer would never close by itself."""
        if self.transport.get_write_buffer_size():
            self.drop("slow_reader")
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Answer what could not be parsed, or was too large to be, and close."""
        status, text = (431, TOO_LARGE) if self._too_large else (400, msg)
        self.bounds.metrics.refused_connections.labels("large_head" if self._too_large else "no_http").inc()
        self._answer(status, text)

    def _count(self, size: int) -> None:
        self._fields_bytes += size
        if self._fields_bytes > self.bounds.head_bytes or len(self.headers) > MAXIMUM_HEADERS:
            self._too_large = True
            # Any error in a parser's callback ends in send_400_response.
            raise ValueError(TOO_LARGE)

    def _watch_head(self) -> None:
        """A timer runs whenever a head is awaited and uvicorn's own timer of idle connections does not."""
        awaited = not self.busy and self.timeout_keep_alive_task is None
        if awaited and self._head_timer is None:
            self._head_timer = self.loop.call_later(self.bounds.head_seconds, self.drop, "slow_head")
        elif not awaited and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _make_room(self) -> None:
        idle = [other for other in self.connections if isinstance(other, Connection) and not other.busy]
        others = [other for other in idle if other is not self]
        if others:
            min(others, key=lambda other: other.idle_since).drop("room")
        else:
            self.bounds.metrics.refused_connections.labels("full").inc()
            self._answer(503, FULL)

    def drop(self, reason: str) -> None:
        """Give the connection up; reason: for the metrics."""
        self.bounds.metrics.refused_connections.labels(reason).inc()
        self.transport.abort()

    def _answer(self, status: int, text: str) -> None:
        head = "content-type: application/json\r\nconnection: close\r\nretry-after: 1\r\n"
        body = orjson.dumps({"error": text})
        self.transport.write(STATUS_LINE[status] + head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()


def bounded(bounds: Bounds) -> type[Connection]:
    """The class of a server's connections."""
    return type("BoundedConnection", (Connection,), {"bounds": bounds})
