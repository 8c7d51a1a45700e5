"""What may go wrong between an operator and the API server, as actions of the proxy's rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from tests.integration.proxy import WRITES, Action, Answer, Call, Exchange, Matches, forward

if TYPE_CHECKING:
    from aiohttp import web

Json = dict[str, Any]
Events = AsyncIterator[bytes]
FOR_EVER = float("inf")


def is_write(call: Call) -> bool:
    return call.verb in WRITES


def every(_: Call) -> bool:
    return True


def of(*whats: str) -> Matches:
    """Calls by verb and resource, such as `create jobs` or `patch torchscriptmodels/status`."""
    return lambda call: call.what in whats


# The operator's end.


def killed_before(again: Callable[[], None]) -> Action:
    """The operator dies before its request reaches the server; `again` kills it and starts it anew."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        await asyncio.to_thread(again)
        return exchange.cut()

    return act


def killed_after(again: Callable[[], None]) -> Action:
    """The operator dies as soon as it has its answer."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        response = await forward(exchange)
        await asyncio.to_thread(again)
        return response

    return act


# The network's end.


def lost() -> Action:
    """The server acts, and the connection breaks before its answer arrives."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        if exchange.call.verb != "watch":  # which has no end to wait for
            await exchange.upstream()
        return exchange.cut()

    return act


def away() -> Action:
    """Nobody is there."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        return exchange.cut()

    return act


def unanswered(seconds: float) -> Action:
    """The server acts, and nothing is heard until the operator's patience is over."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        await exchange.upstream()
        await asyncio.sleep(seconds)
        return exchange.cut()

    return act


def delayed(seconds: float) -> Action:
    """The request is a long time on its way."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await forward(exchange)

    return act


# The server's end.


def refused(status: int, **headers: str) -> Action:
    """The server says no and does nothing."""
    said = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": status,
        "reason": HTTPStatus(status).phrase.replace(" ", ""),
        "message": f"said by the proxy: {HTTPStatus(status).phrase}",
    }
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def act(exchange: Exchange) -> web.StreamResponse:
        answer = Answer(status, json.dumps(said).encode(), {"Content-Type": "application/json", **named})
        return await exchange.give(answer)

    return act


def kept(memory: dict[str, Answer]) -> Action:
    """Remember what lists say."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        memory[exchange.request.path_qs] = answer = await exchange.upstream()
        return await exchange.give(answer)

    return act


def replayed(memory: dict[str, Answer]) -> Action:
    """Say what was said before: a server that lags behind."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        answer = memory.get(exchange.request.path_qs)
        return await (forward(exchange) if answer is None else exchange.give(answer))

    return act


# Watches.


def watched(change: Callable[[Events], Events]) -> Action:
    """A watch whose events are changed on their way."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        return await exchange.stream(change(exchange.events()))

    return act


def _kind(line: bytes) -> str:
    kind: str = json.loads(line)["type"]
    return kind


def dropped(*kinds: str) -> Action:
    """Events of some kinds (ADDED, MODIFIED, DELETED) never arrive; bookmarks do."""

    async def change(events: Events) -> Events:
        async for line in events:
            if _kind(line) not in kinds:
                yield line

    return watched(change)


def doubled() -> Action:
    """Every event arrives twice."""

    async def change(events: Events) -> Events:
        async for line in events:
            yield line
            yield line

    return watched(change)


def late(seconds: float) -> Action:
    """Every event arrives late, in order."""

    async def change(events: Events) -> Events:
        async for line in events:
            await asyncio.sleep(seconds)
            yield line

    return watched(change)


def merged(seconds: float) -> Action:
    """Of the events of an object within some time only the last arrives, as a server under load may compress them."""

    async def change(events: Events) -> Events:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def read() -> None:
            async for line in events:
                await queue.put(line)
            await queue.put(None)

        reader = asyncio.create_task(read())
        try:
            while True:
                waiting = [await queue.get()]
                await asyncio.sleep(seconds)
                while not queue.empty():
                    waiting.append(queue.get_nowait())
                newest: dict[str, bytes] = {}
                for line in waiting:
                    if line is not None:
                        body = json.loads(line)["object"]
                        uid = body.get("metadata", {}).get("uid", "")
                        newest.pop(uid, None)
                        newest[uid] = line
                for line in newest.values():
                    yield line
                if None in waiting:
                    return
        finally:
            reader.cancel()

    return watched(change)


def gone_event(after: int = 0) -> Action:
    """After some events the server says that it no longer knows the version, inside the stream."""
    said = {"kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Expired", "message": "too old"}

    async def change(events: Events) -> Events:
        count = 0
        if after:
            async for line in events:
                yield line
                count += 1
                if count >= after:
                    break
        yield json.dumps({"type": "ERROR", "object": said}).encode() + b"\n"

    return watched(change)


def compacted() -> Action:
    """The server knows no versions but those of its lists, each for one watch alone, which ends at its second event."""
    known: set[tuple[str, str]] = set()

    async def act(exchange: Exchange) -> web.StreamResponse:
        path = exchange.request.path
        if exchange.call.verb == "list":
            answer = await exchange.upstream()
            known.add((path, json.loads(answer.body)["metadata"]["resourceVersion"]))
            return await exchange.give(answer)
        place = path, exchange.request.query.get("resourceVersion", "")
        is_known = place in known
        known.discard(place)
        return await gone_event(after=1 if is_known else 0)(exchange)

    return act


def broken(after: int = 0) -> Action:
    """After some events the connection breaks."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        async def change() -> Events:
            count = 0
            async for line in exchange.events():
                if count >= after:
                    exchange.cut()
                    return
                yield line
                count += 1

        return await exchange.stream(change())

    return act


def silent() -> Action:
    """The connection stays open, and nothing ever comes over it, not even a bookmark."""

    async def change(_: Events) -> Events:
        await asyncio.Event().wait()
        yield b""

    return watched(change)
