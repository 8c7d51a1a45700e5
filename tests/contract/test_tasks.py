"""Every task with every declared architecture: the saved file gives the model's outputs, the server the pipeline's."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.contract import tiny
from tests.contract.tasking import Served, padded, serve

PAIRS = [(task, architecture) for task in tiny.HEADS for architecture in tiny.ARCHITECTURES]
AUTO_CLASSES = {
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "multiple-choice": "AutoModelForMultipleChoice",
}
SAMPLES: dict[str, list[Any]] = {
    "fill-mask": ["the cat [MASK] on the mat", "hello, the dog met a [MASK]."],
    "text-classification": ["the cat sat", {"text": "a dog looks out", "text_pair": "of the window"}],
    "token-classification": ["the cat met hello9 on the windowmat.", "a dog"],
    "question-answering": [{"question": "who sat", "context": "the cat sat on a mat and looks out of windows."}],
    "multiple-choice": [{"prompt": "the cat", "choices": ["sat on the mat", "met", "looks out of the dog"]}],
}


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A pod of each pair: that it loads shows that it replays its golden cases and warms up."""
    task, architecture = request.param
    root = tmp_path_factory.mktemp(f"{task}-{architecture}")
    return serve(tiny.write_head(root / "model", task, architecture), root, task)


def eager(served: Served, arrays: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    """The model's own outputs for a batch, called as Transformers documents it."""
    import torch

    names = [spec.name for spec in served.manifest.inputs]
    choice = served.manifest.task == "multiple-choice"
    tensors = {name: torch.from_numpy(arrays[name][None] if choice else arrays[name]) for name in names}
    with torch.no_grad():
        answer = served.model(AUTO_CLASSES[served.manifest.task])(**tensors)
    outputs = {spec.name: answer[spec.name].numpy() for spec in served.manifest.outputs}
    return {name: array.T for name, array in outputs.items()} if choice else outputs


def test_outputs_are_the_models(served: Served) -> None:
    arrays = padded(tiny.vocabulary_size(served.folder), 13, 21, 4)

    expected = eager(served, arrays)
    actual = served.infer({spec.name: arrays[spec.name] for spec in served.manifest.inputs})

    mask = arrays["attention_mask"] == 1
    for spec in served.manifest.outputs:
        kept = mask if any(axis.name == "sequence" for axis in spec.axes) else slice(None)
        assert actual[spec.name].shape == expected[spec.name].shape
        assert np.abs(actual[spec.name] - expected[spec.name])[kept].max() < 1e-4
    assert served.manifest.architecture == type(served.model(AUTO_CLASSES[served.manifest.task])).__name__


def test_answer_is_the_pipelines(served: Served) -> None:
    samples = SAMPLES[served.manifest.task]
    for sample in samples:
        if isinstance(sample, dict) and "text_pair" in sample and len(served.manifest.inputs) == 2:
            sample = sample["text"]  # noqa: PLW2901 - segments would be lost on it
        same(served.predict(sample), reference(served, sample))


def reference(served: Served, sample: Any, **options: Any) -> Any:
    """The pipeline's answer; what its rules give where Transformers has none (any more)."""
    import transformers
    from transformers.pipelines import SUPPORTED_TASKS

    task = served.manifest.task
    if task in SUPPORTED_TASKS:
        with warnings.catch_warnings():
            # The pipeline warns of heuristics that both sides use.
            warnings.simplefilter("ignore")
            pipeline = transformers.pipeline(task, model=str(served.folder), device="cpu")
            return pipeline(sample, **options)
    return {"question-answering": best_span, "multiple-choice": best_choices}[task](served, sample)


def best_span(served: Served, sample: dict[str, str]) -> dict[str, Any]:
    """The likeliest span of at most 15 tokens by trying all, widened to words by looking at the text."""
    tokenizer = served.loaded.tokenizing.tokenizer
    encoding = tokenizer.encode(sample["question"], sample["context"])
    arrays = {
        "input_ids": np.array([encoding.ids]),
        "attention_mask": np.ones((1, len(encoding.ids)), dtype=np.int64),
        "token_type_ids": np.array([encoding.type_ids]),
    }
    outputs = eager(served, arrays)
    context = [place for place, part in enumerate(encoding.sequence_ids) if part == 1]
    # The class token takes part in the probabilities, since it stands for "no answer".
    taken = [0, *context]
    start, end = (np.exp(outputs[name][0]) for name in ("start_logits", "end_logits"))
    start, end = start / start[taken].sum(), end / end[taken].sum()
    spans = [(start[i] * end[j], i, j) for i in context for j in context if i <= j < i + 15]
    answers: dict[str, list[Any]] = {}
    for score, i, j in sorted(spans, reverse=True)[:12]:
        begin, stop = (encoding.offsets[place][side] for place, side in ((i, 0), (j, 1)))
        # Of this tokenizer, words are letters and digits between spaces and punctuation.
        while begin > 0 and sample["context"][begin - 1 : begin + 1].isalnum():
            begin -= 1
        while sample["context"][stop - 1 : stop + 1].isalnum() and stop < len(sample["context"]):
            stop += 1
        found = answers.setdefault(sample["context"][begin:stop].lower(), [0.0, begin, stop])
        found[0] += score
    score, begin, stop = max(answers.values())
    return {"score": float(score), "start": begin, "end": stop, "answer": sample["context"][begin:stop]}


def best_choices(served: Served, sample: dict[str, Any]) -> list[dict[str, Any]]:
    """The softmax over the model's answer to all choices, padded to one length as (1, choices, sequence)."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(served.folder, local_files_only=True)
    choices = sample["choices"]
    encoded = tokenizer([sample["prompt"]] * len(choices), choices, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = served.model("AutoModelForMultipleChoice")(**{name: value[None] for name, value in encoded.items()})
    scores = logits.logits.softmax(-1)[0].tolist()
    return sorted(
        ({"index": index, "choice": choices[index], "score": score} for index, score in enumerate(scores)),
        key=lambda answer: -answer["score"],
    )


def same(actual: Any, expected: Any) -> None:
    """Equal, but for scores, which may differ by rounding."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            same(actual[name], value)
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            same(one, other)
    elif isinstance(expected, (float, np.floating)):
        assert actual == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    else:
        assert actual == expected


def test_tied_weights_are_untied_and_independent_in_the_file(served: Served) -> None:
    if served.manifest.task != "fill-mask":
        assert served.manifest.untied_weights == 0
        return
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.jit.load(str(served.file()))  # type: ignore[no-untyped-call]
    size = tiny.vocabulary_size(served.folder)
    tables = [value for value in loaded.state_dict().values() if value.ndim == 2 and value.shape[0] == size]

    assert served.manifest.untied_weights >= 1
    assert len(tables) == 2
    assert torch.equal(*tables)
    tables[0].zero_()
    assert tables[1].abs().sum() > 0


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function from a task to its BERT."""
    found: dict[str, Served] = {}

    def get(task: str) -> Served:
        if task not in found:
            root = tmp_path_factory.mktemp(task)
            found[task] = serve(tiny.write_head(root / "model", task, "Bert"), root, task)
        return found[task]

    return get


@pytest.mark.parametrize(
    ("sample", "options"),
    [
        ("the cat sat", {"top_k": 2}),
        ("the cat sat", {"top_k": None}),
        (["the cat sat", "a dog"], {"top_k": 1}),
        (["the cat sat", "a dog"], {}),
        ({"text": "the cat sat", "text_pair": "a dog"}, {}),
        ("the cat sat", {"function_to_apply": "none", "top_k": None}),
        ("the cat sat", {"function_to_apply": "sigmoid"}),
    ],
)
def test_options_of_text_classification_are_the_pipelines(bert: Any, sample: Any, options: dict[str, Any]) -> None:
    served = bert("text-classification")

    same(served.predict(sample, **options), reference(served, sample, **options))


@pytest.fixture(scope="module", params=["word pieces", "unigram"])
def tagger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A token classifier; with the second tokenizer the pipeline has to guess words by spaces."""
    root = tmp_path_factory.mktemp("tagger")
    tokenizer = {"word pieces": tiny.write_tokenizer, "unigram": tiny.write_unigram}[request.param]
    folder = tiny.write_head(root / "model", "token-classification", "Bert", tokenizer)
    return serve(folder, root, "token-classification")


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_aggregation_of_tokens_is_the_pipelines(tagger: Served, strategy: str) -> None:
    sample = "the cat met hello9 on the windowmat, and ? looks \u00fc out."
    options = {"aggregation_strategy": strategy}

    same(tagger.predict(sample, **options), reference(tagger, sample, **options))
    same(
        tagger.predict([sample, "a dog"], ignore_labels=["B-PER"], **options),
        reference(tagger, [sample, "a dog"], ignore_labels=["B-PER"], **options),
    )


@pytest.mark.parametrize(
    ("sample", "options"),
    [
        ("the [MASK] sat", {"top_k": 2}),
        ("the [MASK] sat on [MASK].", {}),
        (["the [MASK] sat", "a [MASK]"], {"top_k": 1}),
        (["the [MASK] sat"], {"top_k": 1}),
        ("the [MASK] sat", {"targets": ["cat", "mat"], "top_k": 5}),
    ],
)
def test_options_of_fill_mask_are_the_pipelines(bert: Any, sample: Any, options: dict[str, Any]) -> None:
    served = bert("fill-mask")

    same(served.predict(sample, **options), reference(served, sample, **options))


def test_token_vectors_are_the_pipelines(tiny_folder: Path, tmp_path: Path) -> None:
    served = serve(tiny_folder, tmp_path, "feature-extraction")

    for sample in ("the cat sat", ["the cat sat", "a dog"]):
        same(
            np.array(served.predict(sample)).tolist()
            if isinstance(sample, str)
            else [array.tolist() for array in served.predict(sample)],
            reference(served, sample),
        )


def test_long_context_is_read_in_windows_that_find_its_end(bert: Any) -> None:
    served = bert("question-answering")
    context = "the cat sat on the mat and looks out of the window " * 3 + "hello"

    answers = served.predict({"question": "who", "context": context}, top_k=200, align_to_words=False)

    assert all(context[answer["start"] : answer["end"]] == answer["answer"] for answer in answers)
    assert max(answer["end"] for answer in answers) == len(context)
    # However many are asked for, none is longer than an answer may be (15 tokens, some of them parts of words).
    assert max(len(answer["answer"].split()) for answer in answers) <= 15


def test_answers_of_windows_are_the_pipelines_of_version_4(bert: Any) -> None:
    from transformers.pipelines import SUPPORTED_TASKS

    served = bert("question-answering")
    sample = {"question": "who", "context": "the cat sat on the mat and looks out of the window. " * 3}
    for options in ({}, {"top_k": 4}, {"handle_impossible_answer": True}, {"align_to_words": False, "top_k": 3}):
        found = served.predict(sample, max_seq_len=24, doc_stride=6, **options)
        if "question-answering" in SUPPORTED_TASKS:
            same(found, reference(served, sample, max_seq_len=24, doc_stride=6, **options))
        assert found == served.predict([sample], max_seq_len=24, doc_stride=6, **options)[0]


def test_question_that_leaves_no_room_is_refused(bert: Any) -> None:
    from torchscript_operator.serve.tasks.base import InputError

    with pytest.raises(InputError, match="shorten the question"):
        bert("question-answering").predict({"question": "cat " * 30, "context": "dog " * 30})


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "fill-mask"])
def test_truncation_cuts_as_the_pipeline_does(bert: Any, task: str) -> None:
    served = bert(task)
    sample = "a [MASK] " + "the cat sat on the mat. " * 5
    longest = served.manifest.maximum_sequence

    answer = served.predict(sample, truncation=True)

    tokenizer = served.loaded.tokenizing.tokenizer
    cut = sample[: tokenizer.encode(sample).offsets[longest - 2][1]]
    expected = reference(served, cut)
    same(answer, expected)


