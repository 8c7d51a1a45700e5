"""A closed-loop HTTP client: so many connections, each of which sends its next request when the last one is answered.

Requests are made beforehand and answers are only kept, so that the client costs some tens of microseconds a request:
`cpu_share` says what it took from the servers beside it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import uvloop

if TYPE_CHECKING:
    from collections.abc import Sequence

OK = 200
PATIENCE_SECONDS = 60.0
"""For the answers that are still out when the time is over."""


@dataclass
class Measured:
    """One run."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Seconds from a request to its whole answer, in the order of the answers."""
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    """Number of the text, and the body of its answer."""
    errors: list[tuple[int, bytes]] = field(default_factory=list)
    """Status other than 200 and body; status 0 for a lost connection."""
    cpu_share: float = 0.0
    """Of one core, that this client took."""


def request(path: str, body: bytes) -> bytes:
    """A POST of JSON as it goes over the connection."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Answer:
    """Takes the bytes of one answer as they come; bodies of known length and in chunks."""

    def __init__(self) -> None:
        self._data = b""
        self._start = -1
        self._length: int | None = None
        self.status = 0

    def feed(self, data: bytes) -> bytes | None:
        """The body once it is whole."""
        self._data = self._data + data if self._data else data
        if self._start < 0:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._start = end + 4
            lines = self._data[:end].lower().split(b"\r\n")
            self.status = int(lines[0].split()[1])
            fields = dict(line.split(b":", 1) for line in lines[1:])
            self._length = (
                None if b"chunked" in fields.get(b"transfer-encoding", b"") else int(fields[b"content-length"])
            )
        body = self._data[self._start :]
        if self._length is None:
            return _joined(body)
        return body if len(body) >= self._length else None


def _joined(body: bytes) -> bytes | None:
    if not body.endswith(b"0\r\n\r\n"):
        return None
    found, rest = [], body
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if not length:
            return b"".join(found)
        found.append(rest[:length])
        rest = rest[length + 2 :]


class _Run:
    def __init__(self, requests: Sequence[bytes], first: int, seconds: float) -> None:
        self.requests = requests
        self.next = first
        self.measured = Measured()
        self.end = time.perf_counter() + seconds

    def take(self) -> int | None:
        if time.perf_counter() >= self.end:
            return None
        number = self.next % len(self.requests)
        self.next += 1
        return number


class _Client(asyncio.Protocol):
    def __init__(self, run: _Run, done: asyncio.Future[None]) -> None:
        self._run = run
        self._done = done

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        body = self._answer.feed(data)
        if body is None:
            return
        self._run.measured.latencies.append(time.perf_counter() - self._sent)
        if self._answer.status == OK:
            self._run.measured.answers.append((self._number, body))
        else:
            self._run.measured.errors.append((self._answer.status, body))
        self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._done.done():
            self._run.measured.errors.append((0, b"the connection was lost"))
            self._done.set_result(None)

    def _send(self) -> None:
        number = self._run.take()
        if number is None:
            if not self._done.done():
                self._done.set_result(None)
            self._transport.close()
            return
        self._number, self._answer = number, Answer()
        self._sent = time.perf_counter()
        self._transport.write(self._run.requests[number])


def load(port: int, requests: Sequence[bytes], clients: int, seconds: float, first: int = 0) -> Measured:
    """Ask for so many seconds with so many clients; the answers that are out at the end count too.

    first: the number of the request to begin with, so that short runs do not all see the same ones.
    Raises TimeoutError when an answer does not come.
    """

    async def run() -> Measured:
        loop = asyncio.get_running_loop()
        state = _Run(requests, first, seconds)
        done: list[asyncio.Future[None]] = [loop.create_future() for _ in range(clients)]
        began, used = time.perf_counter(), time.process_time()
        await asyncio.gather(
            *(loop.create_connection(lambda one=one: _Client(state, one), "127.0.0.1", port) for one in done)  # type: ignore[misc]
        )
        await asyncio.wait_for(asyncio.gather(*done), seconds + PATIENCE_SECONDS)
        state.measured.seconds = time.perf_counter() - began
        state.measured.cpu_share = (time.process_time() - used) / state.measured.seconds
        return state.measured

    return uvloop.run(run())
