"""Each task's server under a fuzzer that reads its OpenAPI document: no fault of ours, nothing that it does not say."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.contract import tiny
from tests.contract.tasking import serve
from tests.contract.test_tasks import SAMPLES
from tests.unit.serving import Live, live
from tests.unit.test_serve_openapi import CHECKS

INPUTS = SAMPLES | {
    "feature-extraction": ["the cat sat", ["a dog", "looks out of the window"]],
    "text2text-generation": ["the cat sat on the mat"],
}
"""Task to what its pipeline takes."""


@dataclass(frozen=True)
class Fuzzed:
    task: str
    server: Live


@pytest.fixture(scope="module", params=sorted(INPUTS))
def fuzzed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    task = request.param
    root = tmp_path_factory.mktemp(task)
    if task == "text2text-generation":
        folder = tiny.write_marian(root / "model")
    elif task == "feature-extraction":
        folder = tiny.write_model(root / "model")
    else:
        folder = tiny.write_head(root / "model", task, "Bert")
    loaded = serve(folder, root, task).loaded
    with live(model=(loaded.runner, loaded.tokenizing)) as server:
        yield Fuzzed(task, server)


def attack(fuzzed: Fuzzed, path: str, inputs: Any = None) -> set[int]:
    """Send what the document allows and what it does not; the statuses that came back. inputs: of some bodies."""
    operation = schemathesis.openapi.from_url(f"{fuzzed.server.url}/openapi.json")[path]["POST"]
    negative = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
    seen: set[int] = set()

    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(operation.as_strategy(), negative), st.booleans())
    def send(case: Any, sensible: bool) -> None:
        if sensible and inputs is not None and isinstance(case.body, dict):
            case.body["inputs"] = inputs
            case.body.pop("outputs", None)
        seen.add(case.call_and_validate(checks=CHECKS).status_code)

    send()
    assert fuzzed.server.state.model is not None
    assert fuzzed.server.state.model.engine.complaint() is None
    assert fuzzed.server.state.buffered_bytes == 0
    return seen


def test_a_fuzzer_finds_no_fault_in_the_pipelines_answers(fuzzed: Fuzzed) -> None:
    for inputs in INPUTS[fuzzed.task]:
        assert attack(fuzzed, "/predict", inputs) == {200, 400}


def test_a_fuzzer_finds_no_fault_in_inference(fuzzed: Fuzzed) -> None:
    model = fuzzed.server.state.model
    assert model is not None
    names = [tensor.name for tensor in model.manifest.inputs]
    inputs = [{"name": name, "datatype": "INT64", "shape": [2, 4], "data": [1] * 8} for name in names]
    assert {200, 400} <= attack(fuzzed, "/v2/models/{name}/infer", inputs) <= {200, 400, 404, 415}
