"""Requests to a server at a rate of our own, whether it keeps up or not, and what became of each of them."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TOLERANCE = 1e-5
PATIENCE_SECONDS = 60.0
"""An answer that takes longer than the server's own limit and half is none."""
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Tally:
    """What became of requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """accepted, refused (429, and 503 for want of a connection), expired (503 by deadline), wrong, lost, and others by
    their status."""
    seconds: list[tuple[float, float]] = field(default_factory=list)
    """Of each accepted request: when it was sent, and how long its answer took."""
    texts: int = 0
    """Texts in accepted requests."""
    largest_difference: float = 0.0
    """From eager's answers, over all numbers of all accepted requests."""
    lost: list[str] = field(default_factory=list)
    """How, of the first few."""


class Client:
    """Asks for embeddings over as many kept-open connections as it needs."""

    def __init__(self, address: tuple[str, int], texts: Sequence[str], expected: NDArray[np.float32]) -> None:
        """expected: eager's embeddings of the texts, of shape (texts, width)."""
        self._address = address
        self._texts = texts
        self._expected = expected
        self._idle: list[Connection] = []
        self._random = random.Random(7)  # noqa: S311 - repeatable on purpose

    async def ask(self, tally: Tally) -> None:
        """One request, mostly of one text, some of up to sixteen; half of the answers as base64."""
        size = self._random.choice((1, 1, 1, 1, 1, 1, 2, 4, 16))
        chosen = [self._random.randrange(len(self._texts)) for _ in range(size)]
        encoding = self._random.choice(("float", "base64"))
        body = orjson.dumps({"model": "minilm", "input": [self._texts[i] for i in chosen], "encoding_format": encoding})
        started = time.monotonic()
        try:
            status, answer = await asyncio.wait_for(self._post(body), PATIENCE_SECONDS)
            outcome = self._judge(status, answer, chosen, tally)
        except (TimeoutError, OSError, ValueError, EOFError, KeyError) as error:
            outcome = "lost"
            tally.lost = [*tally.lost, repr(error)][:10]
        tally.outcomes[outcome] += 1
        if outcome == "accepted":
            tally.seconds.append((started, time.monotonic() - started))
            tally.texts += size

    def close(self) -> None:
        """Close the idle connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: load\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._exchange(connection, head + body)
            except ConnectionAbortedError:
                # The server may close an idle connection at any time; every HTTP client asks again on another one.
                connection[1].close()
        connection = await asyncio.open_connection(*self._address)
        return await self._exchange(connection, head + body)

    async def _exchange(self, connection: Connection, request: bytes) -> tuple[int, bytes]:
        """Raises ConnectionAbortedError when the connection was closed before a byte of the answer."""
        reader, writer = connection
        writer.write(request)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            raise ConnectionAbortedError("closed before its answer") from error
        except ConnectionResetError as error:
            raise ConnectionAbortedError("reset before its answer") from error
        lines = head.decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        answer = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append(connection)
        return int(lines[0].split()[1]), answer

    def _judge(self, status: int, answer: bytes, chosen: list[int], tally: Tally) -> str:
        parsed: Any = orjson.loads(answer)
        if status == 200:
            vectors = [
                np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
                if isinstance(item["embedding"], str)
                else np.array(item["embedding"], dtype=np.float32)
                for item in parsed["data"]
            ]
            difference = float(np.abs(np.stack(vectors) - self._expected[chosen]).max())
            tally.largest_difference = max(tally.largest_difference, difference)
            return "accepted" if difference <= TOLERANCE else "wrong"
        error = parsed["error"]
        if status == 503 and isinstance(error, dict) and error["code"] == "deadline_exceeded":
            return "expired"
        if status == 429 or (status == 503 and "connections" in str(error)):
            return "refused"
        return f"status {status}"


async def closed_loop(client: Client, tally: Tally, clients: int, seconds: float) -> None:
    """So many clients, each of which waits for its answer before it asks again."""
    end = time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < end:
            await client.ask(tally)

    await asyncio.gather(*(one() for _ in range(clients)))


async def open_loop(client: Client, tally: Tally, rate: float, seconds: float) -> int:
    """So many requests a second at random times, however long the answers take; how many were sent."""
    chance = random.Random(11)  # noqa: S311 - repeatable on purpose
    started = time.monotonic()
    due = 0.0
    asked: set[asyncio.Task[None]] = set()
    sent = 0
    while (due := due + chance.expovariate(rate)) < seconds:
        wait = started + due - time.monotonic()
        # Behind time, all that is due is sent at once: the rate holds, whatever this process is late.
        await asyncio.sleep(max(0.0, wait))
        task = asyncio.create_task(client.ask(tally))
        asked.add(task)
        task.add_done_callback(asked.discard)
        sent += 1
    await asyncio.gather(*asked)
    return sent
