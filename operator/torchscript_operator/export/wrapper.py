"""The modules that are traced: positional tensors in, a tuple of tensors out."""

from typing import Any

import torch
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


class HeadOutputs(nn.Module):
    """A model with a head: its first outputs, in the model's own order."""

    def __init__(self, model: nn.Module, input_names: tuple[str, ...], count: int, options: dict[str, Any]) -> None:
        """Wrap a model that takes `input_names` and `options` as keywords; keep `count` outputs."""
        super().__init__()
        self.model = model
        self.input_names = input_names
        self.count = count
        self.options = options

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Take int64 tensors of (batch, sequence) in the order of the input names."""
        named = dict(zip(self.input_names, inputs, strict=True))
        return tuple(self.model(**named, **self.options, return_dict=False)[: self.count])


class SingleChoice(HeadOutputs):
    """A multiple-choice model whose rows are prompts of one choice: (batch, sequence) to scores of (batch, 1)."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Take int64 tensors of (batch, sequence) in the order of the input names."""
        return super().forward(*(tensor.unsqueeze(1) for tensor in inputs))


class Encoder(nn.Module):
    """An encoder-decoder model's encoder: states of (batch, sequence, width)."""

    def __init__(self, model: Any, input_names: tuple[str, ...]) -> None:
        """Wrap the encoder of a model, which takes `input_names` as keywords."""
        super().__init__()
        self.encoder = model.get_encoder()
        self.input_names = input_names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Take int64 tensors of (batch, sequence) in the order of the input names."""
        named = dict(zip(self.input_names, inputs, strict=True))
        return (self.encoder(**named, return_dict=False)[0],)


class Decoder(nn.Module):
    """An encoder-decoder model's decoder with its head, without a cache, for tokens that are padded at their ends."""

    def __init__(self, model: Any) -> None:
        """Wrap the decoder, the head and, where the model has one, the bias of its scores."""
        super().__init__()
        self.decoder = model.get_decoder()
        self.head = model.get_output_embeddings()
        self.register_buffer("bias", getattr(model, "final_logits_bias", None))

    def forward(
        self, decoder_input_ids: Tensor, attention_mask: Tensor, encoder_hidden_states: Tensor, index: Tensor
    ) -> tuple[Tensor, ...]:
        """Scores of the token after position `index`, (batch, vocabulary).

        decoder_input_ids: int64 (batch, target). attention_mask: int64 (batch, sequence), of what the encoder read.
        encoder_hidden_states: (batch, sequence, width). index: int64 (1,).
        """
        hidden = self.decoder(
            input_ids=decoder_input_ids,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=attention_mask,
            use_cache=False,
            return_dict=False,
        )[0]
        # A sum with a mask instead of indexing: compilers for fixed graphs have no gather by a value.
        places = torch.arange(decoder_input_ids.shape[1], device=hidden.device)
        chosen = (places == index).to(hidden.dtype).view(1, -1, 1)
        scores = self.head((hidden * chosen).sum(dim=1))
        return (scores if self.bias is None else scores + self.bias,)
