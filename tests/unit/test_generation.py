"""The search itself, over scores that a table makes up; that it is Transformers' is shown with a real model."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from torchscript_operator.artifact.generation import Sizes, generate, log_softmax, strip, to_array, write
from torchscript_operator.artifact.manifest import Generation

VOCABULARY = 6
END = 3
SETTINGS = Generation(
    start_token=0,
    end_tokens=(END,),
    pad_token=0,
    beams=3,
    maximum_length=6,
    length_penalty="1.0",
    early_stopping="heuristic",
    replay_length=4,
)


def scores_of(text: int, tokens: Sequence[int]) -> NDArray[np.float32]:
    """Scores that depend on the text and on everything written so far."""
    seed = text
    for token in tokens:
        seed = seed * 31 + token + 1
    return np.random.default_rng(seed).normal(size=VOCABULARY).astype(np.float32) * 2


def step(texts: Sequence[int], sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    return np.stack([scores_of(text, tokens) for text, tokens in zip(texts, sequences, strict=True)])


def chance(text: int, tokens: Sequence[int]) -> float:
    """Logarithm of a sequence's probability."""
    return float(sum(log_softmax(scores_of(text, tokens[:i])[None])[0, tokens[i]] for i in range(1, len(tokens))))


@given(st.integers(0, 1000))
def test_greedy_takes_the_best_token_each_time(text: int) -> None:
    (tokens,) = generate(SETTINGS, 1, lambda _, rows: step([text] * len(rows), rows), beams=1, maximum_length=6)

    assert tokens[0] == 0
    assert all(tokens[i] == scores_of(text, tokens[:i]).argmax() for i in range(1, len(tokens)))
    assert len(tokens) == 6 or tokens[-1] == END
    assert END not in tokens[:-1]


@given(st.integers(0, 300))
@settings(max_examples=20)
def test_beams_that_keep_everything_find_the_likeliest_sequence(text: int) -> None:
    never = SETTINGS.model_copy(update={"length_penalty": "0.0", "early_stopping": "never"})
    rows = VOCABULARY**3

    (tokens,) = generate(never, 1, lambda _, found: step([text] * len(found), found), beams=rows, maximum_length=4)

    everything = [
        [0, *tail]
        for length in (1, 2, 3)
        for tail in product(range(VOCABULARY), repeat=length)
        if END not in tail[:-1] and (tail[-1] == END or length == 3)
    ]
    best = max(everything, key=lambda one: chance(text, one))
    assert chance(text, tokens) == pytest.approx(chance(text, best), abs=1e-5)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.integers(1, 4))
@settings(max_examples=30)
def test_text_is_answered_alike_in_any_batch(texts: list[int], beams: int) -> None:
    together = generate(
        SETTINGS,
        len(texts),
        lambda of, rows: step([texts[index] for index in of], rows),
        beams=beams,
        maximum_length=6,
    )
    alone = [
        generate(SETTINGS, 1, lambda of, rows: step([text] * len(of), rows), beams=beams, maximum_length=6)[0]  # noqa: B023
        for text in texts
    ]

    assert together == alone


@pytest.mark.parametrize("sizes", [Sizes(None, None), Sizes(9, 6), Sizes(None, 6), Sizes(9, None)])
def test_padding_to_a_decoders_sizes_changes_nothing(sizes: Sizes) -> None:
    seen: set[tuple[int, ...]] = set()

    def decode(ids: NDArray[Any], mask: NDArray[Any], hidden: NDArray[Any], index: NDArray[Any]) -> NDArray[Any]:
        seen.add((*ids.shape, len(mask), len(hidden)))
        return step([int(row[0, 0]) for row in hidden], [row[: int(index[0]) + 1].tolist() for row in ids])

    hidden = np.array([4.0, 7.0, 9.0]).reshape(3, 1, 1)
    found = write(SETTINGS, 3, np.ones((3, 1), dtype=np.int64), hidden, decode, sizes, beams=3, maximum_length=6)

    texts = [4, 7, 9]
    expected = generate(SETTINGS, 3, lambda of, rows: step([texts[i] for i in of], rows), beams=3, maximum_length=6)
    assert found == expected
    if sizes.rows is not None:
        assert {(size[0], *size[2:]) for size in seen} == {(9, 9, 9)}
    if sizes.length is not None:
        assert {size[1] for size in seen} == {6}


def test_rows_that_only_fill_the_encoders_bucket_are_not_written_from() -> None:
    hidden = np.array([4.0, 4.0]).reshape(2, 1, 1)

    def decode(ids: NDArray[Any], _mask: Any, hidden: NDArray[Any], index: NDArray[Any]) -> NDArray[Any]:
        return step([int(row[0, 0]) for row in hidden], [row[: int(index[0]) + 1].tolist() for row in ids])

    found = write(
        SETTINGS, 1, np.ones((2, 1), dtype=np.int64), hidden, decode, Sizes(None, None), beams=1, maximum_length=6
    )

    assert len(found) == 1


@pytest.mark.parametrize("beams", [1, 3])
def test_suppressed_tokens_are_never_written_and_forced_ones_always(beams: int) -> None:
    ruled = SETTINGS.model_copy(
        update={"suppressed_tokens": (1, 2), "forced_first_token": 5, "forced_last_tokens": (END,)}
    )
    for text in range(20):
        (tokens,) = generate(ruled, 1, lambda of, rows: step([text] * len(of), rows), beams=beams, maximum_length=5)  # noqa: B023

        assert tokens[1] == 5
        assert tokens[-1] == END
        assert not {1, 2} & set(tokens)


@given(st.lists(st.lists(st.integers(4, 9), max_size=4), min_size=1, max_size=4))
def test_array_gives_back_the_sequences_without_what_fills_them_up(tails: list[list[int]]) -> None:
    sequences = [[0, *tail, END] for tail in tails]

    assert strip(to_array(sequences, 0), SETTINGS) == sequences
    assert strip(to_array(sequences, 0, 9), SETTINGS) == sequences
