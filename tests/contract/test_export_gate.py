"""A mutation test of the gate: exports that are broken on purpose have to fail parity and publish nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.contract.exporting import TOLERANCES, make_request
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.artifact.outcome import ExportOutcome
from torchscript_operator.artifact.request import ExportRequest
from torchscript_operator.export.backends.torchscript import TorchScript
from torchscript_operator.export.pipeline import run

WARN = {"parity": TOLERANCES | {"policy": "Warn"}}


@pytest.fixture
def request_for(tiny_folder: Path, tmp_path: Path) -> Callable[..., ExportRequest]:
    return lambda **changes: make_request(tiny_folder, tmp_path / "store", **changes)


def mutate(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    """Let the backend compile `change(module)` in place of the module."""
    compile_right = TorchScript.compile

    def compile_wrong(self: TorchScript, module: Any, example: Sequence[Any], file: Path, provenance: Any) -> None:
        import copy

        compile_right(self, change(copy.deepcopy(module)).eval(), example, file, provenance)

    monkeypatch.setattr(TorchScript, "compile", compile_wrong)


def around(module: Any, forward: Callable[..., Any]) -> Any:
    """A module whose forward is forward(module, *inputs)."""
    from torch import nn

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *inputs: Any) -> Any:
            return forward(self.inner, *inputs)

    return Around()


def perturb_weight(module: Any) -> Any:
    module.model.encoder.layer[1].output.dense.weight.data[3, 5] += 0.05
    return module


def ignore_mask(module: Any) -> Any:
    import torch

    return around(module, lambda inner, ids, mask, types: inner(ids, torch.ones_like(mask), types))


def ignore_mask_in_attention_only(module: Any) -> Any:
    """Pool with the mask, but let tokens attend to padding."""
    import torch

    from torchscript_operator.export.wrapper import pool

    def forward(inner: Any, ids: Any, mask: Any, types: Any) -> Any:
        hidden = inner(ids, torch.ones_like(mask), types)[0]
        return hidden, pool(hidden, mask, inner.pooling)

    return around(module, forward)


def ignore_mask_in_pooling(module: Any) -> Any:
    import torch

    from torchscript_operator.export.wrapper import pool

    def forward(inner: Any, ids: Any, mask: Any, types: Any) -> Any:
        hidden = inner(ids, mask, types)[0]
        return hidden, pool(hidden, torch.ones_like(mask), inner.pooling)

    return around(module, forward)


def swap_sequence(module: Any) -> Any:
    return around(module, lambda inner, *inputs: (inner(*inputs)[0].flip(1), inner(*inputs)[1]))


def swap_rows(module: Any) -> Any:
    return around(module, lambda inner, *inputs: tuple(output.flip(0) for output in inner(*inputs)))


def swap_outputs(module: Any) -> Any:
    return around(module, lambda inner, *inputs: inner(*inputs)[::-1])


def drop_output(module: Any) -> Any:
    return around(module, lambda inner, *inputs: inner(*inputs)[:1])


def put_nan_in_one_row(module: Any) -> Any:
    def forward(inner: Any, *inputs: Any) -> Any:
        hidden, embedding = inner(*inputs)
        embedding = embedding.clone()
        embedding[0, 0] = float("nan")
        return hidden, embedding

    return around(module, forward)


def round_to_bfloat16(module: Any) -> Any:
    import torch

    return around(module, lambda inner, *inputs: tuple(o.to(torch.bfloat16).float() for o in inner(*inputs)))


def bake_in_the_example(module: Any) -> Any:
    """What a trace of data-dependent code does: the example's answer for every input."""

    def forward(inner: Any, *inputs: Any) -> Any:
        return tuple(output.detach().clone() + 0 * inputs[0].sum() for output in inner(*(i.clone() for i in inputs)))

    import torch

    def frozen(inner: Any, *inputs: Any) -> Any:
        with torch.no_grad():
            constants = [torch.tensor(output.tolist()) for output in forward(inner, *inputs)]
        return tuple(constant + 0 * inputs[0].sum() for constant in constants)

    return around(module, frozen)


MUTATIONS = [
    perturb_weight,
    ignore_mask,
    ignore_mask_in_attention_only,
    ignore_mask_in_pooling,
    swap_sequence,
    swap_rows,
    swap_outputs,
    drop_output,
    put_nan_in_one_row,
    round_to_bfloat16,
    bake_in_the_example,
]


def stored(root: Path) -> set[str]:
    return {path.name for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_broken_export_fails_parity_and_publishes_only_its_report(
    request_for: Callable[..., ExportRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mutation: Callable[[Any], Any],
) -> None:
    mutate(monkeypatch, mutation)

    outcome = run(request_for(), {}, tmp_path / "scratch")

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.stage) == (FailureReason.PARITY_FAILED, "parity")
    assert outcome.artifact is None
    assert outcome.parity is not None
    assert outcome.parity.verdict == "Failed"
    assert stored(tmp_path / "store") == {"report.json", "report.html"}


def test_same_export_unbroken_passes(request_for: Callable[..., ExportRequest], tmp_path: Path) -> None:
    outcome = run(request_for(), {}, tmp_path / "scratch")

    assert outcome.succeeded, outcome.failure


def failed(request: ExportRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExportOutcome:
    mutate(monkeypatch, perturb_weight)
    return run(request, {}, tmp_path / "scratch")


def test_failure_says_which_output_differs_and_how_far(
    request_for: Callable[..., ExportRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = failed(request_for(), tmp_path, monkeypatch)

    assert outcome.failure is not None
    assert outcome.parity is not None
    worst = outcome.parity.outputs[0]
    assert f"{worst.output} at {worst.shape}" in outcome.failure.message
    assert worst.maximum_absolute_difference in outcome.failure.message
    assert outcome.parity.report is not None
    assert Path(outcome.parity.report.removeprefix("file://")).is_file()


def test_policy_warn_publishes_with_the_failed_verdict(
    request_for: Callable[..., ExportRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = failed(request_for(**WARN), tmp_path, monkeypatch)

    assert outcome.succeeded
    assert outcome.parity is not None
    assert outcome.parity.verdict == "Failed"
    assert "manifest.json" in stored(tmp_path / "store")


def test_artifact_published_under_warn_is_no_cache_hit_under_enforce(
    request_for: Callable[..., ExportRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned = failed(request_for(**WARN), tmp_path, monkeypatch)
    enforced = run(request_for(), {}, tmp_path / "scratch")

    assert warned.succeeded
    assert not enforced.succeeded
    assert warned.key != enforced.key
