from pathlib import Path

import numpy as np

from torchscript_operator.artifact import golden
from torchscript_operator.artifact.golden import GoldenCase


def case(name: str) -> GoldenCase:
    inputs = {"input_ids": np.arange(6, dtype=np.int64).reshape(2, 3)}
    outputs = {"last_hidden_state": np.full((2, 3, 4), 0.5, dtype=np.float32), "logits": np.ones((2, 1), np.float32)}
    return GoldenCase(name, inputs, outputs)


def test_cases_are_read_as_they_were_written(tmp_path: Path) -> None:
    golden.write(tmp_path / "golden", [case("b2-s3"), case("b1-s3")])

    found = golden.read(tmp_path / "golden")

    assert [item.name for item in found] == ["b1-s3", "b2-s3"]
    for item in found:
        np.testing.assert_array_equal(item.inputs["input_ids"], case("x").inputs["input_ids"])
        assert set(item.outputs) == {"last_hidden_state", "logits"}
        assert item.outputs["logits"].dtype == np.float32


def test_same_cases_give_the_same_bytes(tmp_path: Path) -> None:
    golden.write(tmp_path / "first", [case("a"), case("b")])
    golden.write(tmp_path / "second", [case("b"), case("a")])

    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_transposed_arrays_keep_their_values(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3).T
    golden.write(tmp_path / "golden", [GoldenCase("a", {}, {"logits": values})])

    np.testing.assert_array_equal(golden.read(tmp_path / "golden")[0].outputs["logits"], values)
