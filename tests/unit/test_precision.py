"""Forms of a small module: what is lowered, what is left alone, and which layers int8 harms."""

from pathlib import Path
from typing import Any

import pytest

from torchscript_operator.export import precision
from torchscript_operator.export.precision import Form, fewest_kept, lower, missing_for, processor_features, rank_layers


@pytest.fixture
def wrapped() -> Any:
    """A wrapper around a model of two linear layers; the first has a weight that spoils 8 bits for all others."""
    import torch
    from torch import nn

    torch.manual_seed(1)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.second = nn.Linear(16, 16)

        def forward(self, vectors: Any) -> Any:
            return (self.second(self.first(vectors)),)

    class Wrapper(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, vectors: Any) -> Any:
            (hidden,) = self.model(vectors)
            assert hidden.dtype == torch.float32
            return hidden, hidden.sum(dim=1, keepdim=True)

    found = Wrapper(Model()).eval().requires_grad_(requires_grad=False)
    found.model.first.weight[:, 3] *= 200
    return found


def vectors() -> Any:
    import torch

    return torch.randn(32, 16, generator=torch.Generator().manual_seed(2))


def cosine(module: Any, other: Any) -> float:
    import torch

    given = vectors()
    given[:, 3] = 0
    found = torch.nn.functional.cosine_similarity(module(given)[0], other(given)[0], dim=1).min()
    return float(found)


def cpu_info(folder: Path, line: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"processor : 0\n{line}\n\nprocessor : 1\n{line}\n")
    return path


def test_features_are_read_as_x86_writes_them(tmp_path: Path) -> None:
    assert processor_features(cpu_info(tmp_path, "flags\t\t: fpu avx2 avx512_bf16 amx_tile")) == ("avx2", "avx512_bf16")


def test_features_are_read_as_arm_writes_them(tmp_path: Path) -> None:
    assert processor_features(cpu_info(tmp_path, "Features\t: fp asimd i8mm bf16")) == ("asimd", "i8mm", "bf16")


def test_a_kernel_that_tells_nothing_means_no_features(tmp_path: Path) -> None:
    assert processor_features(tmp_path / "none") == ()


@pytest.mark.parametrize(
    ("features", "available"), [(("avx2",), False), (("avx2", "amx_bf16"), True), (("bf16",), True)]
)
def test_bfloat16_needs_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], available: bool
) -> None:
    monkeypatch.setattr(precision, "processor_features", lambda: features)

    assert (missing_for(Form("bfloat16")) is None) is available


def test_int8_needs_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert missing_for(Form("int8")) is None
    monkeypatch.setattr(type(torch.backends.quantized), "engine", "none")
    assert missing_for(Form("int8")) == "this build of torch has no engine for int8"


def test_bfloat16_halves_the_weights_and_gives_float32(wrapped: Any) -> None:
    import torch

    lowered = lower(wrapped, wrapped.model, Form("bfloat16"))

    assert {parameter.dtype for parameter in lowered.parameters()} == {torch.bfloat16}
    assert {output.dtype for output in lowered(vectors())} == {torch.float32}


def test_bfloat16_rounds_but_stays_close(wrapped: Any) -> None:
    found = cosine(lower(wrapped, wrapped.model, Form("bfloat16")), wrapped)

    assert 0.999 < found < 1


def test_lowering_leaves_the_eager_model_alone(wrapped: Any) -> None:
    import torch

    before = [output.clone() for output in wrapped(vectors())]

    for form in (Form("bfloat16"), Form("int8")):
        lower(wrapped, wrapped.model, form)

    assert {parameter.dtype for parameter in wrapped.parameters()} == {torch.float32}
    assert all(torch.equal(one, other) for one, other in zip(before, wrapped(vectors()), strict=True))


def test_float32_is_the_module_itself(wrapped: Any) -> None:
    assert lower(wrapped, wrapped.model, Form()) is wrapped


def test_int8_takes_every_linear_layer_but_those_that_are_kept(wrapped: Any) -> None:
    from torch import nn

    lowered: Any = lower(wrapped, wrapped.model, Form("int8", kept_layers=("model.first",)))

    assert type(lowered.model.first) is nn.Linear
    assert type(lowered.model.second) is not nn.Linear
    assert lowered.model.first.weight is wrapped.model.first.weight


def test_a_kept_layer_that_does_not_exist_is_an_error(wrapped: Any) -> None:
    with pytest.raises(ValueError, match=r"model\.third"):
        lower(wrapped, wrapped.model, Form("int8", kept_layers=("model.third",)))


def test_a_layer_that_is_used_twice_is_swapped_everywhere(wrapped: Any) -> None:
    wrapped.model.second = wrapped.model.first

    lowered: Any = lower(wrapped, wrapped.model, Form("int8"))

    assert lowered.model.first is lowered.model.second
    assert precision.linear_layers(lowered) == ()


def test_ranking_finds_the_layer_that_int8_harms(wrapped: Any) -> None:
    ranked = rank_layers(wrapped, lambda module: cosine(module, wrapped), lambda: True)

    assert [name for name, _ in ranked] == ["model.first", "model.second"]
    assert ranked[0][1] < 0.99 < ranked[1][1]


def test_layers_that_the_time_did_not_suffice_for_are_the_first_to_be_kept(wrapped: Any) -> None:
    turns = iter([True, False])

    ranked = rank_layers(wrapped, lambda module: cosine(module, wrapped), lambda: next(turns))

    assert ranked[0] == ("model.second", -1.0)


@pytest.mark.parametrize("needed", range(1, 13))
def test_fewest_kept_layers_are_found_by_bisecting(needed: int) -> None:
    ranked = [(f"layer{index}", index / 20) for index in range(16)]
    asked = []

    def holds(kept: tuple[str, ...]) -> bool:
        asked.append(kept)
        return len(kept) >= needed

    assert fewest_kept(ranked, holds, most=12) == needed
    assert len(asked) <= 5
    assert all(kept == tuple(f"layer{index}" for index in range(len(kept))) for kept in asked)


def test_no_mixture_is_found_where_the_most_kept_layers_do_not_do() -> None:
    assert fewest_kept([("one", 0.1), ("two", 0.2)], lambda _: False, most=1) is None


@pytest.mark.parametrize(
    ("form", "label"),
    [
        (Form(), "float32"),
        (Form("bfloat16", packed=True), "bfloat16, packed"),
        (Form("int8", frozen=True, kept_layers=("a", "b")), "int8, frozen, 2 layers in float32"),
    ],
)
def test_a_form_has_a_name_for_people(form: Form, label: str) -> None:
    assert form.label == label
