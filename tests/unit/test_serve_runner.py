from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.artifacts import TOLERANCES
from tests.unit.serving import INPUTS, WIDTH, Toy, toy_manifest, toy_runner
from torchscript_operator.artifact.failures import WorkerError
from torchscript_operator.artifact.golden import GoldenCase
from torchscript_operator.artifact.manifest import Axis, Parity, Pooling, TensorSpec
from torchscript_operator.artifact.request import Shape
from torchscript_operator.serve.loading import ReplayError, check_proven, replay, warm_up
from torchscript_operator.serve.rows import Row, Want
from torchscript_operator.serve.runner import TorchRunner
from torchscript_operator.serve.tasks.feature_extraction import pool

KINDS = st.sampled_from(["dynamic", "fixed"])
IDS = st.lists(st.integers(1, 60), min_size=1, max_size=16)


def make_row(ids: list[int], want: Want) -> Row:
    array = np.array(ids, dtype=np.int64)
    return Row(dict(zip(INPUTS, (array, np.ones_like(array), np.zeros_like(array)), strict=True)), len(ids), want)


def alone(ids: list[int], want: Want) -> Any:
    return toy_runner().run([make_row(ids, want)], alone=True).results[0]


@settings(max_examples=60)
@given(KINDS, KINDS, st.lists(st.tuples(IDS, st.sampled_from(["answer", "outputs"])), min_size=1, max_size=4))
def test_company_and_padding_change_no_result(
    batch: str, sequence: str, given_rows: list[tuple[list[int], Any]]
) -> None:
    runner = toy_runner(toy_manifest(batch=batch, sequence=sequence))
    rows = [make_row(ids, want) for ids, want in given_rows]
    for (ids, want), result in zip(given_rows, runner.run(rows, alone=False).results, strict=True):
        if want == "answer":
            np.testing.assert_allclose(result, alone(ids, want), rtol=1e-5, atol=1e-6)
        else:
            assert result["last_hidden_state"].shape == (len(ids), WIDTH)
            np.testing.assert_allclose(
                result["last_hidden_state"], alone(ids, want)["last_hidden_state"], rtol=1e-5, atol=1e-6
            )


def test_fixed_axes_run_at_their_buckets_only() -> None:
    toy = Toy()
    runner = toy_runner(toy_manifest(batch="fixed", sequence="fixed"), toy)
    computed = runner.run([make_row([1, 2, 3], "answer"), make_row([4] * 12, "answer")], alone=True)
    assert toy.sizes == [(4, 16)]
    assert computed.padded_tokens == 64


def test_rows_that_fill_a_bucket_repeat_a_real_row() -> None:
    seen: list[torch.Tensor] = []

    class Spy(Toy):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> tuple[torch.Tensor]:
            seen.append(mask)
            return super().forward(ids, mask, types)

    toy_runner(toy_manifest(batch="fixed", sequence="fixed"), Spy()).run(
        [make_row([1, 2, 3], "answer"), make_row([4], "answer")], alone=True
    )
    assert seen[0].sum(dim=1).tolist() == [3, 1, 3, 3]


def test_the_capacity_is_bounded_by_rows_tokens_and_buckets() -> None:
    assert toy_runner(maximum_rows=8).capacity(4) == 8
    assert toy_runner(maximum_rows=8).capacity(16) == 4
    assert toy_runner(maximum_rows=8).capacity(1000) == 1
    assert toy_runner(toy_manifest(batch="fixed", sequence="fixed")).capacity(8) == 4


def test_a_model_without_a_mask_does_not_mix_lengths() -> None:
    found = toy_manifest(inputs=toy_manifest().inputs[:1])
    assert not toy_runner(found).mixed_lengths


def test_each_shape_runs_in_its_own_file() -> None:
    found = toy_manifest(batch="fixed", sequence="fixed")
    toys: dict[Shape | None, Toy] = {shape: Toy() for shape in found.shapes}
    runner = TorchRunner(found, toys, toy_runner(found).task, pad_id=0, maximum_rows=8, maximum_tokens=64)
    runner.run([make_row([1] * 9, "answer")], alone=True)
    assert [shape for shape, toy in toys.items() if toy.sizes] == [Shape(batch=4, sequence=16)]


