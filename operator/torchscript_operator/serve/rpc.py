"""Open Inference Protocol version 2 over gRPC: the same checks, queue and answers as over REST.

Imported only where gRPC is on: grpcio costs 40 ms and 13 MB.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import DecodeError, Message

from torchscript_operator import __version__
from torchscript_operator.serve import binary
from torchscript_operator.serve.access import Tls, Tokens
from torchscript_operator.serve.edge import REQUEST_ID
from torchscript_operator.serve.engine import EngineError
from torchscript_operator.serve.errors import ApiError, of_engine, refuse, unauthenticated
from torchscript_operator.serve.exchange import INLINE_VALUES, check, model_of
from torchscript_operator.serve.metadata import EXTENSIONS, check_name, metadata
from torchscript_operator.serve.openinference import open_inference_pb2 as messages
from torchscript_operator.serve.state import State
from torchscript_operator.serve.tensors import (
    BYTES,
    Asked,
    Given,
    Output,
    has_sequence,
    mask_output,
    to_outputs,
    to_rows,
    wanted,
)

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


@dataclass(frozen=True)
class Call:
    """What a method may know of its call beside the message."""

    ends: float
    """Monotonic time at which the client or the server gives up."""

    @property
    def left(self) -> float:
        """Seconds left."""
        return max(0.0, self.ends - time.monotonic())


Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Call], Awaitable[Message]]
"""Message to message. Raises ApiError."""


class Service:
    """The methods, each around one message."""

    def __init__(self, state: State) -> None:
        """Take what every route takes."""
        self._state = state

    @property
    def methods(self) -> dict[str, tuple[type[Message], Method]]:
        """Method name to the type of its request and what answers it."""
        return {
            "ServerLive": (messages.ServerLiveRequest, self.server_live),
            "ServerReady": (messages.ServerReadyRequest, self.server_ready),
            "ModelReady": (messages.ModelReadyRequest, self.model_ready),
            "ServerMetadata": (messages.ServerMetadataRequest, self.server_metadata),
            "ModelMetadata": (messages.ModelMetadataRequest, self.model_metadata),
            "ModelInfer": (messages.ModelInferRequest, self.model_infer),
        }

    async def server_live(self, _request: messages.ServerLiveRequest, _call: Call) -> messages.ServerLiveResponse:
        """Whether requests can be computed at all."""
        model = self._state.model
        return messages.ServerLiveResponse(live=model is None or model.engine.complaint() is None)

    async def server_ready(self, _request: messages.ServerReadyRequest, _call: Call) -> messages.ServerReadyResponse:
        """Whether requests may come."""
        return messages.ServerReadyResponse(ready=self._state.ready)

    async def model_ready(self, request: messages.ModelReadyRequest, _call: Call) -> messages.ModelReadyResponse:
        """The same of the model."""
        check_name(self._state, request.name, request.version)
        return messages.ModelReadyResponse(ready=self._state.ready)

    async def server_metadata(
        self, _request: messages.ServerMetadataRequest, _call: Call
    ) -> messages.ServerMetadataResponse:
        """The server's name and version."""
        return messages.ServerMetadataResponse(name="torchscript-operator", version=__version__, extensions=EXTENSIONS)

    async def model_metadata(
        self, request: messages.ModelMetadataRequest, _call: Call
    ) -> messages.ModelMetadataResponse:
        """The model's tensors; the protocol's message has no place for the rest of REST's metadata."""
        check_name(self._state, request.name, request.version)
        found = metadata(self._state, model_of(self._state))
        del found["parameters"]
        return messages.ModelMetadataResponse(**found)

    async def model_infer(self, request: messages.ModelInferRequest, call: Call) -> messages.ModelInferResponse:
        """Outputs for inputs; raw when the inputs were."""
        state = self._state
        check_name(state, request.model_name, request.model_version)
        model = model_of(state)
        options = _options(request)
        asked = Asked(_inputs(request), [output.name for output in request.outputs], truncate=options.truncate)
        specs = wanted(model, asked)
        rows = await to_rows(state, model, asked)
        check(state, model, rows, "inputs")
        try:
            results = await model.engine.compute(rows, min(call.left, options.seconds))
        except EngineError as error:
            raise of_engine(error) from None
        outputs = to_outputs(specs, rows, results)
        if asked.by_text and any(map(has_sequence, specs)):
            outputs.append(mask_output(rows))
        answer = messages.ModelInferResponse(model_name=state.name, model_version=state.version, id=request.id)
        fill = _fill_raw if request.raw_input_contents or options.raw else _fill
        if sum(output.array.size for output in outputs) <= INLINE_VALUES:
            fill(answer, outputs)
        else:
            await asyncio.get_running_loop().run_in_executor(state.executor, fill, answer, outputs)
        return answer


