"""OpenTelemetry traces of the serving process, at a collector that speaks OTLP."""

from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.contract.exporting import ExportedArtifact
from tests.contract.otlp import Collector, collector, values
from tests.contract.serving import make_request, pod
from torchscript_operator.artifact.request import ServeRequest
from torchscript_operator.serve.openinference import open_inference_pb2 as messages

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
UNSAMPLED = f"00-{TRACE}-{CALLER}-00"
INFER = "inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def request_of_tiny(tiny_artifact: ExportedArtifact) -> ServeRequest:
    return make_request(tiny_artifact.uri, tiny_artifact.digest)


def settings(found: Collector, protocol: str, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": found.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, **more}


def ask(url: str, traceparent: str | None = None, text: Any = "Hello.", **headers: str) -> httpx.Response:
    sent = headers | ({"traceparent": traceparent} if traceparent else {})
    return httpx.post(f"{url}/v1/embeddings", json={"model": "minilm", "input": text}, headers=sent, timeout=60)


def infer(address: str, traceparent: str) -> None:
    message = messages.ModelInferRequest(model_name="minilm")
    message.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"Hello.")
    with grpc.insecure_channel(address) as channel:
        channel.unary_unary(f"/{INFER}")(
            message.SerializeToString(), timeout=60, metadata=[("traceparent", traceparent)]
        )


def assert_parts(found: Collector, span: Any) -> None:
    """Queue, compute and encode follow each other within the request."""
    parts = found.below(span)
    assert set(parts) == {"queue", "compute", "encode"}
    queue, compute, encode = parts["queue"], parts["compute"], parts["encode"]
    assert span.start_time_unix_nano <= queue.start_time_unix_nano <= queue.end_time_unix_nano
    assert queue.end_time_unix_nano == compute.start_time_unix_nano < compute.end_time_unix_nano
    assert compute.end_time_unix_nano == encode.start_time_unix_nano <= encode.end_time_unix_nano
    assert encode.end_time_unix_nano <= span.end_time_unix_nano
    assert values(queue.attributes) == {"tsm.rows": 1}
    assert values(compute.attributes) == {"tsm.passes": 1, "tsm.batch.rows": 1}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_each_request_is_a_span_of_its_callers_trace(
    request_of_tiny: ServeRequest, tmp_path: Path, protocol: str
) -> None:
    with collector(protocol) as found:
        with pod(request_of_tiny, tmp_path, settings(found, protocol)) as running:
            running.wait_ready()
            assert ask(running.url, TRACEPARENT, **{"x-request-id": "mine"}).status_code == 200
            assert ask(running.url, TRACEPARENT, 7).status_code == 400
            infer(running.grpc, TRACEPARENT)
            running.terminate()
            # What was not sent yet is sent before the process ends.
            assert running.wait_exit() == 0
        http, wrong, rpc = sorted(
            (span for span in found.spans if span.parent_span_id.hex() == CALLER),
            key=lambda span: span.start_time_unix_nano,
        )
        assert {span.trace_id.hex() for span in found.spans} == {TRACE}
        assert {span.kind for span in (http, wrong, rpc)} == {http.SPAN_KIND_SERVER}
        assert (http.name, wrong.name, rpc.name) == ("POST /v1/embeddings", "POST /v1/embeddings", INFER)
        assert values(http.attributes) == {
            "http.request.method": "POST",
            "http.route": "/v1/embeddings",
            "http.response.status_code": 200,
            "http.response.header.x-request-id": ["mine"],
            "network.protocol.version": "1.1",
            "url.path": "/v1/embeddings",
            "url.scheme": "http",
        }
        assert values(wrong.attributes)["http.response.status_code"] == 400
        assert values(rpc.attributes)["rpc.grpc.status_code"] == 0
        assert_parts(found, http)
        assert found.below(wrong) == {}
        assert_parts(found, rpc)
        assert found.resource["service.name"] == "minilm"
        assert found.resource["service.version"] == request_of_tiny.digest


def test_the_standard_variables_name_the_service_and_choose_what_is_sampled(
    request_of_tiny: ServeRequest, tmp_path: Path
) -> None:
    more = {"OTEL_SERVICE_NAME": "mine", "OTEL_TRACES_SAMPLER": "parentbased_always_off"}
    with collector("http/protobuf") as found:
        with pod(request_of_tiny, tmp_path, settings(found, "http/protobuf", **more)) as running:
            running.wait_ready()
            for traceparent in (None, UNSAMPLED, "no-trace", TRACEPARENT):
                assert ask(running.url, traceparent).status_code == 200
            running.terminate()
            assert running.wait_exit() == 0
        assert sorted(span.name for span in found.spans) == ["POST /v1/embeddings", "compute", "encode", "queue"]
        assert found.resource["service.name"] == "mine"


def test_a_collector_that_is_gone_costs_neither_an_answer_nor_a_clean_end(
    request_of_tiny: ServeRequest, tmp_path: Path
) -> None:
    with collector("http/protobuf") as gone:
        pass
    with pod(request_of_tiny, tmp_path, settings(gone, "http/protobuf")) as running:
        running.wait_ready()
        assert ask(running.url).status_code == 200
        running.terminate()
        assert running.wait_exit() == 0


def watched(folder: Path) -> str:
    """An import path whose `opentelemetry` notes that it was looked for, and is missing."""
    (folder / "opentelemetry").mkdir(parents=True)
    (folder / "opentelemetry/__init__.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('imported').touch()\n"
        "raise ImportError('missing', name='opentelemetry')"
    )
    return str(folder)


def test_without_configuration_nothing_of_opentelemetry_is_imported(
    request_of_tiny: ServeRequest, tmp_path: Path
) -> None:
    with pod(request_of_tiny, tmp_path / "pod", {"PYTHONPATH": watched(tmp_path / "path")}) as running:
        running.wait_ready()
        assert ask(running.url, TRACEPARENT).status_code == 200
    assert not (tmp_path / "path/opentelemetry/imported").exists()


def test_an_image_without_opentelemetry_serves_without_traces(request_of_tiny: ServeRequest, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": watched(tmp_path / "path"), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    with pod(request_of_tiny, tmp_path / "pod", environment) as running:
        running.wait_ready()
        assert ask(running.url).status_code == 200
        assert "traces are off: this image has no opentelemetry" in [line["message"] for line in running.log]
    assert (tmp_path / "path/opentelemetry/imported").exists()
