"""The edges of a model in bfloat16: what it is given and what it gives is float32, as in every other form."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Lowered(nn.Module):
    """A bfloat16 module with float32 inputs and outputs; integers pass through."""

    def __init__(self, module: nn.Module) -> None:
        """Wrap a module that takes positional tensors and gives a tuple."""
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Take and give what the module does."""
        lowered = (value.to(torch.bfloat16) if value.is_floating_point() else value for value in inputs)
        outputs: tuple[Tensor, ...] = to_float32(self.module(*lowered))
        return outputs


def to_float32(value: Any) -> Any:
    """The same structure with float32 in place of lower precisions."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        for name, item in value.items():
            # In place: Transformers' outputs are mappings that only their own classes make.
            value[name] = to_float32(item)  # type: ignore[index]
        return value
    if isinstance(value, (tuple, list)):
        return type(value)(to_float32(item) for item in value)
    return value