@pytest.mark.parametrize(
    ("task", "sample", "options", "message"),
    [
        ("text-classification", 3, {}, "must be a text"),
        ("text-classification", [], {}, "inputs is empty"),
        ("text-classification", {"text_pair": "a"}, {}, "'text' is missing"),
        ("text-classification", "a", {"topk": 1}, "parameters.topk"),
        ("text-classification", "a", {"top_k": 0}, "parameters.top_k"),
        ("text-classification", "a", {"top_k": -1}, "parameters.top_k"),
        ("fill-mask", "no mask here", {}, r"\[MASK\]"),
        ("fill-mask", "a [MASK]", {"targets": []}, "targets"),
        ("token-classification", "a", {"aggregation_strategy": "median"}, "aggregation_strategy"),
        ("question-answering", {"question": "a"}, {}, "'context' is missing"),
        ("multiple-choice", {"prompt": "a", "choices": []}, {}, "list of texts"),
        ("multiple-choice", "a", {}, "prompt, choices"),
    ],
)
def test_inputs_that_make_no_sense_are_refused(
    bert: Any, task: str, sample: Any, options: dict[str, Any], message: str
) -> None:
    from torchscript_operator.serve.tasks.base import InputError

    with pytest.raises(InputError, match=message):
        bert(task).predict(sample, **options)


