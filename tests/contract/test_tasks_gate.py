"""Mutation tests of the gate for the outputs of heads and of generation: what is broken on purpose must not pass."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.contract import tiny
from tests.contract.tasking import export
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.artifact.outcome import ExportOutcome

LOOSE = {
    "absoluteTolerance": "1e3",
    "relativeTolerance": "1e3",
    "minimumCosineSimilarity": "-1",
    "minimumAgreement": "1",
}
"""Lets any values through, so that only what the outputs decide can fail."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a task to the folder of its model."""
    found: dict[str, Path] = {}

    def get(task: str) -> Path:
        if task not in found:
            folder = tmp_path_factory.mktemp(task) / "model"
            if task == "text2text-generation":
                found[task] = tiny.write_marian(folder)
            else:
                found[task] = tiny.write_head(folder, task, "Bert")
        return found[task]

    return get


def broken(
    monkeypatch: pytest.MonkeyPatch, folder: Path, root: Path, task: str, change: Callable[..., Any], **changes: Any
) -> ExportOutcome:
    """Export with a forward of change(module, *inputs) in place of each traced module's."""
    from torch import nn

    from torchscript_operator.export.backends.torchscript import TorchScript

    compile_right = TorchScript.compile

    class Around(nn.Module):
        def __init__(self, module: Any) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *inputs: Any) -> Any:
            return change(self.inner, *inputs)

    def compile_wrong(self: Any, module: Any, example: Sequence[Any], file: Path, provenance: Any) -> Any:
        return compile_right(self, Around(copy.deepcopy(module)).eval(), example, file, provenance)

    monkeypatch.setattr(TorchScript, "compile", compile_wrong)
    return export(folder, root, task, **changes)


def ignore_mask(inner: Any, ids: Any, mask: Any, types: Any) -> Any:
    import torch

    return inner(ids, torch.ones_like(mask), types)


def ignore_segments(inner: Any, ids: Any, mask: Any, types: Any) -> Any:
    return inner(ids, mask, types * 0)


def swap_outputs(inner: Any, *inputs: Any) -> Any:
    return inner(*inputs)[::-1]


def shift_tokens(inner: Any, *inputs: Any) -> Any:
    return tuple(output.roll(1, 1) for output in inner(*inputs))


def swap_classes(inner: Any, *inputs: Any) -> Any:
    return tuple(output.flip(-1) for output in inner(*inputs))


def swap_rows(inner: Any, *inputs: Any) -> Any:
    return tuple(output.flip(0) for output in inner(*inputs))


def perturb_embedding(inner: Any, *inputs: Any) -> Any:
    """Only the copy that scores: the tie is lost, as when one side is trained on."""
    (scores,) = inner(*inputs)
    return (scores * (1 + 1e-3),)


MUTATIONS = [
    ("fill-mask", ignore_mask),
    ("fill-mask", perturb_embedding),
    ("fill-mask", shift_tokens),
    ("text-classification", ignore_segments),
    ("text-classification", swap_classes),
    ("token-classification", ignore_mask),
    ("token-classification", shift_tokens),
    ("token-classification", swap_classes),
    ("question-answering", swap_outputs),
    ("question-answering", ignore_segments),
    ("question-answering", shift_tokens),
    ("multiple-choice", swap_rows),
    ("multiple-choice", ignore_mask),
]


@pytest.mark.parametrize(("task", "mutation"), MUTATIONS)
def test_broken_export_of_a_head_fails(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, mutation: Callable[..., Any]
) -> None:
    outcome = broken(monkeypatch, folders(task), tmp_path, task, mutation)

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.PARITY_FAILED
    assert outcome.artifact is None


DECISIONS = [
    ("fill-mask", shift_tokens, {"logits"}),
    ("text-classification", swap_classes, {"logits"}),
    ("token-classification", swap_classes, {"logits"}),
    ("question-answering", shift_tokens, {"start_logits", "end_logits"}),
    ("multiple-choice", swap_rows, {"logits"}),
]


@pytest.mark.parametrize(("task", "mutation", "outputs"), DECISIONS)
def test_wrong_decisions_fail_by_themselves(
    folders: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    mutation: Callable[..., Any],
    outputs: set[str],
) -> None:
    outcome = broken(monkeypatch, folders(task), tmp_path, task, mutation, parity=LOOSE)

    assert outcome.parity is not None
    assert {figure.output for figure in outcome.parity.outputs if not figure.passed} == outputs
    assert all(float(figure.agreement or 1) < 1 for figure in outcome.parity.outputs if not figure.passed)


