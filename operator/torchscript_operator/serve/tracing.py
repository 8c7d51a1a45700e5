"""OpenTelemetry traces: a span for each request, and below it its time in the queue, computing and encoding.

Imported only where the environment asks for traces: the SDK and its exporter cost a third of a second and 4 MB.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from opentelemetry import propagate
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torchscript_operator import __version__
from torchscript_operator.artifact.request import ServeRequest
from torchscript_operator.serve.engine import Engine
from torchscript_operator.serve.errors import SERVER_ERROR
from torchscript_operator.serve.metrics import OTHER_ROUTE, PROBES
from torchscript_operator.serve.rows import Computed, Result, Row, Runner, always

EXPORTERS = {"http/protobuf": "http", "grpc": "grpc"}
"""OTEL_EXPORTER_OTLP_PROTOCOL to the part of the exporter's module name."""
FAULTS = frozenset({13, 14})
"""gRPC's INTERNAL and UNAVAILABLE, the codes that are our fault; their numbers, since grpcio may be missing."""
CLOSE_MILLISECONDS = 5000
"""For the last spans to be sent, once nothing is served any more."""


class Passes:
    """When a request's rows were computed; written by compute threads."""

    def __init__(self) -> None:
        """Nothing was computed yet."""
        self.times: list[tuple[int, int, int]] = []
        """Of each pass with one of the rows: start and end as Unix time in nanoseconds, and the rows of the pass."""


class Trace:
    """One request's span and what hangs below it."""

    def __init__(self, tracing: "Tracing", span: Span) -> None:
        """Take the span, which records."""
        self._tracing = tracing
        self._span = span
        self._computed = 0

    def computed(self, submitted: int, rows: int, passes: Passes) -> None:
        """Add what became of rows; submitted: when they came to the queue."""
        # A row's pass may be noted twice, when it ran again alone because a neighbour failed.
        times = sorted(passes.times)
        started = times[0][0] if times else time.time_ns()
        self._child("queue", submitted, started, {"tsm.rows": rows})
        if times:
            self._computed = max(end for _, end, _ in times)
            attributes = {"tsm.passes": len(set(times)), "tsm.batch.rows": max(size for *_, size in times)}
            self._child("compute", started, self._computed, attributes)

    def encoded(self) -> None:
        """Its answer is ready to be sent."""
        if self._computed:
            self._child("encode", self._computed, time.time_ns(), {})
            self._computed = 0

    def _child(self, name: str, start: int, end: int, attributes: Mapping[str, int]) -> None:
        context = set_span_in_context(self._span)
        self._tracing.tracer.start_span(name, context, start_time=start, attributes=attributes).end(end)


CURRENT: ContextVar[Trace | None] = ContextVar("tsm_trace", default=None)
"""The trace of the request that a task works for."""


class TracedRunner:
    """A runner that notes when each row was computed."""

    def __init__(self, runner: Runner, noted: dict[int, Passes]) -> None:
        """noted: identity of a row that somebody waits for to the passes of its request."""
        self._runner = runner
        self._noted = noted
        self.mixed_lengths = runner.mixed_lengths
        self.padded = runner.padded
        self.capacity = runner.capacity

    def run(self, rows: Sequence[Row], *, alone: bool, wanted: Callable[[], bool] = always) -> Computed:
        """One forward pass."""
        started = time.time_ns()
        try:
            return self._runner.run(rows, alone=alone, wanted=wanted)
        finally:
            passed = (started, time.time_ns(), len(rows))
            for row in rows:
                passes = self._noted.get(id(row))
                if passes is not None:
                    passes.times.append(passed)


class TracedEngine(Engine):
    """An engine that tells the trace of each request when it waited and when it was computed."""

    def __init__(self, runner: Runner, *arguments: Any, **options: Any) -> None:
        """As Engine."""
        self._noted: dict[int, Passes] = {}
        super().__init__(TracedRunner(runner, self._noted), *arguments, **options)

    async def compute(self, rows: Sequence[Row], seconds: float) -> list[Result]:
        """As Engine."""
        trace = CURRENT.get()
        if trace is None:
            return await super().compute(rows, seconds)
        submitted = time.time_ns()
        passes = Passes()
        # By identity: rows hold arrays, and are alive for as long as they are noted.
        self._noted |= {id(row): passes for row in rows}
        try:
            return await super().compute(rows, seconds)
        finally:
            for row in rows:
                self._noted.pop(id(row), None)
            trace.computed(submitted, len(rows), passes)