LONG = "the cat sat on the mat. " * 500


@pytest.mark.parametrize(
    ("task", "sample", "options", "message"),
    [
        # Windows that share all tokens but one are as many as there are tokens.
        ("question-answering", {"question": "who", "context": LONG}, {"doc_stride": 19}, "windows of 24 tokens"),
        ("question-answering", {"question": "who", "context": "a " * 140_000}, {}, "262144 characters"),
        ("question-answering", {"question": "who", "context": "a"}, {"max_answer_len": 513}, "max_answer_len"),
        ("question-answering", {"question": "who", "context": LONG[:200]}, {"top_k": 10**6}, "spell more than 600"),
        ("multiple-choice", {"prompt": "a", "choices": ["b"] * 41}, {}, "more than 40 rows"),
        (
            "multiple-choice",
            {"prompt": LONG[:900], "choices": ["b"] * 30},
            {"truncation": True},
            "more than 600 tokens",
        ),
        ("text-classification", ["the cat sat"] * 41, {}, "more than 40 rows"),
        ("fill-mask", "[MASK] " * 12, {"top_k": 100_000}, "spell more than 600 tokens"),
        ("fill-mask", "a [MASK]", {"targets": ["a"] * 4097}, "targets"),
        ("fill-mask", "a [MASK]", {"targets": "a" * 257}, "targets"),
    ],
)
def test_small_request_for_a_lot_of_work_is_refused(
    bert: Any, monkeypatch: pytest.MonkeyPatch, task: str, sample: Any, options: dict[str, Any], message: str
) -> None:
    from torchscript_operator.serve.tasks.base import Bounds, InputError

    served = bert(task)
    monkeypatch.setattr(served.loaded.task, "bounds", Bounds(40, 600))

    with pytest.raises(InputError, match=message):
        served.predict(sample, **options)