def perturb_weight(layers: list[Any]) -> None:
    """One number of one matrix."""
    layers[len(layers) // 2].weight.data[3, 5] += 0.5


def transpose_weight(layers: list[Any]) -> None:
    """Both axes of one matrix."""
    square = [layer for layer in layers if layer.weight.shape[0] == layer.weight.shape[1]]
    chosen = square[len(square) // 2]
    chosen.weight.data = chosen.weight.data.T.contiguous()


@pytest.mark.parametrize("task", [*tiny.HEADS, "text2text-generation"])
@pytest.mark.parametrize("spoil", [perturb_weight, transpose_weight])
def test_one_wrong_matrix_fails_for_every_task(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, spoil: Callable[[list[Any]], None]
) -> None:
    from torch import nn

    from torchscript_operator.export.backends.torchscript import TorchScript

    compile_right = TorchScript.compile

    def compile_wrong(self: Any, module: Any, example: Sequence[Any], file: Path, provenance: Any) -> Any:
        spoiled = copy.deepcopy(module)
        spoil([layer for layer in spoiled.modules() if isinstance(layer, nn.Linear)])
        return compile_right(self, spoiled.eval(), example, file, provenance)

    monkeypatch.setattr(TorchScript, "compile", compile_wrong)

    outcome = export(folders(task), tmp_path, task)

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.PARITY_FAILED
    assert {path.name for path in (tmp_path / "store").rglob("*") if path.is_file()} == {"report.json", "report.html"}


def is_decoder(inputs: tuple[Any, ...]) -> bool:
    return len(inputs) == 4


def late_index(inner: Any, *inputs: Any) -> Any:
    if not is_decoder(inputs):
        return inner(*inputs)
    ids, mask, hidden, index = inputs
    return inner(ids, mask, hidden, (index - 1).clamp(min=0))


def ignore_what_is_padded(inner: Any, *inputs: Any) -> Any:
    """Let the decoder look at states of padding."""
    import torch

    if not is_decoder(inputs):
        return inner(*inputs)
    ids, mask, hidden, index = inputs
    return inner(ids, torch.ones_like(mask), hidden, index)


def lose_bias(inner: Any, *inputs: Any) -> Any:
    (values,) = inner(*inputs)
    return (values - inner.bias,) if is_decoder(inputs) else (values,)


def encode_without_mask(inner: Any, *inputs: Any) -> Any:
    import torch

    if is_decoder(inputs):
        return inner(*inputs)
    return inner(inputs[0], torch.ones_like(inputs[1]))


def look_ahead(inner: Any, *inputs: Any) -> Any:
    """Let what is padding behind the last token play a part."""
    if not is_decoder(inputs):
        return inner(*inputs)
    (scores,) = inner(*inputs)
    return (scores + 0.1 * (inputs[0][:, -1:] == 0),)


@pytest.mark.parametrize(
    "mutation", [late_index, ignore_what_is_padded, lose_bias, encode_without_mask, look_ahead, swap_rows, swap_classes]
)
def test_broken_translator_fails(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutation: Callable[..., Any]
) -> None:
    outcome = broken(monkeypatch, folders("text2text-generation"), tmp_path, "text2text-generation", mutation)

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.PARITY_FAILED
    assert outcome.artifact is None


def test_wrong_tokens_fail_by_themselves(folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = broken(
        monkeypatch, folders("text2text-generation"), tmp_path, "text2text-generation", late_index, parity=LOOSE
    )

    assert outcome.parity is not None
    failed = {figure.output for figure in outcome.parity.outputs if not figure.passed}
    assert failed == {"next_token_logits", "sequences"}


def test_search_that_goes_wrong_over_right_parts_fails(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchscript_operator.artifact import generation

    monkeypatch.setattr(generation._Beams, "_can_improve", lambda *_: False)
    monkeypatch.setattr(generation, "log_softmax", lambda scores: scores)

    outcome = export(folders("text2text-generation"), tmp_path, "text2text-generation")

    assert outcome.failure is not None
    assert outcome.parity is not None
    assert {figure.output for figure in outcome.parity.outputs if not figure.passed} == {"sequences"}