Handle = Callable[[Any, Any], Awaitable[bytes]]
"""A gRPC handler: messages and context to the answer's bytes."""


class Tracing:
    """Makes spans and sends them."""

    def __init__(self, resource: Resource, processor: SpanProcessor) -> None:
        """Take what all spans are about, and what sends them; OTEL_TRACES_SAMPLER says which are made."""
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self.tracer = self._provider.get_tracer("torchscript_operator.serve", __version__)

    def engine(self, runner: Runner, *arguments: Any) -> Engine:
        """An engine that tells traces."""
        return TracedEngine(runner, *arguments)

    def http(self, app: ASGIApp, routes: Mapping[object, str]) -> ASGIApp:
        """The application with a span for each request but probes. routes: endpoint to its path template."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"].startswith(PROBES):
                await app(scope, receive, send)
                return
            carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            attributes = {
                "http.request.method": scope["method"],
                "url.path": scope["path"],
                "url.scheme": scope["scheme"],
                "network.protocol.version": scope["http_version"],
            }
            span = self._start(scope["method"], carrier, attributes)
            trace = Trace(self, span) if span.is_recording() else None

            async def send_on(message: Message) -> None:
                if trace is not None and message["type"] == "http.response.start":
                    trace.encoded()
                    _answered(span, message)
                await send(message)

            token = CURRENT.set(trace)
            try:
                await app(scope, receive, send_on)
            finally:
                CURRENT.reset(token)
                route = routes.get(scope.get("endpoint"), OTHER_ROUTE)
                if route != OTHER_ROUTE:
                    span.set_attribute("http.route", route)
                    span.update_name(f"{scope['method']} {route}")
                span.end()

        return traced

    def rpc(self, handle: Handle, service: str, method: str) -> Handle:
        """The handler with a span for each call."""
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}

        async def traced(messages: Any, context: Any) -> bytes:
            sent = context.invocation_metadata() or ()
            carrier = {key: value for key, value in sent if isinstance(value, str)}
            span = self._start(f"{service}/{method}", carrier, attributes)
            trace = Trace(self, span) if span.is_recording() else None
            token = CURRENT.set(trace)
            try:
                answer = await handle(messages, context)
                if trace is not None:
                    trace.encoded()
                return answer
            finally:
                CURRENT.reset(token)
                _ended(span, context.code())
                span.end()

        return traced

    def close(self) -> None:
        """Send what is left, and nothing after."""
        self._provider.force_flush(CLOSE_MILLISECONDS)

    def _start(self, name: str, carrier: Mapping[str, str], attributes: Mapping[str, str]) -> Span:
        return self.tracer.start_span(name, propagate.extract(carrier), SpanKind.SERVER, attributes)


def _answered(span: Span, message: Message) -> None:
    status: int = message["status"]
    span.set_attribute("http.response.status_code", status)
    for name, value in message["headers"]:
        if name == b"x-request-id":
            # The same as in the access log.
            span.set_attribute("http.response.header.x-request-id", [value.decode("latin-1")])
    if status >= SERVER_ERROR:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)


def _ended(span: Span, code: Any) -> None:
    """code: a grpc.StatusCode, its number, or None for OK."""
    number: int = getattr(code, "value", (code or 0,))[0]
    span.set_attribute("rpc.grpc.status_code", number)
    if number in FAULTS:
        span.set_status(StatusCode.ERROR)


def make(request: ServeRequest, environment: Mapping[str, str]) -> Tracing:
    """Traces as the environment says.

    Raises ImportError without the exporter, ValueError for values that OpenTelemetry does not take.
    """
    general = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", general)
    if protocol not in EXPORTERS:
        raise ValueError(f"the OTLP protocol {protocol!r} is none of {', '.join(EXPORTERS)}")
    module = import_module(f"opentelemetry.exporter.otlp.proto.{EXPORTERS[protocol]}.trace_exporter")
    own = Resource(
        {
            "service.name": request.name,
            "service.version": request.digest,
            "tsm.model": request.model,
            "tsm.target": request.target,
        }
    )
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before what we know.
    resource = Resource.create().merge(own).merge(OTELResourceDetector().detect())
    return Tracing(resource, BatchSpanProcessor(module.OTLPSpanExporter()))