def test_choices_are_not_read_when_the_prompt_is_too_long(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchscript_operator.serve.buckets import TooLongError

    served = bert("multiple-choice")
    tokens, read = served.loaded.task.tokens, []

    def watched(*arguments: Any) -> Any:
        read.append(arguments[-1])
        return tokens(*arguments)

    monkeypatch.setattr(served.loaded.task, "tokens", watched)
    with pytest.raises(TooLongError, match="tokens are more than"):
        served.predict({"prompt": "the cat " * 20, "choices": ["a", "b", "c"]})
    assert read == ["a"]


def test_long_answers_are_made_beside_the_event_loop(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    served = bert("fill-mask")
    task, made_by = served.loaded.task, set()
    decode = task.decode

    def watched(*arguments: Any) -> Any:
        made_by.add(threading.current_thread())
        return decode(*arguments)

    monkeypatch.setattr(task, "decode", watched)
    few = served.predict("the [MASK] sat", top_k=2)
    assert made_by == {threading.main_thread()}
    made_by.clear()
    many = served.predict(["the [MASK] sat on the [MASK] and [MASK]"] * 9, top_k=30)
    assert threading.main_thread() not in made_by
    assert len(many) == 9
    assert many[0] == served.predict("the [MASK] sat on the [MASK] and [MASK]", top_k=30)
    assert len(few) == 2


def test_text_that_no_bucket_takes_is_refused_with_the_bucket_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchscript_operator.export.backends.torchscript import TorchScript
    from torchscript_operator.serve.buckets import TooLongError

    monkeypatch.setattr(TorchScript, "fixed_shapes", True)
    served = serve(tiny.write_head(tmp_path / "model", "text-classification", "Bert"), tmp_path, "text-classification")

    with pytest.raises(TooLongError, match=r"buckets: b2-s24.*add a longer shape to spec.inputs.shapes"):
        served.predict("the cat sat on the mat " * 9)
    assert served.predict("the cat") == served.predict(["the cat", "a dog", "hello"])[:1]


@pytest.mark.parametrize("fixed", [False, True], ids=["dynamic", "fixed"])
def test_golden_scores_of_a_large_vocabulary_are_cut_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixed: bool
) -> None:
    from torchscript_operator.artifact import golden
    from torchscript_operator.export import package
    from torchscript_operator.export.backends.torchscript import TorchScript

    monkeypatch.setattr(package, "MAXIMUM_GOLDEN_BYTES", 6000)
    monkeypatch.setattr(TorchScript, "fixed_shapes", fixed)
    folder = tiny.write_head(tmp_path / "model", "fill-mask", "Bert")

    served = serve(folder, tmp_path, "fill-mask", parity={"minimumAgreement": "0.9"})

    entry = next(entry for entry in served.manifest.files if entry.role == "golden")
    (case,) = golden.read(served.store / served.manifest.key / entry.path)
    assert case.outputs["logits"].size * 4 <= 6000
    assert case.inputs["input_ids"].shape < (2, 24)
    replayed = [figure for figure in served.manifest.parity.outputs if figure.shape == "golden:b2-s24"]
    assert [figure.passed for figure in replayed] == [True]
