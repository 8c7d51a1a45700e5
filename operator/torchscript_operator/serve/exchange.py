"""What every route does: read a body within bounds, compute while the client waits, encode the answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from torchscript_operator.serve.buckets import TooLongError
from torchscript_operator.serve.engine import EngineError
from torchscript_operator.serve.errors import ApiError, not_ready, of_engine, refuse, too_long
from torchscript_operator.serve.rows import Result, Row
from torchscript_operator.serve.state import Model, State

JSON = "application/json"
"""Content type of every answer but the metrics."""
INLINE_VALUES = 65536
"""Answers of up to this many numbers are encoded on the event loop, larger ones in a thread."""
Parsed = TypeVar("Parsed", bound=BaseModel)
STARTED = "tsm.started"
"""Key in the ASGI scope of the monotonic time at which the request's head had come."""


def model_of(state: State) -> Model:
    """The model.

    Raises ApiError 503 while it loads. A draining pod still computes: clients learn of it later than the pod.
    """
    if state.model is None:
        raise not_ready(state.stage)
    return state.model


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Encode a small value."""
    return Response(orjson.dumps(value), status, headers, JSON)


async def numbers_response(state: State, value: Any, numbers: int) -> Response:
    """Encode a value with NumPy arrays, off the event loop when it holds many numbers."""

    def encode() -> bytes:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)

    if numbers <= INLINE_VALUES:
        return Response(encode(), media_type=JSON)
    return Response(await asyncio.get_running_loop().run_in_executor(state.executor, encode), media_type=JSON)


@asynccontextmanager
async def body_of(state: State, request: Request) -> AsyncIterator[bytes]:
    """The body; its bytes count against the process's budget until the request is answered.

    Raises ApiError: 413 beyond the limit of one request, 429 beyond the budget of all, 408 when the body does not come
    in time, 415 for a compressed body.
    """
    held = 0
    try:
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "a compressed body is not taken: its size could not be bounded")
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > state.settings.request_bytes:
            raise _too_large(state)
        chunks = []
        try:
            with _Within(left(state, request)):
                async for chunk in request.stream():
                    held += len(chunk)
                    state.buffered_bytes += len(chunk)
                    if held > state.settings.request_bytes:
                        raise _too_large(state)
                    if state.buffered_bytes > state.settings.buffered_bytes:
                        raise ApiError(429, "too many bytes wait to be processed", code="queue_full", retry=1)
                    chunks.append(chunk)
        except asyncio.TimeoutError:
            raise ApiError(408, "the body did not come in time") from None
        yield b"".join(chunks)
    finally:
        state.buffered_bytes -= held


def parse(kind: type[Parsed], body: bytes | memoryview) -> Parsed:
    """A document of this kind.

    Raises ApiError 400 for what is no JSON in UTF-8, and for the first field that is not as the kind says.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        refuse(f"the body is not valid JSON in UTF-8: {error.msg}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        parameter = ".".join(str(part) for part in first["loc"]) or None
        refuse(f"{parameter or 'body'}: {first['msg']}", parameter)


def check_count(state: State, count: int, parameter: str | None = None) -> None:
    """Raise ApiError 400 for more rows than one request may have. Asked before they are made: a body holds millions."""
    if count > state.settings.request_rows:
        refuse(f"{count} texts in one request are more than {state.settings.request_rows}", parameter)


def check(state: State, model: Model, rows: Sequence[Row], parameter: str) -> None:
    """Raise ApiError 400 for rows beyond the limits; parameter: the field that they came by."""
    check_count(state, len(rows), parameter)
    try:
        for row in rows:
            model.buckets.check(row.length)
    except TooLongError as error:
        raise too_long(error, parameter) from None
    if sum(row.length for row in rows) > state.settings.queue_tokens:
        refuse(f"one request may hold {state.settings.queue_tokens} tokens", parameter)


async def compute(
    state: State,
    request: Request,
    model: Model,
    rows: Sequence[Row],
    parameter: str = "input",
    seconds: float | None = None,
) -> list[Result]:
    """Results of a request's rows, given up when the client goes away.

    seconds: that the client still waits; None for what is left of the request's own time.
    Raises ApiError for rows beyond the limits and for what became of them in the queue; ClientDisconnect.
    """
    check(state, model, rows, parameter)
    gone = asyncio.ensure_future(_disconnected(request))
    lost = _Lost()
    gone.add_done_callback(lost.end)
    try:
        return await model.engine.compute(rows, left(state, request) if seconds is None else seconds)
    except asyncio.CancelledError:
        if lost.happened:
            raise ClientDisconnect from None
        raise
    except EngineError as error:
        raise of_engine(error) from None
    finally:
        lost.task = None
        gone.cancel()


def left(state: State, request: Request) -> float:
    """Seconds of the request's time that are left."""
    started: float = request.scope.get(STARTED, time.monotonic())
    return state.settings.request_seconds - (time.monotonic() - started)


class _Within:
    """Ends its block's wait with asyncio.TimeoutError: asyncio.timeout, which Python 3.10 has not, without a task."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._late = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, self._seconds), self._end)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if self._late and kind is asyncio.CancelledError:
            raise asyncio.TimeoutError from None

    def _end(self) -> None:
        self._late = True
        if self._task is not None:
            self._task.cancel()


class _Lost:
    """Ends a request's wait when its client has gone; one task a request less than waiting for two futures."""

    def __init__(self) -> None:
        self.task = asyncio.current_task()
        """Who waits; None once nobody does."""
        self.happened = False

    def end(self, _: object) -> None:
        """The client has gone."""
        if self.task is not None:
            self.happened = True
            self.task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _too_large(state: State) -> ApiError:
    return ApiError(413, f"the body is larger than {state.settings.request_bytes} bytes")
