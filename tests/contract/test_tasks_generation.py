"""text2text-generation with a small MarianMT, beside Transformers' own `generate`."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contract import tiny
from tests.contract.tasking import SHAPES, Served, export, padded, serve
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.serve.tasks.base import InputError

TASK = "text2text-generation"
TEXTS = ["the cat sat on the mat", "hello.", "a dog looks out of the window and met the cat"]


@pytest.fixture(scope="module", params=["dynamic", "fixed"])
def marian(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Served from one file for each part, or from one for each part and bucket, as fixed shapes need it."""
    from torchscript_operator.export.backends.torchscript import TorchScript

    root = tmp_path_factory.mktemp(request.param)
    folder = tiny.write_marian(root / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchScript, "fixed_shapes", request.param == "fixed")
        return serve(folder, root, TASK, shapes=[*SHAPES, {"batch": 1, "sequence": 12}])


def written(served: Served, text: str, **options: Any) -> str:
    """What Transformers writes: its tokenizer, `generate`, and its tokenizer again."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(served.folder, local_files_only=True)
    model = served.model("AutoModelForSeq2SeqLM")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        tokens = model.generate(**tokenizer(text, return_tensors="pt"), **options)[0]
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


@pytest.mark.parametrize("beams", [None, 1, 2, 3])
def test_texts_are_those_of_generate(marian: Served, beams: int | None) -> None:
    options = {} if beams is None else {"num_beams": beams}

    answers = marian.predict(TEXTS, **options)

    assert answers == [{"generated_text": written(marian, text, **options)} for text in TEXTS]
    assert len({answer["generated_text"] for answer in answers}) == len(TEXTS)


def test_answer_is_no_longer_than_asked(marian: Served) -> None:
    assert marian.predict(TEXTS[0], max_length=6) == [{"generated_text": written(marian, TEXTS[0], max_length=6)}]


def test_search_ends_at_the_next_token_once_nobody_waits(marian: Served) -> None:
    from torchscript_operator.serve.rows import AbandonedError, Row

    arrays = padded(40, 6)
    row = Row({name: array[0] for name, array in arrays.items() if name != "token_type_ids"}, 6, "outputs")
    asked: list[int] = []

    def wanted() -> bool:
        asked.append(1)
        return len(asked) < 3

    with pytest.raises(AbandonedError):
        marian.loaded.runner.run([row], alone=True, wanted=wanted)
    assert len(asked) == 3


def test_tensors_give_the_tokens_written(marian: Served) -> None:
    import torch

    arrays = padded(tiny.vocabulary_size(marian.folder), 9, 4)
    inputs = {name: arrays[name] for name in ("input_ids", "attention_mask")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        expected = marian.model("AutoModelForSeq2SeqLM").generate(
            **{name: torch.from_numpy(array) for name, array in inputs.items()}
        )

    found = marian.infer(inputs)["sequences"]

    assert found.shape == (2, marian.manifest.generation.maximum_length if marian.manifest.generation else 0)
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected.numpy())
    assert (found[:, expected.shape[1] :] == 0).all()


def test_manifest_describes_both_parts_and_how_sequences_are_written(marian: Served) -> None:
    manifest = marian.manifest

    assert manifest.generation is not None
    assert (manifest.generation.beams, manifest.generation.maximum_length) == (3, 24)
    assert manifest.generation.forced_last_tokens == (3,)
    assert [spec.name for spec in manifest.inputs] == ["input_ids", "attention_mask"]
    assert [(spec.name, spec.dtype, spec.agreement) for spec in manifest.outputs] == [("sequences", "INT64", "token")]
    assert [part.name for part in manifest.parts] == ["encoder", "decoder"]
    assert {entry.part for entry in manifest.files if entry.role == "model"} == {"encoder", "decoder"}
    assert {figure.output for figure in manifest.parity.outputs} == {
        "encoder_hidden_states",
        "next_token_logits",
        "sequences",
    }


def test_shared_embedding_is_untied_from_the_head_in_the_decoder(marian: Served) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = torch.jit.load(str(marian.file("decoder"))).state_dict()  # type: ignore[no-untyped-call]
    size = tiny.vocabulary_size(marian.folder)
    tables = [value for value in state.values() if value.ndim == 2 and value.shape[0] == size]

    assert marian.manifest.untied_weights >= 1
    assert len(tables) == 2
    assert torch.equal(*tables)
    assert tables[0].data_ptr() != tables[1].data_ptr()


def test_fixed_shapes_have_a_file_for_each_part_and_bucket(marian: Served) -> None:
    dynamic = all(axis.kind == "dynamic" for axis in marian.manifest.inputs[0].axes)
    names = sorted(entry.name for entry in marian.manifest.files if entry.role == "model")

    if dynamic:
        assert names == ["decoder.pt", "encoder.pt"]
    else:
        assert names == ["decoder-b1-s12.pt", "decoder-b2-s24.pt", "encoder-b1-s12.pt", "encoder-b2-s24.pt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_beams": 4}, "3 that the artifact was made"), ({"max_length": 25}, "add a longer shape")],
)
def test_more_than_was_proven_is_refused(marian: Served, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        marian.predict(TEXTS[0], **options)


@pytest.mark.parametrize(
    "settings",
    [
        {"length_penalty": 2.0, "early_stopping": True},
        {"length_penalty": 0.0, "early_stopping": "never"},
        {"length_penalty": -1.0, "num_beams": 2, "renormalize_logits": True},
        {"bad_words_ids": [[0], [7]], "suppress_tokens": [9, 10], "forced_bos_token_id": 12},
        {"num_beams": 1, "forced_eos_token_id": None},
    ],
)
def test_search_follows_the_generation_config(tmp_path: Path, settings: dict[str, Any]) -> None:
    served = serve(tiny.write_marian(tmp_path / "model", **settings), tmp_path, TASK)

    assert served.predict(TEXTS) == [{"generated_text": written(served, text)} for text in TEXTS]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"no_repeat_ngram_size": 3}, "sets no_repeat_ngram_size"),
        ({"repetition_penalty": 1.5}, "sets repetition_penalty"),
        ({"num_beam_groups": 3}, "sets num_beam_groups"),
        ({"do_sample": True}, "asks for sampling"),
        ({"bad_words_ids": [[7, 8]]}, "several tokens"),
    ],
)
def test_generation_config_that_is_not_understood_fails_the_export(
    tmp_path: Path, settings: dict[str, Any], found: str
) -> None:
    outcome = export(tiny.write_marian(tmp_path / "model", **settings), tmp_path, TASK)

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.stage) == (FailureReason.TASK_MISMATCH, "load")
    assert found in outcome.failure.message


LOWER = {"minimumAgreement": "0", "minimumCosineSimilarity": "0.9", "absoluteTolerance": "10"}
"""Small random models decide by a hair's breadth, so that rounding changes words; trained ones do less."""


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_lower_precision_is_compiled_into_both_parts_and_served(tmp_path: Path, precision: str) -> None:
    compilation = {"precision": precision} | ({"searchSeconds": 60} if precision == "int8" else {})
    folder = tiny.write_marian(tmp_path / "model")

    plain = serve(folder, tmp_path / "plain", TASK)
    lower = serve(folder, tmp_path / "lower", TASK, compilation=compilation, parity=LOWER)

    assert lower.manifest.precision == precision
    for part in ("encoder", "decoder"):
        assert lower.file(part).stat().st_size < plain.file(part).stat().st_size
    assert all(answer["generated_text"] for answer in lower.predict(TEXTS))
    hidden = next(one for one in lower.manifest.parity.outputs if one.output == "encoder_hidden_states")
    assert float(hidden.maximum_absolute_difference) > 0
    if precision == "int8":
        assert lower.manifest.candidates[0].quantized_layers + len(lower.manifest.kept_layers) == 33
        assert {name.partition(".")[0] for name in lower.manifest.kept_layers} <= {"encoder", "decoder"}


