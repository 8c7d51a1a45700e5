"""A collector of OpenTelemetry traces, by both of OTLP's transports, that keeps what it is sent."""

from __future__ import annotations

from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from tests.http_server import listening

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Collector:
    """What came, and where to send it."""

    endpoint: str = ""
    received: list[ExportTraceServiceRequest] = field(default_factory=list)

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resource(self) -> dict[str, Any]:
        """What the spans say of the process."""
        return values(self.received[0].resource_spans[0].resource.attributes)

    def below(self, parent: Any) -> dict[str, Any]:
        """Child spans by name."""
        return {span.name: span for span in self.spans if span.parent_span_id == parent.span_id}


def values(attributes: Any) -> dict[str, Any]:
    found = {}
    for one in attributes:
        kind = one.value.WhichOneof("value")
        value = getattr(one.value, kind)
        found[one.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


@contextmanager
def collector(protocol: str) -> Iterator[Collector]:
    """protocol: as OTEL_EXPORTER_OTLP_PROTOCOL names it."""
    with (_by_grpc if protocol == "grpc" else _by_http)(Collector()) as found:
        yield found


@contextmanager
def _by_http(found: Collector) -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            found.received.append(
                ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            )
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with listening(Handler) as port:
        found.endpoint = f"http://127.0.0.1:{port}"
        yield found


@contextmanager
def _by_grpc(found: Collector) -> Iterator[Collector]:
    class Service(TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 -- the protocol's name
            found.received.append(request)
            return ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(1))
    add_TraceServiceServicer_to_server(Service(), server)
    found.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield found
    finally:
        server.stop(None).wait()
