"""The serving process on the real all-MiniLM-L6-v2, against Transformers' eager model computed here."""

import asyncio
import base64
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from tests.contract.exporting import ExportedArtifact
from tests.contract.serving import Pod, make_request, pod, until

BOUND = 1e-5
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "quietly",
    "boil",
    "unusual",
    "mushroom",
    "soup",
]


@pytest.fixture
def client(minilm_pod: Pod) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=minilm_pod.url, timeout=60) as found:
        yield found


@pytest.fixture
def openai_client(minilm_pod: Pod) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{minilm_pod.url}/v1", api_key="none", max_retries=0) as found:
        yield found


class Eager:
    """Transformers' own model and sentence-transformers' pooling, written out."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    def hidden(self, inputs: dict[str, Any]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            found: NDArray[np.float32] = self.model(**inputs).last_hidden_state.numpy()
        return found

    def tokenize(self, text: str) -> dict[str, Any]:
        encoded: dict[str, Any] = dict(self.tokenizer(text, return_tensors="pt"))
        return encoded

    def embed(self, text: str) -> NDArray[np.float32]:
        mean = self.hidden(self.tokenize(text))[0].mean(axis=0)
        normal: NDArray[np.float32] = mean / np.linalg.norm(mean)
        return normal


@pytest.fixture(scope="module")
def eager(minilm_folder: Path) -> Eager:
    return Eager(minilm_folder)


def texts(count: int, longest: int = 55) -> list[str]:
    choice = random.Random(count)  # noqa: S311 - texts, not secrets
    return [" ".join(choice.choices(WORDS, k=choice.randint(1, longest))) for _ in range(count)]


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_openai_embeddings_equal_eager(openai_client: openai.OpenAI, eager: Eager, encoding: Any) -> None:
    given = ["How are you?", "Wie geht's? 你好 🙂", *texts(6)]
    answer = openai_client.embeddings.create(model="minilm", input=given, encoding_format=encoding)
    for text, one in zip(given, answer.data, strict=True):
        vector = (
            np.frombuffer(base64.b64decode(one.embedding), "<f4") if isinstance(one.embedding, str) else one.embedding
        )
        np.testing.assert_allclose(vector, eager.embed(text), rtol=0, atol=BOUND)
    assert answer.usage.prompt_tokens == sum(eager.tokenize(text)["input_ids"].shape[1] for text in given)


def test_openai_client_lists_the_model_and_raises_its_own_errors(openai_client: openai.OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == ["minilm"]
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        openai_client.embeddings.create(model="other", input="x")
    with pytest.raises(openai.BadRequestError, match="nothing is cut silently"):
        openai_client.embeddings.create(model="minilm", input="word " * 600)


def test_v2_inference_equals_eager_with_the_clients_own_padding(client: httpx.Client, eager: Eager) -> None:
    encoded = eager.tokenizer(texts(3), return_tensors="pt", padding=True)
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": "INT64", "data": array.tolist()}
        for name, array in encoded.items()
    ]
    body = {"id": "1", "inputs": inputs, "outputs": [{"name": "last_hidden_state"}]}
    (output,) = client.post("/v2/models/minilm/infer", json=body).raise_for_status().json()["outputs"]
    computed = np.array(output["data"], dtype=np.float32).reshape(output["shape"])
    kept = encoded["attention_mask"].numpy().astype(bool)
    np.testing.assert_allclose(computed[kept], eager.hidden(dict(encoded))[kept], rtol=0, atol=BOUND)


def test_v2_health_and_metadata(client: httpx.Client, minilm_artifact: ExportedArtifact) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    parameters = client.get("/v2/models/minilm").json()["parameters"]
    assert parameters["digest"] == minilm_artifact.digest
    assert parameters["key"] == minilm_artifact.key
    assert parameters["width"] == 384


async def test_64_concurrent_clients_of_mixed_lengths_each_get_their_own_answer(minilm_pod: Pod, eager: Eager) -> None:
    given = texts(64)
    async with httpx.AsyncClient(base_url=minilm_pod.url, timeout=60, limits=httpx.Limits(max_connections=64)) as many:
        responses = await asyncio.gather(
            *(many.post("/v1/embeddings", json={"model": "minilm", "input": text}) for text in given)
        )
    for text, response in zip(given, responses, strict=True):
        vector = response.raise_for_status().json()["data"][0]["embedding"]
        np.testing.assert_allclose(vector, eager.embed(text), rtol=0, atol=BOUND)


def test_metrics_name_the_artifact(client: httpx.Client, minilm_artifact: ExportedArtifact) -> None:
    exposed = client.get("/metrics").text
    assert f'tsm_artifact_info{{compiler="torchscript",digest="{minilm_artifact.digest}"' in exposed


def test_every_log_line_is_an_object_with_model_target_and_digest(
    minilm_pod: Pod, minilm_artifact: ExportedArtifact
) -> None:
    lines = minilm_pod.log
    assert lines
    for line in lines:
        assert (line["model"], line["target"], line["digest"]) == ("tests/minilm", "cpu", minilm_artifact.digest)


async def test_a_termination_loses_no_request(minilm_artifact: ExportedArtifact, tmp_path: Path) -> None:
    """Clients ask all the time, as kube-proxy lets them until the endpoint is gone: when the pod is not ready."""
    request = make_request(minilm_artifact.uri, minilm_artifact.digest)
    statuses: list[int] = []
    with pod(request, tmp_path) as running:
        running.wait_ready()
        leaving = asyncio.Event()

        async def ask(client: httpx.AsyncClient) -> None:
            while not leaving.is_set():
                body = {"model": "minilm", "input": WORDS[len(statuses) % len(WORDS)]}
                statuses.append((await client.post("/v1/embeddings", json=body)).status_code)

        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            clients = [asyncio.ensure_future(ask(client)) for _ in range(16)]
            await until(lambda: len(statuses) >= 50)
            running.terminate()
            await asyncio.to_thread(running.wait_unready)
            served = len(statuses)
            await until(lambda: len(statuses) >= served + 20)
            leaving.set()
            await asyncio.gather(*clients)
        assert await asyncio.to_thread(running.wait_exit) == 0
    assert set(statuses) == {200}


async def test_requests_in_flight_are_answered_after_the_linger(
    tiny_artifact: ExportedArtifact, tmp_path: Path
) -> None:
    request = make_request(tiny_artifact.uri, tiny_artifact.digest, maximumDelayMilliseconds=1000)
    with pod(request, tmp_path, {"TSM_SERVE_LINGER_SECONDS": "0.2"}) as running:
        running.wait_ready()
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            waiting = asyncio.ensure_future(client.post("/v1/embeddings", json={"model": "minilm", "input": "x"}))
            await asyncio.to_thread(running.wait_metric, "tsm_queue_rows 1.0")
            running.terminate()
            assert (await waiting).status_code == 200
        assert await asyncio.to_thread(running.wait_exit) == 0


def test_a_second_termination_ends_at_once(tiny_artifact: ExportedArtifact, tmp_path: Path) -> None:
    request = make_request(tiny_artifact.uri, tiny_artifact.digest)
    with pod(request, tmp_path, {"TSM_SERVE_LINGER_SECONDS": "600"}) as running:
        running.wait_ready()
        running.terminate()
        running.wait_unready()
        running.terminate()
        assert running.wait_exit() == 143
