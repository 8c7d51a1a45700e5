"""Linear layers whose weights oneDNN lays out once, as the file is loaded, instead of at each pass.

A file holds the weights as they are; `torch.jit.load` runs `__setstate__`, which is compiled into the file, so that
whoever loads it needs nothing but torch. The operators are those that torch's own compiler, Inductor, calls.
"""
# ruff: noqa: SLF001 - neither these operators nor a module's hooks have public names

from typing import ClassVar, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

PROBE_FEATURES = 64
"""Width of the layer that the operators are tried on."""


class SavedLinear(nn.Module):
    """What is compiled into the file. Packed only once it is loaded: in the exporter it shares the model's weights."""

    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        """Share the weights of a layer."""
        super().__init__()
        self.register_buffer("weight", layer.weight.detach())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        self.packed = False

    def forward(self, inputs: Tensor) -> Tensor:
        """Of shape (..., in features) to (..., out features)."""
        if self.packed:
            found: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, "none", [], "")
            return found
        return functional.linear(inputs, self.weight, self.bias)

    @torch.jit.export
    def dense(self) -> Tensor:
        """The weight in its usual layout."""
        if self.packed:
            return self.weight.to_dense()
        return self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, Tensor | None, bool]:
        """What is saved."""
        return self.dense(), self.bias, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, Tensor | None, bool]) -> None:
        """What is made of it."""
        self.weight = state[0]
        self.bias = state[1]
        self.training = state[2]
        # A processor without the instructions runs such a file, too: slowly, where oneDNN's operator would refuse.
        self.packed = self.weight.dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, None)


class PackedLinear(nn.Module):
    """A linear layer that is packed in the file, in the place of one that is not.

    Modules that read the weight of a layer instead of calling it get what they expect, there and in the file.
    """

    __jit_unused_properties__: ClassVar = ["weight", "bias"]

    def __init__(self, layer: nn.Linear) -> None:
        """Share the weights of a layer."""
        super().__init__()
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.saved = torch.jit.script(SavedLinear(layer))

    @property
    def weight(self) -> Tensor:
        """Of shape (out features, in features)."""
        found: Tensor = self.saved.dense()
        return found

    @property
    def bias(self) -> Tensor | None:
        """Of shape (out features)."""
        found: Tensor | None = self.saved.bias
        return found

    def forward(self, inputs: Tensor) -> Tensor:
        """Of shape (..., in features) to (..., out features)."""
        found: Tensor = self.saved(inputs)
        return found


def can_pack(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is one that oneDNN computes alike; subclasses, hooks and other types may do something else."""
    return (
        type(layer) is nn.Linear
        and layer.weight.dtype in {torch.float32, torch.bfloat16}
        and not (layer._forward_hooks or layer._forward_pre_hooks)
    )


def refusal(dtype: torch.dtype) -> str | None:
    """Why weights of this type cannot be packed here, in words; None when they can."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this build of torch has no oneDNN"
    weight = torch.eye(PROBE_FEATURES, dtype=dtype)
    try:
        # The file asks in every precision.
        lowers = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if dtype == torch.bfloat16 and not lowers:
            return "oneDNN does not compute in bfloat16 on this processor"
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        found = torch.ops.mkldnn._linear_pointwise(weight, packed, None, "none", [], "")
    except (AttributeError, RuntimeError) as error:
        line = next(iter(str(error).strip().splitlines()), "")[:200]
        return f"this build of torch cannot pack weights ({line})"
    return None if torch.equal(found, weight) else "weights that oneDNN packed gave wrong values here"
