"""multiple-choice: which of several texts goes best with a prompt.

The artifact scores rows, each a prompt with one choice; Transformers has no pipeline for it. The answer is the softmax
over a prompt's choices, the best first.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from torchscript_operator.serve.tasks.base import InputError, Prepared, TextTask, best_first, fields, softmax, text

if TYPE_CHECKING:
    from torchscript_operator.serve.rows import Row


class MultipleChoice(TextTask):
    """Choices with their probabilities."""

    def encode(self, given: Any, options: Any, tokenizer: Tokenizer) -> Prepared:
        """An object with `prompt` and a list of `choices`."""
        asked = fields(given, ("prompt", "choices"))
        prompt, choices = text(asked["prompt"], "prompt"), asked["choices"]
        if not isinstance(choices, list) or not choices:
            raise InputError("choices must be a list of texts")
        rows: list[Row] = []
        tokens = 0
        for choice in choices:
            row = self.row(self.tokens(tokenizer, options, prompt, text(choice, "each choice")))
            tokens += row.length
            # The prompt is read once more for each: some kilobytes of choices could keep a processor busy for hours.
            self.bounds.check(len(rows) + 1, tokens)
            rows.append(row)
        return Prepared(tuple(rows), choices)

    def decode(self, prepared: Prepared, results: Sequence[Mapping[str, NDArray[Any]]], options: Any) -> Any:  # noqa: ARG002
        """All choices, the best first."""
        scores = softmax(np.array([result["logits"][0] for result in results], dtype=np.float32))
        return [
            {"index": place, "choice": prepared.context[place], "score": float(scores[place])}
            for place in best_first(scores, len(scores))
        ]
