"""A serving process under bad clients, and with a forward pass that never ends."""

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.exporting import ExportedArtifact
from tests.contract.serving import Pod, make_request, pod
from tests.contract.test_serve_failures import republish
from torchscript_operator.artifact import golden

TRIGGER = 7
"""A token id at which the model of `hanging` never ends."""
EMBEDDINGS = "/v1/embeddings"
POST = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n"


def body(text: Any = "Hello.") -> dict[str, Any]:
    return {"model": "minilm", "input": text}


@contextmanager
def connection(running: Pod) -> Iterator[socket.socket]:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as found:
        yield found


def status(found: socket.socket) -> int:
    return int(found.recv(65536).split()[1])


def test_clients_that_misbehave_do_not_stop_others(tiny_artifact: ExportedArtifact, tmp_path: Path) -> None:
    settings = {"TSM_SERVE_REQUEST_BYTES": "20000", "TSM_SERVE_HEAD_BYTES": "8000", "TSM_SERVE_REQUEST_SECONDS": "600"}
    with (
        pod(make_request(tiny_artifact.uri, tiny_artifact.digest), tmp_path, settings) as running,
        ExitStack() as stack,
    ):
        running.wait_ready()

        def open_with(sent: bytes) -> socket.socket:
            found = stack.enter_context(connection(running))
            found.sendall(sent)
            return found

        for _ in range(30):
            open_with(b"")
            open_with(POST % 100)
            open_with(POST % 100 + b"\r\n{")
            deaf = open_with(b"GET /docs HTTP/1.1\r\nhost: x\r\n\r\n" * 40)
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        floods = [open_with(POST % 1 + b"".join(b"h%d: x\r\n" % n for n in range(200))) for _ in range(30)]
        long = [open_with(POST % 1 + b"a: " + b"x" * 10_000) for _ in range(30)]
        large = [open_with(POST % 30_000 + b"\r\n" + b"x" * 1000) for _ in range(30)]
        for _ in range(20):
            assert httpx.post(f"{running.url}{EMBEDDINGS}", json=body(), timeout=60).status_code == 200
        assert {status(one) for one in floods + long} == {431}
        assert {status(one) for one in large} == {413}
        assert httpx.get(f"{running.url}/v2/health/live", timeout=60).status_code == 200
        running.terminate()
        stack.close()
        assert running.wait_exit() == 0


@pytest.fixture(scope="module")
def hanging(tiny_artifact: ExportedArtifact, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The artifact with a model that never ends at one token id, honestly signed; no golden input begins with it."""
    import torch

    class Hanging(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> Any:
            while bool((ids[0, 0] == 7).item()):  # TRIGGER, which a script cannot read
                pass
            return self.inner(ids, mask, types)

    folder = tmp_path_factory.mktemp("hanging")
    shutil.copytree(tiny_artifact.store, folder / "store")
    artifact = ExportedArtifact(tiny_artifact.request, tiny_artifact.result, folder / "store")
    cases = golden.read(artifact.file(golden.GOLDEN_NAME))
    path = artifact.file("model.pt")
    module = torch.jit.script(Hanging(torch.jit.load(str(path))))
    path.chmod(0o644)
    module.save(str(path))
    return republish(artifact, folder / "files", cases)


def by_tensors(ids: list[int]) -> dict[str, Any]:
    shape = [1, len(ids)]
    values = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)}
    return {
        "inputs": [{"name": name, "datatype": "INT64", "shape": shape, "data": data} for name, data in values.items()]
    }


def test_a_hung_forward_makes_the_pod_not_live_and_no_request_waits_for_ever(hanging: Any, tmp_path: Path) -> None:
    settings = {
        "TSM_SERVE_WORKERS": "1",
        "TSM_SERVE_FORWARD_SECONDS": "0.5",
        "TSM_SERVE_REQUEST_SECONDS": "3",
        "TSM_SERVE_DRAIN_SECONDS": "1",
        "TSM_SERVE_LINGER_SECONDS": "0",
    }
    with pod(hanging, tmp_path, settings) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        running.wait_ready()
        assert client.get("/v2/health/live").status_code == 200
        hung = client.post("/v2/models/minilm/infer", json=by_tensors([TRIGGER, 3]))
        assert hung.status_code == 503
        assert "time ran out" in hung.json()["error"]

        assert client.get("/v2/health/live").status_code == 500
        assert "has run for more than" in client.get("/v2/health/live").json()["error"]
        assert client.get("/v2/health/ready").status_code == 503
        waiting = client.post(EMBEDDINGS, json=body())
        assert (waiting.status_code, waiting.json()["error"]["code"]) == (503, "deadline_exceeded")
        running.wait_metric("tsm_queue_rows 0.0")
        running.terminate()
        assert running.wait_exit() == 0


def test_clients_that_go_away_free_their_places(hanging: Any, tmp_path: Path) -> None:
    settings = {"TSM_SERVE_WORKERS": "1", "TSM_SERVE_REQUEST_SECONDS": "600"}
    with pod(hanging, tmp_path, settings) as running, ExitStack() as stack:
        running.wait_ready()
        # Nothing leaves the queue by being computed any more.
        sent = json.dumps(by_tensors([TRIGGER, 3])).encode()
        head = b"POST /v2/models/minilm/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
        stack.enter_context(connection(running)).sendall(head % len(sent) + sent)
        sent = json.dumps(body(["a", "b"])).encode()
        with ExitStack() as leaving:
            for _ in range(10):
                leaving.enter_context(connection(running)).sendall(POST % len(sent) + b"\r\n" + sent)
            running.wait_metric("tsm_queue_rows 20.0")
        running.wait_metric("tsm_queue_rows 0.0")
        running.wait_metric('tsm_requests_total{code="499",route="/v1/embeddings"} 10.0')
