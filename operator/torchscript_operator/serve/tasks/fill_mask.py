"""fill-mask: the likeliest tokens in the place of each mask token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tokenizers import Tokenizer

from torchscript_operator.serve.rows import INPUT_IDS
from torchscript_operator.serve.tasks.base import InputError, Options, Prepared, TextTask, best_first, softmax, text

MOST_TARGETS = 4096
"""Texts of `targets`."""
Target = Annotated[str, Field(max_length=256)]


class FillMaskOptions(Options):
    """Parameters of fill-mask."""

    top_k: int = Field(default=5, ge=1)
    """Proposals for each mask."""
    targets: Target | Annotated[list[Target], Field(max_length=MOST_TARGETS)] | None = None
    """Only these tokens are proposed; of a text that is no token, its first one."""


@dataclass(frozen=True)
class _Masked:
    tokenizer: Tokenizer
    ids: NDArray[np.int64]
    places: NDArray[np.intp]
    targets: NDArray[np.int64] | None


class FillMask(TextTask):
    """Tokens with their probabilities, and the text with each of them."""

    options = FillMaskOptions

    def encode(self, given: Any, options: Any, tokenizer: Tokenizer) -> Prepared:
        """A text with at least one mask token."""
        row = self.row(self.tokens(tokenizer, options, text(given)))
        ids = row.inputs[INPUT_IDS]
        mask = self.facts.get("maskTokenId")
        places = np.flatnonzero(ids == mask)
        if mask is None or not len(places):
            name = "a mask token" if mask is None else f"the mask token {tokenizer.id_to_token(mask)!r}"
            raise InputError(f"each text must hold {name}")
        targets = None
        if options.targets is not None:
            given = [options.targets] if isinstance(options.targets, str) else options.targets
            targets = _ids_of(tokenizer, tuple(given))
        proposals = min(options.top_k, tokenizer.get_vocab_size() if targets is None else len(targets))
        spelled = len(places) * proposals * len(ids)
        return Prepared((row,), _Masked(tokenizer, ids, places, targets), spelled)

    def decode(self, prepared: Prepared, results: Sequence[Mapping[str, NDArray[Any]]], options: Any) -> Any:
        """Proposals, the likeliest first; with several masks a list of them for each."""
        masked: _Masked = prepared.context
        found = [self._proposals(masked, int(place), results[0]["logits"], options.top_k) for place in masked.places]
        return found[0] if len(found) == 1 else found

    def shape_answers(self, inputs: Any, answers: list[Any], options: Any) -> Any:
        """One answer for a list of one text, as the pipeline gives it."""
        return answers[0] if len(answers) == 1 else super().shape_answers(inputs, answers, options)

    def _proposals(self, masked: _Masked, place: int, logits: NDArray[Any], count: int) -> list[dict[str, Any]]:
        scores = softmax(logits[place])
        tokens = np.arange(len(scores)) if masked.targets is None else masked.targets
        pad = self.facts.get("padTokenId") if "padToken" in self.facts else None
        proposals = []
        for best in best_first(scores[tokens], count):
            token = int(tokens[best])
            filled = masked.ids.copy()
            filled[place] = token
            # With several masks the other ones have to stay to be seen, and so all special tokens stay.
            alone = len(masked.places) == 1
            kept = [one for one in filled.tolist() if one != pad]
            proposals.append(
                {
                    "score": float(scores[token]),
                    "token": token,
                    "token_str": self.text_of(masked.tokenizer, [token]),
                    "sequence": self.text_of(masked.tokenizer, kept, skip_special_tokens=alone),
                }
            )
        return proposals


@lru_cache(maxsize=2)
def _ids_of(tokenizer: Tokenizer, targets: tuple[str, ...]) -> NDArray[np.int64]:
    """Ids of targets, in ascending order: the same for all texts of a request. Raises InputError for none."""
    found = set()
    for target in targets:
        token = tokenizer.token_to_id(target)
        if token is None:
            token = next(iter(tokenizer.encode(target, add_special_tokens=False).ids), None)
        if token is not None:
            found.add(token)
    if not found:
        raise InputError("parameters.targets holds nothing that the model's vocabulary has")
    return np.array(sorted(found))
