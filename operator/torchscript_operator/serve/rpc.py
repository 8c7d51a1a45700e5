"""The port of the Open Inference Protocol version 2 over gRPC.

Imported only where gRPC is on: grpcio costs 40 ms and 13 MB.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from torchscript_operator.serve.access import Tls, Tokens
from torchscript_operator.serve.edge import REQUEST_ID
from torchscript_operator.serve.errors import ApiError, refuse, unauthenticated
from torchscript_operator.serve.rpc_service import Call, Method, Service
from torchscript_operator.serve.state import State

LOGGER = logging.getLogger(__name__)
SERVICE = "inference.GRPCInferenceService"
"""The protocol's service, the first part of every method's path."""
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""HTTP status to gRPC's code; every other is INTERNAL."""
OPEN = frozenset({"ServerLive", "ServerReady"})
"""Methods that need no token: probes have none."""
Context = grpc.aio.ServicerContext[Any, Any]


class Listener:
    """The gRPC server of a process."""

    def __init__(self, state: State, tokens: Tokens | None, tls: Tls | None) -> None:
        """Take what it serves and who may ask; nothing listens before `start`."""
        self._state = state
        self._tokens = tokens
        self._tls = tls
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Listen; the port. Raises RuntimeError when it is taken."""
        settings = self._state.settings
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=settings.grpc_calls,
            options=(
                ("grpc.max_receive_message_length", settings.grpc_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", settings.head_bytes),
                ("grpc.so_reuseport", 0),
                ("grpc.server_handshake_timeout_ms", int(settings.head_seconds * 1000)),
                # A peer that is gone without a word is noticed within a minute and a half.
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.max_connection_idle_ms", 300_000),
                ("grpc.max_concurrent_streams", settings.grpc_calls),
            ),
        )
        handlers: dict[str, Any] = {
            name: grpc.stream_unary_rpc_method_handler(self._traced(name, self._handler(name, kind, method)))
            for name, (kind, method) in Service(self._state).methods.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        address = f"{settings.host}:{settings.grpc_port}"
        if self._tls is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, _credentials(self._tls))
        await self._server.start()
        LOGGER.info("listening", extra={"grpc": f"{settings.host}:{port}"})
        return port

    async def stop(self, seconds: float) -> None:
        """Take no new call and end when those in flight are answered, after this long in any case."""
        if self._server is not None:
            await self._server.stop(seconds)

    def _handler(self, name: str, kind: type[Message], method: Method) -> Any:
        async def handle(_requests: AsyncIterator[bytes], context: Context) -> bytes:
            started = time.monotonic()
            sent = dict(context.invocation_metadata() or ())
            request_id = _request_id(sent.get("x-request-id", ""))
            status = grpc.StatusCode.CANCELLED
            try:
                answer = await self._answer(name, kind, method, context, sent.get("authorization", ""))
                status = grpc.StatusCode.OK
                return answer.SerializeToString()
            except ApiError as error:
                failure = error
                status = _code(error)
            except Exception:  # logged with its stack; the client is told no more than that it is ours
                LOGGER.exception("a call failed", extra={"request_id": request_id})
                failure = ApiError(500, "internal error", code="internal_error")
                status = grpc.StatusCode.INTERNAL
            finally:
                self._record(name, status.name, time.monotonic() - started, request_id)
            trailers = [("x-request-id", request_id)]
            if failure.retry is not None:
                trailers.append(("retry-after", str(failure.retry)))
            raise RuntimeError(await context.abort(status, failure.message, tuple(trailers)))  # abort itself raises

        return handle

    def _traced(self, name: str, handle: Any) -> Any:
        tracing = self._state.tracing
        return handle if tracing is None or name in OPEN else tracing.rpc(handle, SERVICE, name)

    async def _answer(
        self, name: str, kind: type[Message], method: Method, context: Context, authorization: Any
    ) -> Message:
        if self._tokens is not None and name not in OPEN and not self._tokens.allow(str(authorization).encode()):
            raise unauthenticated()
        seconds = self._state.settings.request_seconds
        client = context.time_remaining()
        call = Call(time.monotonic() + (seconds if client is None else min(seconds, client)))
        try:
            # As a stream of one, since only so the time that its message takes is in our hands.
            raw = await asyncio.wait_for(context.read(), call.left)
        except asyncio.TimeoutError:
            raise ApiError(408, "the request did not come in time") from None
        if raw is grpc.aio.EOF:
            refuse("the call has no request message")
        state = self._state
        state.buffered_bytes += len(raw)
        try:
            if state.buffered_bytes > state.settings.buffered_bytes:
                raise ApiError(429, "too many bytes wait to be processed", code="queue_full", retry=1)
            request = kind()
            try:
                request.ParseFromString(raw)
            except DecodeError:
                refuse("the request is no message of this method")
            return await method(request, call)
        finally:
            state.buffered_bytes -= len(raw)

    def _record(self, name: str, status: str, seconds: float, request_id: str) -> None:
        route = f"/{SERVICE}/{name}"
        metrics = self._state.metrics
        metrics.requests.labels(route, status).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        LOGGER.log(
            logging.INFO if self._state.settings.access_log else logging.DEBUG,
            "request",
            extra={
                "request_id": request_id,
                "method": "gRPC",
                "path": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 3),
            },
        )


def _code(error: ApiError) -> grpc.StatusCode:
    if error.code == "deadline_exceeded":
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return CODES.get(error.status, grpc.StatusCode.INTERNAL)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Reads the files anew for each handshake, so that a renewed certificate is used at once."""

    def read() -> grpc.ServerCertificateConfiguration:
        authority = tls.client_authority.read_bytes() if tls.client_authority else None
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], authority)

    last = read()

    def renewed() -> grpc.ServerCertificateConfiguration:
        nonlocal last
        try:
            last = read()
        except OSError:
            LOGGER.warning("the certificate cannot be read any more; its last form holds")
        return last

    return grpc.dynamic_ssl_server_credentials(last, renewed, require_client_authentication=bool(tls.client_authority))


def _request_id(given: Any) -> str:
    if isinstance(given, str) and REQUEST_ID.fullmatch(given.encode()):
        return given
    return uuid.uuid4().hex
