"""The modules that are traced: positional tensors in, a tuple of tensors out."""

from typing import Any

from torch import Tensor, nn

from torchscript_operator.artifact.manifest import Pooling

SMALLEST_COUNT = 1e-9
"""Keeps the mean of a row without tokens from dividing by zero."""
LOWEST = -1e9
"""Takes the place of masked values before a maximum."""


class TokenVectors(nn.Module):
    """A model that gives its last hidden state, (batch, sequence, width), and a vector of each text, (batch, width)."""

    def __init__(
        self, model: nn.Module, input_names: tuple[str, ...], pooling: Pooling, options: dict[str, Any]
    ) -> None:
        """Wrap a model that takes `input_names` and `options` as keywords."""
        super().__init__()
        self.model = model
        self.input_names = input_names
        self.pooling = pooling
        self.options = options

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Take int64 tensors of (batch, sequence) in the order of the input names."""
        named = dict(zip(self.input_names, inputs, strict=True))
        hidden = self.model(**named, **self.options, return_dict=False)[0]
        if self.pooling.mode == "none":
            return (hidden,)
        return hidden, pool(hidden, named["attention_mask"], self.pooling)


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector of each text: (batch, sequence, width) with a mask of (batch, sequence) to (batch, width)."""
    mask = attention_mask.unsqueeze(-1)
    if pooling.mode == "cls":
        vectors = hidden[:, 0]
    elif pooling.mode == "max":
        vectors = hidden.masked_fill(mask == 0, LOWEST).max(dim=1).values
    else:
        weights = mask.to(hidden.dtype)
        vectors = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=SMALLEST_COUNT)
    return nn.functional.normalize(vectors, p=2.0, dim=1) if pooling.normalize else vectors
