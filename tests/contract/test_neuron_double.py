"""The doubles themselves: they refuse calls that the documentation does not know, and run nowhere without a device."""

import importlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract import neuron


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    for _ in neuron.importable(monkeypatch):
        yield {name: importlib.import_module(name) for name in neuron.RUNTIMES}


def module_and_inputs() -> tuple[Any, tuple[Any, ...]]:
    import torch

    class Doubled(torch.nn.Module):
        def forward(self, ids: Any) -> tuple[Any, ...]:
            return (ids.float() / 3,)

    return Doubled().eval(), (torch.ones((2, 4), dtype=torch.int64),)


@pytest.mark.parametrize(
    ("runtime", "keywords"),
    [
        ("torch_neuron", {"compiler_args": "--fast-math none"}),
        ("torch_neuron", {"compiler_timeout": "60"}),
        ("torch_neuron", {"fallback": None}),
        ("torch_neuron", {"compiler_argz": []}),
        ("torch_neuronx", {"compiler_args": "--auto-cast none"}),
        ("torch_neuronx", {"compiler_timeout": 60}),
        ("torch_neuronx", {"fallback": True}),
    ],
)
def test_keyword_of_another_type_or_name_is_refused(
    runtimes: dict[str, Any], runtime: str, keywords: dict[str, Any]
) -> None:
    with pytest.raises((TypeError, RuntimeError)):
        runtimes[runtime].trace(*module_and_inputs(), **keywords)


def test_third_argument_by_position_is_refused(runtimes: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        runtimes["torch_neuron"].trace(*module_and_inputs(), ["--fast-math", "none"])


@pytest.mark.parametrize(
    ("runtime", "arguments"),
    [
        ("torch_neuron", ["--fast-math", "some"]),
        ("torch_neuronx", ["--auto-cast", "matmul"]),
        ("torch_neuronx", ["--fast-math", "none"]),
    ],
)
def test_flag_that_the_compiler_does_not_have_is_refused(
    runtimes: dict[str, Any], runtime: str, arguments: list[str]
) -> None:
    with pytest.raises(ValueError, match="error: "):
        runtimes[runtime].trace(*module_and_inputs(), compiler_args=arguments)


def test_compiling_without_a_device_needs_target_and_variable(
    runtimes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSM_NEURON_DOUBLE_DEVICE", "absent")
    trace = runtimes["torch_neuronx"].trace
    with pytest.raises(RuntimeError, match="could not be initialized"):
        trace(*module_and_inputs())
    with pytest.raises(ValueError, match="--target"):
        trace(*module_and_inputs(), cpu_backend=True)


@pytest.mark.parametrize("runtime", neuron.RUNTIMES)
def test_compiled_module_runs_on_the_device_alone_and_at_its_own_size(
    runtimes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    module, inputs = module_and_inputs()
    traced = runtimes[runtime].trace(module, inputs)
    assert traced(*inputs)[0].shape == (2, 4)
    with pytest.raises(RuntimeError, match="compiled for"):
        traced(inputs[0][:1])
    monkeypatch.setenv("TSM_NEURON_DOUBLE_DEVICE", "absent")
    with pytest.raises(RuntimeError, match="could not be initialized"):
        traced(*inputs)


def test_default_of_the_old_compiler_rounds_to_bfloat16(runtimes: dict[str, Any]) -> None:
    module, inputs = module_and_inputs()
    trace = runtimes["torch_neuron"].trace
    exact = trace(module, inputs, compiler_args=["--fast-math", "none"])(*inputs)[0]
    rounded = trace(module, inputs)(*inputs)[0]
    assert exact[0, 0].item() == pytest.approx(1 / 3)
    assert abs(rounded[0, 0].item() - 1 / 3) > 1e-4


def test_file_loads_only_after_the_import(runtimes: dict[str, Any], tmp_path: Path) -> None:
    import torch

    buffer = io.BytesIO()
    torch.jit.save(runtimes["torch_neuron"].trace(*module_and_inputs()), buffer)
    (tmp_path / "model.pt").write_bytes(buffer.getvalue())
    code = f"import torch; torch.jit.load({str(tmp_path / 'model.pt')!r})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Unknown builtin op: neuron::" in done.stderr