@dataclass(frozen=True)
class Options:
    """Parameters of an inference."""

    truncate: bool = False
    raw: bool = False
    seconds: float = float("inf")


def _options(request: messages.ModelInferRequest) -> Options:
    """Raises ApiError 400 for what nothing acts on, as REST does."""
    given = [(tensor.name, tensor.parameters) for tensor in request.inputs]
    given += [(output.name, output.parameters) for output in request.outputs]
    for tensor_name, parameters in given:
        unknown = set(parameters) - {"binary_data", "binary_data_size"}
        if unknown:
            refuse(f"unknown parameter {min(unknown)!r} of the tensor {tensor_name!r}")
    found: dict[str, Any] = {}
    for name, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        value = getattr(parameter, kind) if kind else None
        if name in {"truncate", "binary_data_output"} and isinstance(value, bool):
            found["truncate" if name == "truncate" else "raw"] = value
        elif name == "timeout" and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found["seconds"] = value / 1e6
        else:
            refuse(
                f"unknown parameter {name!r} or a value of another type; known: truncate, binary_data_output, timeout"
            )
    return Options(**found)


def _inputs(request: messages.ModelInferRequest) -> list[Given]:
    raws: Sequence[bytes | None] = request.raw_input_contents or [None] * len(request.inputs)
    if len(raws) != len(request.inputs):
        refuse(f"{len(raws)} raw_input_contents do not fit {len(request.inputs)} inputs")
    found = []
    for tensor, raw in zip(request.inputs, raws, strict=True):
        shape = tuple(tensor.shape)
        if any(size < 0 for size in shape):
            refuse(f"input {tensor.name!r} must have a shape of two sizes, batch and sequence, none of them negative")
        if raw is not None and tensor.HasField("contents"):
            refuse(f"input {tensor.name!r} has both contents and raw_input_contents")
        try:
            found.append(Given(tensor.name, tensor.datatype, shape, _values(tensor, raw, shape)))
        except binary.BinaryError as error:
            refuse(f"input {tensor.name!r}: {error}")
    return found


def _values(tensor: messages.ModelInferRequest.InferInputTensor, raw: bytes | None, shape: tuple[int, ...]) -> Any:
    if tensor.datatype == BYTES:
        return list(tensor.contents.bytes_contents) if raw is None else binary.texts(raw, shape)
    if raw is not None:
        return binary.numbers(raw, tensor.datatype, shape)
    # Inputs are INT64; of any other datatype the checks that follow say so.
    return np.array(tensor.contents.int64_contents, dtype=np.int64)


def _fill_raw(answer: messages.ModelInferResponse, outputs: Sequence[Output]) -> None:
    for output in outputs:
        answer.outputs.add(name=output.name, datatype=output.datatype, shape=output.array.shape)
        answer.raw_output_contents.append(binary.encode_numbers(output.array, output.datatype))


def _fill(answer: messages.ModelInferResponse, outputs: Sequence[Output]) -> None:
    for output in outputs:
        tensor = answer.outputs.add(name=output.name, datatype=output.datatype, shape=output.array.shape)
        contents = tensor.contents
        field = contents.int64_contents if output.datatype == "INT64" else contents.fp32_contents
        field.extend(output.array.reshape(-1).tolist())


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
            name: grpc.stream_unary_rpc_method_handler(self._handler(name, kind, method))
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
            except Exception:
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
        LOGGER.debug(
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
