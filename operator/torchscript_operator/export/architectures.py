"""What differs between architectures, one declaration each; all others are taken by what their code and files say."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torchscript_operator.artifact.failures import FailureReason, WorkerError

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs that a text model may take, in the order in which a compiled one takes them."""
POSITION_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len")
"""Where configs keep the number of positions."""


@dataclass(frozen=True)
class Architecture:
    """An architecture's inputs and positions."""

    model_type: str
    inputs: tuple[str, ...]
    position_offset: int = 0
    """Positions that no token can take, such as those before RoBERTa's first one."""
    attention: str | None = None
    """Attention implementation; None leaves Transformers its own choice, which traces right when masks are passed."""
    segments: int = 1
    """Values that token_type_ids may have; 1 for models that do not read them."""


THREE = INPUT_NAMES
TWO = INPUT_NAMES[:2]
ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (
        Architecture("bert", THREE),
        Architecture("distilbert", TWO),
        Architecture("albert", THREE),
        Architecture("electra", THREE),
        Architecture("roberta", TWO, position_offset=2),
        Architecture("xlm-roberta", TWO, position_offset=2),
        Architecture("camembert", TWO, position_offset=2),
        Architecture("mpnet", TWO, position_offset=2),
        Architecture("deberta-v2", THREE),
        Architecture("marian", TWO),
    )
}


def of_model(model: Any, tokenizer: Any) -> Architecture:
    """The declared architecture of a loaded model, or one made from its forward and its tokenizer.

    Segments are left out where the config says that the model has none, as DeBERTa's usually does.
    WorkerError SOURCE_INVALID for a model that takes no token ids and attention mask.
    """
    known = ARCHITECTURES.get(model.config.model_type)
    segments = getattr(model.config, "type_vocab_size", 1)
    if known is not None:
        return replace(known, inputs=known.inputs if segments else TWO, segments=max(1, segments))
    accepted = inspect.signature(model.forward).parameters
    optional = [
        name for name in INPUT_NAMES[2:] if segments and name in accepted and name in tokenizer.model_input_names
    ]
    if any(name not in accepted for name in TWO):
        message = f"{type(model).__name__} takes no input_ids with attention_mask, so it is not a text model."
        raise WorkerError(FailureReason.SOURCE_INVALID, message)
    return Architecture(model.config.model_type, (*TWO, *optional), segments=max(1, segments))


def maximum_positions(config: Mapping[str, Any]) -> int | None:
    """Tokens that the model's positions allow, by its config.json; None where positions are not limited.

    Relative positions that only cap a distance (T5, DeBERTa with position_biased_input false) do not limit.
    """
    if config.get("position_biased_input") is False:
        return None
    known = ARCHITECTURES.get(str(config.get("model_type")))
    offset = known.position_offset if known else 0
    limits = [config[name] for name in POSITION_FIELDS if isinstance(config.get(name), int) and config[name] > 0]
    return limits[0] - offset if limits else None
