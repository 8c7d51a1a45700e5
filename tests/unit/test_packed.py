"""Linear layers that are packed as the file is loaded: what is swapped, what the file computes, and where it runs."""

import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchscript_operator.export import forms, precision
from torchscript_operator.export.backends.torchscript import TorchScript
from torchscript_operator.export.logs import Progress
from torchscript_operator.export.precision import FIXED_FORMS, Form, fixed_form, lower, missing_for
from torchscript_operator.export.search import Clock, Unavailable

PACKED = {"float32": Form(packed=True), "bfloat16": Form("bfloat16", packed=True)}
PRECISIONS = pytest.mark.parametrize("name", list(PACKED))
FRESH = """
import json, sys, torch
torch.set_grad_enabled(False)
module = torch.jit.load(sys.argv[1], map_location="cpu").eval()
found = module(torch.arange(12).reshape(2, 6))
print(json.dumps({
    "packed": module.module.model.first.saved.packed if sys.argv[2] == "bfloat16" else module.model.first.saved.packed,
    "outputs": [output.tolist() for output in found],
    "ours": [name for name in sys.modules if name.startswith("torchscript_operator")],
}))
"""
"""A program that has nothing but torch."""


@pytest.fixture
def wrapped() -> Any:
    """A wrapper around a model in which layers are called, called twice, and read without a call."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(3)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(20, 32)
            self.first = nn.Linear(32, 48)
            self.second = nn.Linear(48, 32, bias=False)
            self.again = self.second
            self.read = nn.Linear(32, 32)
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

        def forward(self, tokens: Any) -> Any:
            hidden = self.second(functional.gelu(self.first(self.embedding(tokens))))
            hidden = hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0]
            # Not contiguous, as a pooler's input.
            pooled = self.again(self.first(hidden[:, 0]))
            return hidden, functional.linear(pooled, self.read.weight, self.read.bias)

    class Wrapper(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: Any) -> Any:
            return self.model(tokens)

    return Wrapper(Model()).eval().requires_grad_(requires_grad=False)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """torch.jit says on each load that it is to go."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.")
        yield


def tokens(rows: int, length: int) -> Any:
    return (np.arange(rows * length).reshape(rows, length) * 7 % 20).astype(np.int64)


def saved(wrapped: Any, name: str, folder: Path) -> Path:
    TorchScript().compile(lower(wrapped, wrapped.model, PACKED[name]), [tokens(2, 5)], folder / "model.pt", {})
    return folder / "model.pt"


def plain(wrapped: Any, name: str, given: Any) -> list[Any]:
    """What the same form gives without packing."""
    import torch

    module = lower(wrapped, wrapped.model, Form(PACKED[name].precision))
    return [output.detach().numpy() for output in module(torch.from_numpy(given))]


def lowers() -> bool:
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def loaded(file: Path, name: str) -> Any:
    import torch

    module = torch.jit.load(str(file)).eval()  # type: ignore[no-untyped-call]
    return module.module.model if name == "bfloat16" else module.model