def test_a_model_with_other_outputs_than_its_manifest_is_an_error() -> None:
    class Two(Toy):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> Any:
            return super().forward(ids, mask, types) * 2

    with pytest.raises(RuntimeError, match="2 outputs"):
        toy_runner(toy=Two()).run([make_row([1], "answer")], alone=True)


def test_an_output_with_a_vector_for_each_text_is_the_answer() -> None:
    axes = (Axis(name="batch", kind="dynamic"), Axis(name="feature", kind="fixed", size=WIDTH))
    found = toy_manifest(
        outputs=(*toy_manifest().outputs, TensorSpec(name="sentence_embedding", dtype="FP32", axes=axes))
    )

    class Pooled(Toy):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> Any:
            return *super().forward(ids, mask, types), torch.full((len(ids), WIDTH), 7.0)

    assert toy_runner(found, Pooled()).run([make_row([1], "answer")], alone=True).results[0].tolist() == [7.0] * WIDTH


def golden_case(ids: list[list[int]], error: float = 0.0) -> GoldenCase:
    inputs = dict(zip(INPUTS, (np.array(ids), np.ones_like(ids), np.zeros_like(ids)), strict=True))
    return GoldenCase(
        "b2-s4", inputs, {"last_hidden_state": toy_runner().run_arrays(inputs)["last_hidden_state"] + error}
    )


def test_a_replay_that_agrees_gives_its_figures() -> None:
    (figure,) = replay(toy_runner(), [golden_case([[1, 2, 3, 4], [5, 6, 7, 8]])])
    assert (figure.shape, figure.rows, figure.passed) == ("golden:b2-s4", 8, True)


def test_a_replay_that_differs_fails_with_figures() -> None:
    with pytest.raises(ReplayError, match="last_hidden_state at golden:b2-s4") as caught:
        replay(toy_runner(), [golden_case([[1, 2, 3, 4]], error=0.5)])
    assert caught.value.exit_code == 90
    assert not caught.value.outputs[0].passed


def test_a_replay_of_nothing_fails() -> None:
    with pytest.raises(ReplayError, match="nothing"):
        replay(toy_runner(), [])


def test_a_golden_case_without_an_output_fails() -> None:
    case = golden_case([[1, 2]])
    case.outputs.clear()
    with pytest.raises(ReplayError):
        replay(toy_runner(), [case])


def test_with_the_policy_warn_a_difference_is_served(caplog: pytest.LogCaptureFixture) -> None:
    tolerances = TOLERANCES.model_copy(update={"policy": "Warn"})
    found = toy_manifest(parity=Parity(verdict="Failed", tolerances=tolerances, outputs=()))
    (figure,) = replay(toy_runner(found), [golden_case([[1, 2]], error=0.5)])
    assert not figure.passed
    assert "differs" in caplog.text


def test_an_artifact_that_failed_its_gate_is_not_served() -> None:
    failed = Parity(verdict="Failed", tolerances=TOLERANCES, outputs=())
    with pytest.raises(WorkerError, match="parity gate") as caught:
        check_proven(toy_manifest(parity=failed))
    assert caught.value.exit_code == 84


def test_an_artifact_that_failed_under_the_policy_warn_is_served() -> None:
    tolerances = TOLERANCES.model_copy(update={"policy": "Warn"})
    check_proven(toy_manifest(parity=Parity(verdict="Failed", tolerances=tolerances, outputs=())))


def test_warming_up_runs_every_declared_shape() -> None:
    toy = Toy()
    warm_up(toy_runner(toy=toy))
    assert {Shape(batch=size[0], sequence=size[1]) for size in toy.sizes} == set(toy_manifest().shapes)


TOKENS = np.array([[[1.0, 2.0], [3.0, -4.0], [100.0, 100.0]]], dtype=np.float32)
MASK = np.array([[1, 1, 0]])


@pytest.mark.parametrize(
    ("mode", "normalize", "vector"),
    [
        ("mean", False, [2.0, -1.0]),
        ("max", False, [3.0, 2.0]),
        ("cls", False, [1.0, 2.0]),
        ("mean", True, [0.8944272, -0.4472136]),
    ],
)
def test_pooling_leaves_padding_out(mode: Any, normalize: bool, vector: list[float]) -> None:
    pooled = pool(TOKENS, MASK, Pooling(mode=mode, normalize=normalize, origin="default"))
    np.testing.assert_allclose(pooled, [vector], rtol=1e-6)
