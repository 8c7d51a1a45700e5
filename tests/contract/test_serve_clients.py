"""The Open Inference Protocol by the ecosystem's own clients, unmodified, on the real all-MiniLM-L6-v2."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.contract.exporting import ExportedArtifact
from tests.contract.serving import Pod
from tests.contract.test_serve_minilm import BOUND, Eager

CLIENTS = Path(__file__).parent / "clients"
TEXTS = ["How are you?", "Wie geht's? 你好 🙂", "The quick brown fox jumps over the lazy dog, and then over another."]


@dataclass(frozen=True)
class Reference:
    """What eager says about TEXTS."""

    inputs: dict[str, NDArray[np.int64]]
    tokens: NDArray[np.float32]
    embeddings: NDArray[np.float32]

    @property
    def mask(self) -> NDArray[np.bool_]:
        return self.inputs["attention_mask"].astype(bool)


@pytest.fixture(scope="module")
def reference(minilm_folder: Path) -> Reference:
    eager = Eager(minilm_folder)
    encoded = dict(eager.tokenizer(TEXTS, return_tensors="pt", padding=True))
    return Reference(
        {name: array.numpy() for name, array in encoded.items()},
        eager.hidden(encoded),
        np.stack([eager.embed(text) for text in TEXTS]),
    )


@dataclass(frozen=True)
class Asked:
    said: Any
    arrays: dict[str, NDArray[Any]]


def run(program: str, minilm_pod: Pod, reference: Reference, folder: Path) -> Asked:
    np.savez(folder / "inputs.npz", **reference.inputs, texts=np.array(TEXTS))  # type: ignore[arg-type]
    paths = [str(folder / "inputs.npz"), str(folder / "outputs.npz")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", CLIENTS / program, minilm_pod.url, minilm_pod.grpc, *paths],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "outputs.npz") as file:
        return Asked(json.loads(done.stdout.splitlines()[-1]), dict(file))


@pytest.fixture(scope="module")
def triton(minilm_pod: Pod, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return run("triton.py", minilm_pod, reference, tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="module")
def kserve(minilm_pod: Pod, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return run("kserve_client.py", minilm_pod, reference, tmp_path_factory.mktemp("kserve"))


def assert_close(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=BOUND)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritonclient_gets_what_eager_computes(triton: Asked, reference: Reference, protocol: str) -> None:
    found = triton.arrays
    assert_close(found[f"{protocol}_tokens"][reference.mask], reference.tokens[reference.mask])
    assert_close(found[f"{protocol}_embedding"], reference.embeddings)
    assert_close(found[f"{protocol}_chosen"], reference.embeddings)
    assert triton.said[protocol]["only"]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritonclient_sends_texts(triton: Asked, reference: Reference, protocol: str) -> None:
    found = triton.arrays
    assert_close(found[f"{protocol}_by_text"], reference.embeddings)
    assert found[f"{protocol}_text_mask"].tolist() == reference.inputs["attention_mask"].tolist()
    assert_close(found[f"{protocol}_text_tokens"], np.where(reference.mask[:, :, None], reference.tokens, 0))


def test_tritonclient_without_binary_data(triton: Asked, reference: Reference) -> None:
    assert_close(triton.arrays["http_json"], reference.embeddings)


@pytest.mark.parametrize(("protocol", "status"), [("http", "404"), ("grpc", "StatusCode.NOT_FOUND")])
def test_tritonclient_sees_health_and_errors(triton: Asked, protocol: str, status: str) -> None:
    said = triton.said[protocol]
    assert (said["live"], said["ready"], said["model_ready"]) == (True, True, True)
    assert said["error"] == f"{status} unknown model 'other'"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritonclient_reads_the_metadata(triton: Asked, minilm_artifact: ExportedArtifact, protocol: str) -> None:
    server, model = triton.said[protocol]["server"], triton.said[protocol]["model"]
    assert server["extensions"] == ["binary_tensor_data"]
    assert model["versions"] == [minilm_artifact.digest.removeprefix("sha256:")[:12]]
    assert [tensor["name"] for tensor in model["inputs"]] == ["input_ids", "attention_mask", "token_type_ids"]
    assert {tensor["name"]: [int(size) for size in tensor["shape"]] for tensor in model["outputs"]} == {
        "last_hidden_state": [-1, -1, 384],
        "sentence_embedding": [-1, 384],
    }


def test_kserve_clients_get_what_eager_computes(kserve: Asked, reference: Reference) -> None:
    assert set(kserve.arrays) == {"json", "binary", "text", "binary_text", "grpc"}
    for found in kserve.arrays.values():
        assert_close(found, reference.embeddings)


def test_kserve_clients_see_health_and_errors(kserve: Asked) -> None:
    said = kserve.said
    assert (said["live"], said["ready"], said["model_ready"], said["grpc_ready"]) == (True, True, True, True)
    assert "404" in said["error"]
