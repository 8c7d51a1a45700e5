from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract import tiny
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import Samples, Shape
from torchscript_operator.export.inputs import (
    SENTENCES,
    Batch,
    InputMaker,
    read_samples,
    samples_digest,
    unique_shapes,
)
from torchscript_operator.export.tasks import TextStyle
from torchscript_operator.export.tokenizer import LoadedTokenizer

NAMES = ("input_ids", "attention_mask", "token_type_ids")
SHAPES = st.builds(Shape, batch=st.integers(1, 5), sequence=st.integers(1, 40))


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> InputMaker:
    from tokenizers import Tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    size = tiny.write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return InputMaker(LoadedTokenizer(tokenizer, NAMES, 0, frozenset(range(5)), {}), NAMES, size)


def check_form(batch: Batch, shape: Shape) -> None:
    mask = batch.inputs["attention_mask"]
    assert {array.shape for array in batch.inputs.values()} == {(shape.batch, shape.sequence)}
    assert {array.dtype for array in batch.inputs.values()} == {np.dtype(np.int64)}
    assert set(np.unique(mask)) <= {0, 1}
    assert mask.any(axis=1).all()
    assert (batch.inputs["input_ids"][mask == 0] == 0).all()


@given(shape=SHAPES, texts=st.lists(st.text(min_size=1), min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_texts_fill_batches_of_the_bucket(maker: InputMaker, shape: Shape, texts: list[str]) -> None:
    batches = list(maker.of_texts(texts, shape))

    assert len(batches) == -(-len(texts) // shape.batch)
    for batch in batches:
        check_form(batch, shape)


@given(shape=SHAPES, masked=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_synthetic_ids_are_real_tokens_and_the_same_each_time(maker: InputMaker, shape: Shape, masked: bool) -> None:
    batch = maker.synthetic(shape, masked=masked)

    check_form(batch, shape)
    kept = batch.inputs["input_ids"][batch.inputs["attention_mask"] == 1]
    assert (kept >= 5).all()
    assert (kept < maker.vocabulary_size).all()
    np.testing.assert_array_equal(batch.inputs["input_ids"], maker.synthetic(shape, masked=masked).inputs["input_ids"])


def test_synthetic_masks_hold_zeros_when_asked(maker: InputMaker) -> None:
    shape = Shape(batch=8, sequence=32)

    assert (maker.synthetic(shape, masked=True).inputs["attention_mask"] == 0).any()
    assert (maker.synthetic(shape, masked=False).inputs["attention_mask"] == 1).all()


def test_long_text_is_cut_but_keeps_its_last_special_token(maker: InputMaker) -> None:
    batch = next(maker.of_texts(["the cat sat on the mat"], Shape(batch=1, sequence=4)))

    ids = batch.inputs["input_ids"][0]
    assert (ids[0], ids[-1]) == (2, 3)


def test_text_after_a_cut_one_is_whole_again(maker: InputMaker) -> None:
    before = maker.loaded.tokenizer.encode("the cat sat on the mat").ids
    list(maker.of_texts(["the cat sat on the mat"], Shape(batch=1, sequence=4)))

    assert maker.loaded.tokenizer.encode("the cat sat on the mat").ids == before


def test_golden_batch_mixes_texts_and_synthetic_rows(maker: InputMaker) -> None:
    shape = Shape(batch=4, sequence=64)
    batch = maker.mixed(SENTENCES, shape)

    check_form(batch, shape)
    ids = batch.inputs["input_ids"]
    np.testing.assert_array_equal(ids[::2], next(maker.of_texts(SENTENCES, shape)).inputs["input_ids"][::2])
    np.testing.assert_array_equal(ids[1::2], maker.synthetic(shape, masked=True).inputs["input_ids"][1::2])


def styled(maker: InputMaker, style: TextStyle, segments: int = 2) -> InputMaker:
    facts = {"maskTokenId": 4}
    loaded = LoadedTokenizer(maker.loaded.tokenizer, NAMES, 0, frozenset(range(5)), facts)
    return InputMaker(loaded, NAMES, maker.vocabulary_size, style, segments)


def test_pairs_are_texts_with_the_next_one_in_the_second_segment(maker: InputMaker) -> None:
    always = styled(maker, TextStyle(pairs="always"))
    texts = ["the cat", "a dog", "hello"]

    batch = next(always.of_texts(texts, Shape(batch=3, sequence=16)))

    for row, pair in enumerate(zip(texts, [*texts[1:], texts[0]], strict=True)):
        encoding = maker.loaded.tokenizer.encode(*pair)
        length = len(encoding.ids)
        assert batch.inputs["input_ids"][row, :length].tolist() == encoding.ids
        assert batch.inputs["token_type_ids"][row, :length].tolist() == encoding.type_ids
        assert batch.inputs["attention_mask"][row].sum() == length
    assert batch.inputs["token_type_ids"].any(axis=1).all()


def test_some_pairs_leave_single_texts_between(maker: InputMaker) -> None:
    some = styled(maker, TextStyle(pairs="some"))

    batch = next(some.of_texts(["the cat", "a dog", "hello", "mat"], Shape(batch=4, sequence=16)))

    assert batch.inputs["token_type_ids"].any(axis=1).tolist() == [False, True, False, True]


def test_long_pair_is_cut_but_keeps_both_texts(maker: InputMaker) -> None:
    always = styled(maker, TextStyle(pairs="always"))

    batch = next(always.of_texts(["the cat sat on the mat", "a dog"], Shape(batch=1, sequence=8)))

    assert batch.inputs["attention_mask"].all()
    assert (batch.inputs["input_ids"] == 3).sum() == 2


@given(shape=SHAPES, masked=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_synthetic_pairs_have_both_segments_only_where_tokens_are(
    maker: InputMaker, shape: Shape, masked: bool
) -> None:
    batch = styled(maker, TextStyle(pairs="always")).synthetic(shape, masked=masked)

    check_form(batch, shape)
    assert set(np.unique(batch.inputs["token_type_ids"])) <= {0, 1}
    assert (batch.inputs["token_type_ids"] <= batch.inputs["attention_mask"]).all()


def test_model_of_one_segment_never_sees_a_second(maker: InputMaker) -> None:
    batch = styled(maker, TextStyle(pairs="always"), segments=1).synthetic(Shape(batch=8, sequence=32), masked=True)

    assert not batch.inputs["token_type_ids"].any()


def test_one_token_of_each_text_becomes_the_mask(maker: InputMaker) -> None:
    masking = styled(maker, TextStyle(mask=True))

    batch = next(masking.of_texts(["the cat sat", "hello"], Shape(batch=2, sequence=8)))

    assert (batch.inputs["input_ids"] == 4).sum(axis=1).tolist() == [1, 1]


def test_mask_that_the_tokenizer_does_not_have_is_refused(maker: InputMaker) -> None:
    masking = InputMaker(maker.loaded, NAMES, maker.vocabulary_size, TextStyle(mask=True))

    with pytest.raises(WorkerError, match="no mask token") as caught:
        next(masking.of_texts(["the cat"], Shape(batch=1, sequence=8)))

    assert caught.value.reason is FailureReason.TASK_MISMATCH


def test_id_without_an_embedding_is_refused(maker: InputMaker) -> None:
    small = InputMaker(maker.loaded, NAMES, 10)

    with pytest.raises(WorkerError, match="only 10 embeddings") as caught:
        list(small.of_texts(["the cat"], Shape(batch=1, sequence=8)))

    assert caught.value.reason is FailureReason.SOURCE_INVALID


def test_samples_are_texts_and_lines_without_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("eins\n\n  \nzwei äöü\n", encoding="utf-8")

    found = read_samples(Samples(texts=("null", ""), path=str(tmp_path / "texts")))

    assert found == ("null", "eins", "zwei äöü")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_samples_that_cannot_be_read_are_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "texts").write_bytes(content)

    with pytest.raises(WorkerError) as caught:
        read_samples(Samples(path=str(tmp_path / "texts")))

    assert caught.value.reason is FailureReason.INVALID_REQUEST


def test_samples_change_the_digest() -> None:
    assert samples_digest(["a", "b"]) != samples_digest(["b", "a"])
    assert samples_digest([]) == samples_digest([])


def test_shapes_are_ordered_and_unique() -> None:
    shapes = [Shape(batch=8, sequence=64), Shape(batch=1, sequence=128), Shape(batch=8, sequence=64)]

    assert [shape.name for shape in unique_shapes(shapes)] == ["b1-s128", "b8-s64"]
