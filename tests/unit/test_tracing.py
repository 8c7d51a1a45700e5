"""A span for each pass, where somebody asks for spans."""

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, Tracer

from torchscript_operator.controller import tracing
from torchscript_operator.controller.queue import Key, Later, Rest

MINILM = Key("ml", "minilm")


class Spans:
    """Spans in memory."""

    def __init__(self) -> None:
        self.memory = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.tracer: Tracer = provider.get_tracer("test")

    @property
    def ended(self) -> list[ReadableSpan]:
        return list(self.memory.get_finished_spans())


async def quick(_: Key) -> Later:
    return 5.0


async def in_two(_: Key) -> Rest:
    async def left() -> Later:
        return 7.0

    return left


async def failing(_: Key) -> Later:
    raise ValueError("boom")


async def test_pass_has_a_span_that_names_the_model() -> None:
    spans = Spans()
    assert await tracing.traced(quick, spans.tracer)(MINILM) == 5.0
    (span,) = spans.ended
    assert span.name == "reconcile"
    assert dict(span.attributes or {}) == {"k8s.namespace.name": "ml", "torchscript.model": "minilm"}


async def test_what_is_left_of_a_pass_has_a_span_of_its_own() -> None:
    spans = Spans()
    left = await tracing.traced(in_two, spans.tracer)(MINILM)
    assert callable(left)
    assert await left() == 7.0
    assert [span.name for span in spans.ended] == ["reconcile", "tell"]


async def test_failed_pass_is_a_failed_span() -> None:
    spans = Spans()
    with pytest.raises(ValueError, match="boom"):
        await tracing.traced(failing, spans.tracer)(MINILM)
    (span,) = spans.ended
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


def test_passes_are_left_alone_where_nobody_asks_for_spans() -> None:
    with tracing.exporting({}) as tracer:
        assert tracer is None
        assert tracing.traced(quick, tracer) is quick


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_spans_are_made_when_the_environment_says_where_they_go(environment: dict[str, str], wanted: bool) -> None:
    assert tracing.is_wanted(environment) is wanted


def test_without_the_library_there_is_a_warning_and_no_span(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with tracing.exporting({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}) as tracer:
        assert tracer is None
    assert "the extra `tracing` is not installed" in caplog.text


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """What takes spans: its address, and what it was sent."""
    sent: list[bytes] = []

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Door) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", sent
        server.shutdown()
        thread.join()


async def test_spans_are_sent_to_the_collector_at_the_end(
    monkeypatch: pytest.MonkeyPatch, collector: tuple[str, list[bytes]]
) -> None:
    address, sent = collector
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": address}
    for name, value in {**environment, "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    with tracing.exporting(environment) as tracer:
        await tracing.traced(quick, tracer)(MINILM)
    assert len(sent) == 1
    for text in (b"torchscript-operator", b"reconcile", b"minilm"):
        assert text in sent[0], json.dumps(sent[0].decode(errors="replace"))