def test_auto_takes_the_fastest_form_that_writes_the_same(tmp_path: Path) -> None:
    compilation = {"precision": "auto", "searchSeconds": 60}

    outcome = export(tiny.write_marian(tmp_path / "model"), tmp_path, TASK, compilation=compilation)

    assert outcome.succeeded, outcome.failure
    assert outcome.candidates[0].chosen
    assert outcome.candidates[0].verdict == "Passed"
    assert {row.precision for row in outcome.candidates} == {"float32", "bfloat16", "int8"}


@pytest.fixture(scope="module")
def opus(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A model with the tokenizer files that OPUS-MT's models have, which no version of Transformers reads fast."""
    root = tmp_path_factory.mktemp("opus")
    return serve(tiny.write_marian(root / "model", tiny.write_sentencepiece), root, TASK)


OPUS_TEXTS = ["the cat sat on the mat.", " the  dog,and the window ", ">>deu<< the cat", "windows"]


def slow_tokenizer(served: Served) -> Any:
    import transformers

    with warnings.catch_warnings():
        # It recommends a package for normalising punctuation.
        warnings.simplefilter("ignore")
        return transformers.AutoTokenizer.from_pretrained(served.folder, local_files_only=True)


@pytest.mark.parametrize("text", [*OPUS_TEXTS, "\uff57indow \u0436\u0436", "the </s> cat"])
def test_sentencepiece_ids_are_those_of_transformers(opus: Served, text: str) -> None:
    assert opus.loaded.tokenizing.tokenizer.encode(text).ids == slow_tokenizer(opus)(text)["input_ids"]


def test_sentencepiece_answers_are_those_of_transformers(opus: Served) -> None:
    import torch

    tokenizer, model = slow_tokenizer(opus), opus.model("AutoModelForSeq2SeqLM")
    expected = []
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for text in OPUS_TEXTS:
            tokens = model.generate(**tokenizer(text, return_tensors="pt"))[0]
            expected.append({"generated_text": tokenizer.decode(tokens, skip_special_tokens=True)})

    assert opus.predict(OPUS_TEXTS) == expected
    assert any(" " in answer["generated_text"] for answer in expected)