@PRECISIONS
@pytest.mark.parametrize("size", [(2, 5), (1, 1), (5, 9)])
def test_file_computes_what_layers_that_are_not_packed_do_at_any_size(
    wrapped: Any, tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    found = TorchScript().load(saved(wrapped, name, tmp_path))([tokens(*size)])

    for one, other in zip(found, plain(wrapped, name, tokens(*size)), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-5 if name == "float32" else 0.02)


@PRECISIONS
def test_weights_are_packed_as_the_file_is_loaded(wrapped: Any, tmp_path: Path, name: str) -> None:
    model = loaded(saved(wrapped, name, tmp_path), name)

    expected = name == "float32" or lowers()
    assert [layer.saved.packed for layer in (model.first, model.second, model.read)] == [expected] * 3
    assert model.first.saved.weight.is_mkldnn is expected


@PRECISIONS
def test_layer_used_twice_is_one_in_the_file(wrapped: Any, tmp_path: Path, name: str) -> None:
    lowered: Any = lower(wrapped, wrapped.model, PACKED[name])
    model = lowered.module.model if name == "bfloat16" else lowered.model
    twice = 2 * model.second.weight.numel() * model.second.weight.element_size()

    assert model.second is model.again
    one = saved(wrapped, name, tmp_path).stat().st_size
    wrapped.model.again = type(wrapped.model.second)(48, 32, bias=False)
    assert saved(wrapped, name, tmp_path).stat().st_size - one > twice / 4


def test_float32_shares_the_weights_of_the_model(wrapped: Any) -> None:
    lowered: Any = lower(wrapped, wrapped.model, PACKED["float32"])

    assert lowered.model.first.weight.data_ptr() == wrapped.model.first.weight.data_ptr()


def test_bfloat16_holds_no_weight_in_float32(wrapped: Any) -> None:
    import torch

    lowered = lower(wrapped, wrapped.model, PACKED["bfloat16"])

    assert {tensor.dtype for tensor in (*lowered.parameters(), *lowered.buffers())} == {torch.bfloat16}


@PRECISIONS
def test_eager_model_stays_as_it_is(wrapped: Any, tmp_path: Path, name: str) -> None:
    before = plain(wrapped, "float32", tokens(3, 4))
    types = [type(layer) for layer in wrapped.modules()]

    saved(wrapped, name, tmp_path)

    assert [type(layer) for layer in wrapped.modules()] == types
    for one, other in zip(before, plain(wrapped, "float32", tokens(3, 4)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_plain_linear_layers_are_packed(wrapped: Any) -> None:
    from torch import nn

    class Scaled(nn.Linear):
        def forward(self, given: Any) -> Any:
            return 2 * super().forward(given)

    wrapped.model.scaled = Scaled(4, 4)
    wrapped.model.hooked = nn.Linear(4, 4)
    wrapped.model.hooked.register_forward_hook(lambda _module, _inputs, output: output * 2)
    wrapped.model.precise = nn.Linear(4, 4).double()

    lowered: Any = lower(wrapped, wrapped.model, PACKED["float32"])

    assert type(lowered.model.attention.out_proj) is type(wrapped.model.attention.out_proj)
    assert type(lowered.model.scaled) is Scaled
    assert type(lowered.model.hooked) is type(lowered.model.precise) is nn.Linear
    assert type(lowered.model.first) is not nn.Linear


def fresh(file: Path, name: str, **variables: str) -> Any:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    command = [sys.executable, "-W", "ignore", "-c", FRESH, str(file), name]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd="/")
    return json.loads(answer.stdout.splitlines()[-1])


@PRECISIONS
def test_file_needs_nothing_but_torch(wrapped: Any, tmp_path: Path, name: str) -> None:
    found = fresh(saved(wrapped, name, tmp_path), name)

    assert found["ours"] == []
    given = np.arange(12).reshape(2, 6)
    for one, other in zip(found["outputs"], plain(wrapped, name, given), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 if name == "float32" else 0.02)


def test_bfloat16_file_runs_on_a_processor_that_onednn_refuses(wrapped: Any, tmp_path: Path) -> None:
    found = fresh(saved(wrapped, "bfloat16", tmp_path), "bfloat16", ONEDNN_MAX_CPU_ISA="AVX2")

    assert not found["packed"]
    for one, other in zip(found["outputs"], plain(wrapped, "bfloat16", np.arange(12).reshape(2, 6)), strict=True):
        np.testing.assert_allclose(one, other, atol=0.02)


@PRECISIONS
def test_several_threads_give_what_one_gives(wrapped: Any, tmp_path: Path, name: str) -> None:
    """As a server does: two workers with a thread each, one of which has both threads where it is alone."""
    import torch

    module = torch.jit.load(str(saved(wrapped, name, tmp_path))).eval()  # type: ignore[no-untyped-call]
    sizes = [(rows, length) for rows in (1, 2, 5) for length in (1, 4, 7)]
    expected = {size: plain(wrapped, name, tokens(*size)) for size in sizes}
    found: list[tuple[tuple[int, int], list[Any]]] = []

    def work(threads: int, order: list[tuple[int, int]]) -> None:
        for _ in range(5):
            for size in order:
                torch.set_num_threads(threads)
                with torch.inference_mode():
                    found.append((size, [output.numpy() for output in module(torch.from_numpy(tokens(*size)))]))

    workers = [
        threading.Thread(target=work, args=given)
        for given in ((1, sizes), (1, sizes[::-1]), (2, sizes[3:] + sizes[:3]))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert len(found) == 3 * 5 * len(sizes)
    for size, outputs in found:
        for one, other in zip(outputs, expected[size], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5 if name == "float32" else 0.02)


def without_onednn(monkeypatch: pytest.MonkeyPatch) -> str:
    import torch

    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    return "this build of torch has no oneDNN"


def without_operator(monkeypatch: pytest.MonkeyPatch) -> str:
    import torch

    def missing(*_: Any) -> None:
        message = "'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'"
        raise AttributeError(message)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", missing)
    return "this build of torch cannot pack weights ('_OpNamespace'"


def with_wrong_values(monkeypatch: pytest.MonkeyPatch) -> str:
    import torch

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda given, *_: given * 2)
    return "weights that oneDNN packed gave wrong values here"


LACKING = pytest.mark.parametrize("lack", [without_onednn, without_operator, with_wrong_values])


@LACKING
def test_what_this_torch_lacks_is_said(monkeypatch: pytest.MonkeyPatch, lack: Any) -> None:
    reason = lack(monkeypatch)

    assert str(missing_for(PACKED["float32"])).startswith(reason)
    assert missing_for(Form(frozen=True)) is None


@LACKING
def test_fixed_bfloat16_is_frozen_where_weights_cannot_be_packed(monkeypatch: pytest.MonkeyPatch, lack: Any) -> None:
    lack(monkeypatch)

    assert fixed_form("bfloat16") == Form("bfloat16", frozen=True)


def test_fixed_bfloat16_is_packed_where_onednn_computes_in_it() -> None:
    assert fixed_form("bfloat16") == FIXED_FORMS["bfloat16"][0 if lowers() else 1]
    assert FIXED_FORMS["bfloat16"][0].packed


def test_fixed_float32_is_the_file_that_loads_anywhere() -> None:
    assert fixed_form("float32") == Form()


def test_auto_lists_packed_forms_as_not_available_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    monkeypatch.setattr(precision, "processor_features", lambda: ("avx512_bf16",))
    reason = without_onednn(monkeypatch)
    offered = forms.Forms(nn.Linear(2, 2), lambda _: 1.0, 0.99, Clock(100), Progress())

    found = list(offered.of("auto", lambda _: None))

    refused = [form for form in found if isinstance(form, Unavailable)]
    assert {(form.form, form.verdict, form.reason) for form in refused} == {
        (form, "NotAvailable", reason) for form in PACKED.values()
    }
    assert Form() in found
    assert Form("bfloat16", frozen=True) in found
