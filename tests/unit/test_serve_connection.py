"""Clients that misbehave on a real socket lose their own connection, and nobody else's."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from tests.unit.serving import Live, live
from torchscript_operator.serve.connection import Gathering

GET = b"GET /v2 HTTP/1.1\r\nhost: x\r\n"


@contextmanager
def connection(server: Live) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=10) as found:
        yield found


def read(found: socket.socket) -> bytes:
    """Until the server closes."""
    received = b""
    try:
        while data := found.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def refused(server: Live, reason: str) -> float:
    return server.state.metrics.refused_connections.labels(reason)._value.get()


def assert_served(server: Live) -> None:
    assert httpx.get(f"{server.url}/v2/health/ready", timeout=10).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET /v2 HT", GET, GET + b"a: b"])
def test_a_head_that_does_not_come_ends_the_connection(sent: bytes) -> None:
    with live(head_seconds=0.2) as server, connection(server) as slow:
        slow.sendall(sent)
        assert read(slow) == b""
        assert refused(server, "slow_head") == 1
        assert_served(server)


def test_bytes_that_drip_do_not_buy_time() -> None:
    with live(head_seconds=0.4) as server, connection(server) as slow:
        started = time.monotonic()
        slow.sendall(GET)
        with pytest.raises(OSError, match=r"reset|Broken pipe"):  # noqa: PT012 - it fails at one of many bytes
            while time.monotonic() < started + 10:
                slow.sendall(b"a: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() - started < 5


def test_an_empty_line_after_an_answer_does_not_hold_the_connection() -> None:
    with live(head_seconds=0.2) as server, connection(server) as slow:
        slow.sendall(GET + b"\r\n")
        assert slow.recv(65536).startswith(b"HTTP/1.1 200")
        slow.sendall(b"\r\n")
        read(slow)
        assert refused(server, "slow_head") == 1


@pytest.mark.parametrize(
    "head",
    [
        GET + b"a: " + b"x" * 5000,
        GET + b"a: " + b"x" * 5000 + b"\r\n\r\n",
        GET + b"".join(b"h%d: x\r\n" % number for number in range(101)),
        GET + b"a: b\r\n" * 101,
        b"GET /" + b"x" * 5000,
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_a_head_that_is_too_large_is_431(head: bytes) -> None:
    with live(head_bytes=4000) as server, connection(server) as flood:
        flood.sendall(head)
        answer = read(flood)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "the request's head is too large"}
        assert refused(server, "large_head") == 1
        assert_served(server)


def test_what_is_no_http_is_400() -> None:
    with live() as server, connection(server) as odd:
        odd.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert read(odd).startswith(b"HTTP/1.1 400 ")
        assert refused(server, "no_http") == 1


def test_idle_connections_make_room_for_new_ones() -> None:
    with live(connections=8) as server, ExitStack() as stack:
        idle = [stack.enter_context(connection(server)) for _ in range(20)]
        for _ in range(3):
            assert_served(server)
        assert idle[0].recv(1) == b""
        assert refused(server, "room") >= 12


def test_a_client_that_does_not_read_is_given_up() -> None:
    """Its answers fill the kernel's buffers and uvicorn's, and then no byte of them moves."""
    with live(write_seconds=0.3, head_bytes=60_000) as server, connection(server) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(0.2)
        body = json.dumps({"model": "toy", "input": ["w1"] * 1000}).encode()
        ask = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        deadline = time.monotonic() + 30
        while not refused(server, "slow_reader"):
            assert time.monotonic() < deadline
            with suppress(OSError):  # its own buffer is full, or the server has gone already
                deaf.send(ask)
        assert_served(server)


def test_a_body_that_stops_does_not_stop_others() -> None:
    with live(request_seconds=0.3) as server, connection(server) as half_open:
        half_open.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert_served(server)
        assert half_open.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_pipelined_requests_are_answered_in_order() -> None:
    with live() as server, connection(server) as pipe:
        pipe.sendall((GET + b"\r\n") * 3 + b"GET /v2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert read(pipe).count(b"HTTP/1.1 200 OK") == 4


class Sent(asyncio.Transport):
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.told.append(bytes(data))

    def close(self) -> None:
        self.told.append(b"closed")

    def is_closing(self) -> bool:
        return b"closed" in self.told

    def get_write_buffer_size(self) -> int:
        return 0


async def test_head_and_body_of_an_answer_leave_together() -> None:
    sent = Sent()
    gathering = Gathering(sent, asyncio.get_running_loop())
    gathering.write(b"head")
    assert (sent.told, gathering.get_write_buffer_size()) == ([], 4)
    gathering.write(b"body")
    assert (sent.told, gathering.get_write_buffer_size()) == ([b"headbody"], 0)
    await asyncio.sleep(0)
    assert sent.told == [b"headbody"]


async def test_a_head_without_a_body_leaves_in_the_same_turn() -> None:
    sent = Sent()
    gathering = Gathering(sent, asyncio.get_running_loop())
    gathering.write(b"head")
    await asyncio.sleep(0)
    assert (sent.told, gathering.get_write_buffer_size()) == ([b"head"], 0)


async def test_what_is_held_is_sent_before_the_connection_closes() -> None:
    sent = Sent()
    gathering = Gathering(sent, asyncio.get_running_loop())
    gathering.write(b"last words")
    gathering.close()
    await asyncio.sleep(0)
    assert sent.told == [b"last words", b"closed"]
