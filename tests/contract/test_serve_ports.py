"""A whole process's ports: gRPC through a drain, TLS with a health port, and what ends the start."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import trustme

from tests.contract.exporting import ExportedArtifact
from tests.contract.serving import make_request, pod
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.artifact.request import ServeRequest
from torchscript_operator.serve.openinference import open_inference_pb2 as messages

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def request_of_tiny(tiny_artifact: ExportedArtifact) -> ServeRequest:
    return make_request(tiny_artifact.uri, tiny_artifact.digest, maximumDelayMilliseconds=500)


def infer(names: list[str]) -> bytes:
    message = messages.ModelInferRequest(model_name="minilm")
    for name in names:
        message.inputs.add(name=name, datatype="INT64", shape=[1, 3])
        message.raw_input_contents.append(np.ones((1, 3), "<i8").tobytes())
    return message.SerializeToString()


async def test_a_grpc_call_in_flight_is_answered_after_sigterm(request_of_tiny: ServeRequest, tmp_path: Path) -> None:
    with pod(request_of_tiny, tmp_path, {"TSM_SERVE_LINGER_SECONDS": "0.05"}) as running:
        running.wait_ready()
        async with httpx.AsyncClient() as client:
            found = (await client.get(f"{running.url}/v2/models/minilm")).json()
        body = infer([tensor["name"] for tensor in found["inputs"]])
        async with grpc.aio.insecure_channel(running.grpc) as channel:
            call: Any = channel.unary_unary(INFER)(body, timeout=30)
            await asyncio.to_thread(running.wait_metric, "tsm_queue_rows 1.0")
            running.terminate()
            answer = messages.ModelInferResponse.FromString(await call)
        assert answer.outputs
        assert await asyncio.to_thread(running.wait_exit) == 0


def test_with_mutual_tls_and_a_token_probes_have_a_port_of_their_own(
    request_of_tiny: ServeRequest, tmp_path: Path
) -> None:
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("client@toy")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server.private_key_pem.write_to_path(tmp_path / "tls.key")
    server.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    (tmp_path / "token").write_text("secret-token\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        health = str(free.getsockname()[1])
    settings = {
        "TSM_SERVE_TLS_CERTIFICATE_FILE": str(tmp_path / "tls.crt"),
        "TSM_SERVE_TLS_KEY_FILE": str(tmp_path / "tls.key"),
        "TSM_SERVE_TLS_CLIENT_AUTHORITY_FILE": str(tmp_path / "ca.pem"),
        "TSM_SERVE_TOKEN_FILE": str(tmp_path / "token"),
        "TSM_SERVE_HEALTH_PORT": health,
    }
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(tmp_path / "client.pem")
    with pod(request_of_tiny, tmp_path / "pod", settings) as running:
        running.wait_ready(running.health)
        assert httpx.get(f"{running.health}/metrics").status_code == 200
        assert httpx.get(f"{running.health}/v1/models").status_code == 404
        assert running.url.startswith("https://")
        with httpx.Client(base_url=running.url, verify=context) as clients:
            assert clients.get("/v1/models").status_code == 401
            authorized = {"Authorization": "Bearer secret-token"}
            assert clients.get("/v1/models", headers=authorized).status_code == 200
        running.terminate()
        assert running.wait_exit() == 0
        assert "secret-token" not in (running.folder / "log").read_text()


def test_grpc_can_be_off(request_of_tiny: ServeRequest, tmp_path: Path) -> None:
    with pod(request_of_tiny, tmp_path, {"TSM_SERVE_GRPC": "off"}) as running:
        running.wait_ready()
        assert not any("grpc" in line for line in running.log)
        assert "grpc" not in Path(f"/proc/{running.process.pid}/maps").read_text()


def without_grpcio(folder: Path) -> str:
    """An import path on which grpc is missing, as in an image without it."""
    (folder / "grpc").mkdir(parents=True)
    (folder / "grpc/__init__.py").write_text("raise ImportError('missing', name='grpc')")
    return str(folder)


def test_an_image_without_grpcio_serves_rest_alone(request_of_tiny: ServeRequest, tmp_path: Path) -> None:
    with pod(request_of_tiny, tmp_path, {"PYTHONPATH": without_grpcio(tmp_path / "path")}) as running:
        running.wait_ready()
        assert "gRPC is off: this image has no grpc" in [line["message"] for line in running.log]


def test_an_image_without_grpcio_ends_where_grpc_must_be_on(request_of_tiny: ServeRequest, tmp_path: Path) -> None:
    settings = {"PYTHONPATH": without_grpcio(tmp_path / "path"), "TSM_SERVE_GRPC": "on"}
    with pod(request_of_tiny, tmp_path, settings) as running:
        assert running.wait_exit() == 64
        assert "has no grpc" in running.outcome.failure.message


def test_a_grpc_port_that_is_taken_ends_the_process(request_of_tiny: ServeRequest, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pod(request_of_tiny, tmp_path, {"TSM_SERVE_GRPC_PORT": port}) as running:
            assert running.wait_exit() == 70
            assert port in running.outcome.failure.message


@pytest.mark.parametrize("variable", ["TSM_SERVE_TOKEN_FILE", "TSM_SERVE_TLS_CERTIFICATE_FILE"])
def test_a_file_that_cannot_be_read_ends_the_start(
    request_of_tiny: ServeRequest, tmp_path: Path, variable: str
) -> None:
    settings = {variable: str(tmp_path / "none"), "TSM_SERVE_TLS_KEY_FILE": ""}
    if variable == "TSM_SERVE_TLS_CERTIFICATE_FILE":
        settings["TSM_SERVE_TLS_KEY_FILE"] = str(tmp_path / "none")
    with pod(request_of_tiny, tmp_path, settings) as running:
        assert running.wait_exit() == 64
        assert running.outcome.failure.reason == FailureReason.INVALID_REQUEST
        assert str(tmp_path) not in running.outcome.failure.message
