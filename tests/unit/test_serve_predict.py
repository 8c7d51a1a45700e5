"""POST /predict: the shape of requests and errors; what each task answers is in the tests of tasks."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.serving import Toy, serving, toy_manifest, toy_tokenizing
from torchscript_operator.serve.errors import ApiError
from torchscript_operator.serve.predict import measure
from torchscript_operator.serve.tokenizing import Tokenizing

PREDICT = "/predict"


def direct(text: str) -> Any:
    ids = torch.from_numpy(toy_tokenizing().encode([text])[0].inputs["input_ids"])[None]
    return Toy()(ids, torch.ones_like(ids), torch.zeros_like(ids))[0].numpy()


async def test_a_text_gives_what_the_pipeline_gives() -> None:
    async with serving() as (client, _):
        response = await client.post(PREDICT, json={"inputs": "w1 w2"})
    np.testing.assert_allclose(response.json(), direct("w1 w2"), rtol=1e-5, atol=1e-6)


async def test_texts_give_a_list_each_at_its_own_length() -> None:
    async with serving() as (client, _):
        answers = (await client.post(PREDICT, json={"inputs": ["w1 w2 w3", "w4"], "parameters": {}})).json()
    for answer, text in zip(answers, ["w1 w2 w3", "w4"], strict=True):
        np.testing.assert_allclose(answer, direct(text), rtol=1e-5, atol=1e-6)


async def test_long_texts_are_cut_only_when_asked() -> None:
    async with serving() as (client, _):
        assert (await client.post(PREDICT, json={"inputs": "w1 " * 30})).status_code == 400
        cut = await client.post(PREDICT, json={"inputs": "w1 " * 30, "parameters": {"truncation": True}})
    assert np.array(cut.json()).shape == (1, 16, 4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "inputs"),
        ([], "body"),
        ({"inputs": "w1", "other": 1}, "other"),
        ({"inputs": "w1", "parameters": []}, "parameters"),
        ({"inputs": "w1", "parameters": {"other": 1}}, "truncation"),
        ({"inputs": "w1", "parameters": {"truncation": 1}}, "truncation"),
        ({"inputs": ""}, "empty"),
        ({"inputs": []}, "empty"),
        ({"inputs": None}, "text"),
        ({"inputs": ["w1", 2]}, "text"),
        ({"inputs": ["w1"] * 11}, "more than 10"),
    ],
)
async def test_what_a_client_gets_wrong_is_named(body: Any, message: str) -> None:
    async with serving(request_rows=10) as (client, _):
        response = await client.post(PREDICT, json=body)
    assert response.status_code == 400
    assert message in response.json()["error"]


async def test_too_many_texts_are_refused_before_they_are_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizing, "encode", None)
    async with serving(request_rows=10) as (client, _):
        for inputs in (["w1"] * 21, [{"a": ["w1"] * 21}]):
            response = await client.post(PREDICT, json={"inputs": inputs})
            assert response.status_code == 400
            assert "more texts than 10 rows" in response.json()["error"]


async def test_without_token_vectors_there_is_no_answer() -> None:
    async with serving(toy_manifest()) as (client, state):
        assert state.model is not None
        object.__setattr__(state.model.task, "manifest", toy_manifest(outputs=()))
        response = await client.post(PREDICT, json={"inputs": "w1"})
    assert response.status_code == 400


def test_an_answer_counts_its_numbers() -> None:
    assert measure([{"score": 0.5, "label": "a"}, np.zeros((2, 3), np.float32)]) == 8


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan"), np.array([1.0, np.inf])])
def test_numbers_that_are_not_finite_are_never_sent(value: Any) -> None:
    with pytest.raises(ApiError) as raised:
        measure({"a": [1.0, value]})
    assert raised.value.status == 500
