"""A small body that asks for a lot is refused before memory or time are spent on it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from tests.unit.serving import expected, serving, tensor, tensors, toy_runner, toy_tokenizing
from torchscript_operator.serve import tensors as tensors_module
from torchscript_operator.serve.buckets import TooLongError
from torchscript_operator.serve.tasks.base import Bounds, InputError
from torchscript_operator.serve.tasks.question_answering import _spans
from torchscript_operator.serve.tokenizing import CHARACTERS_PER_TOKEN, PIECE_CHARACTERS, Tokenizing

EMBEDDINGS, INFER, PREDICT = "/v1/embeddings", "/v2/models/toy/infer", "/predict"
MOST = CHARACTERS_PER_TOKEN * 16
"""Characters of a text that the toy, which takes 16 tokens, reads."""


async def test_too_many_lists_of_ids_are_refused_before_they_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizing, "from_ids", None)
    async with serving(request_rows=10) as (client, _):
        response = await client.post(EMBEDDINGS, json={"model": "toy", "input": [[4]] * 11})
    assert response.status_code == 400
    assert "more than 10" in response.json()["error"]["message"]


async def test_ids_that_are_too_long_are_refused_before_they_are_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizing, "from_ids", None)
    async with serving() as (client, _):
        response = await client.post(EMBEDDINGS, json={"model": "toy", "input": [4] * 17})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_too_many_rows_of_tensors_are_refused_before_they_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors_module, "_rows_of_tensors", None)
    async with serving(request_rows=10) as (client, _):
        response = await client.post(INFER, json={"inputs": tensors([[4]] * 11)})
    assert response.status_code == 400
    assert "more than 10" in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EMBEDDINGS, lambda text: {"model": "toy", "input": text}),
        (INFER, lambda text: {"inputs": [tensor("text", [text], "BYTES")]}),
        (PREDICT, lambda text: {"inputs": text}),
    ],
)
async def test_text_out_of_proportion_is_not_even_tokenised(path: str, body: Any) -> None:
    async with serving() as (client, state):
        assert state.model is not None
        object.__setattr__(state.model.tokenizing, "_tokenizer", Untouched())
        response = await client.post(path, json=body("a" * (MOST + 1)))
    assert response.status_code == 400
    assert f"{MOST + 1} characters are too many for a model that takes 16 tokens" in response.text


class Untouched:
    """A tokenizer that must not be used."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


async def test_of_a_text_out_of_proportion_that_may_be_cut_the_first_tokens_are_computed() -> None:
    text = "w1 w2 w3 " * MOST
    async with serving() as (client, _):
        asked = {"model": "toy", "input": [text, "w4"], "truncate": True}
        answer = (await client.post(EMBEDDINGS, json=asked)).raise_for_status().json()
    found = [item["embedding"] for item in answer["data"]]
    np.testing.assert_allclose(found, expected([" ".join(["w1 w2 w3"] * 5)[: len("w1 ") * 14], "w4"]), atol=1e-6)


async def test_text_whose_first_tokens_cannot_be_known_is_refused_rather_than_cut_elsewhere() -> None:
    async with serving() as (client, _):
        asked = {"model": "toy", "input": "w1" + " " * MOST + "w2", "truncate": True}
        response = await client.post(EMBEDDINGS, json=asked)
    assert response.status_code == 400
    assert "too many" in response.text


async def test_many_long_texts_are_tokenised_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizing, buckets = toy_tokenizing(), toy_runner().buckets
    text = "w1 " * 300
    count = 2 * PIECE_CHARACTERS // len(text)
    sizes: list[int] = []

    class Counting:
        def encode(self, text: str) -> Any:
            sizes.append(len(text))
            return tokenizing.tokenizer.encode(text)

        def encode_batch_fast(self, texts: list[str]) -> Any:
            sizes.append(sum(map(len, texts)))
            return tokenizing.tokenizer.encode_batch_fast(texts)

    counting = Tokenizing(None, ("input_ids",), {})
    monkeypatch.setattr(counting, "_tokenizer", Counting())
    assert len(counting.encode([text] * count)) == count
    assert sum(sizes) == count * len(text)
    assert max(sizes) <= PIECE_CHARACTERS
    sizes.clear()
    with pytest.raises(TooLongError):
        counting.encode([text] * count, buckets)
    assert len(sizes) == 1


@pytest.mark.parametrize("given_bounds", [(3, 0, 0), (0, 11, 0), (0, 0, 11)])
def test_rows_tokens_and_what_is_written_have_bounds(given_bounds: tuple[int, int, int]) -> None:
    Bounds(2, 10).check(2, 10, 10)
    with pytest.raises(InputError, match="more than"):
        Bounds(2, 10).check(*given_bounds)


Probabilities = arrays.arrays(np.float32, 7, elements=st.sampled_from([0.0, 0.125, 0.25, 0.5]))


@given(Probabilities, Probabilities, arrays.arrays(np.bool_, 7), st.integers(1, 60), st.integers(1, 9))
def test_spans_are_the_likeliest_of_all_that_are_short_enough_and_possible(
    starts: NDArray[np.float32], ends: NDArray[np.float32], allowed: NDArray[np.bool_], count: int, longest: int
) -> None:
    every = [(first, last) for first in range(7) for last in range(first, min(7, first + longest))]
    likeliest = sorted(every, key=lambda span: -starts[span[0]] * ends[span[1]])[:count]
    found = _spans(starts, ends, allowed, count, longest)
    wanted = [
        (first, last)
        for first, last in likeliest
        if starts[first] * ends[last] > 0 and allowed[first] and allowed[last]
    ]
    assert [(span.first, span.last) for span in found] == wanted
    assert [span.score for span in found] == [float(starts[first] * ends[last]) for first, last in wanted]
