"""Serving processes of tasks beside feature-extraction: ready after their replay, answering by tensors over HTTP."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.contract import tiny
from tests.contract.serving import make_request, pod
from tests.contract.tasking import export, padded


@pytest.mark.parametrize(
    ("task", "outputs"),
    [
        ("question-answering", {"start_logits": ("FP32", [2, 9]), "end_logits": ("FP32", [2, 9])}),
        ("text2text-generation", {"sequences": ("INT64", [2, 24])}),
    ],
)
def test_pod_answers_by_tensors(tmp_path: Path, task: str, outputs: dict[str, tuple[str, list[int]]]) -> None:
    writes = {"question-answering": lambda folder: tiny.write_head(folder, task, "Bert")}
    folder = writes.get(task, tiny.write_marian)(tmp_path / "model")
    outcome = export(folder, tmp_path, task)
    assert outcome.artifact is not None, outcome.failure
    arrays = padded(tiny.vocabulary_size(folder), 9, 5)

    with pod(make_request(outcome.artifact.uri, outcome.artifact.digest), tmp_path / "pod") as process:
        process.wait_ready()
        url = f"{process.url}/v2/models/minilm"
        described = httpx.get(url).json()
        inputs: list[dict[str, Any]] = [
            {
                "name": tensor["name"],
                "datatype": "INT64",
                "shape": [2, 9],
                "data": arrays[tensor["name"]].reshape(-1).tolist(),
            }
            for tensor in described["inputs"]
        ]
        answer = httpx.post(f"{url}/infer", json={"inputs": inputs}).json()

    assert described["parameters"]["task"] == task
    assert {found["name"]: (found["datatype"], found["shape"]) for found in answer["outputs"]} == outputs
    assert all(np.isfinite(found["data"]).all() for found in answer["outputs"])
