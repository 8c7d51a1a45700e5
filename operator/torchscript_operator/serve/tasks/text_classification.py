"""text-classification: scores of classes for a text or a pair of texts."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tokenizers import Tokenizer

from torchscript_operator.serve.tasks.base import Options, Prepared, TextTask, best_first, fields, softmax, text


class ClassificationOptions(Options):
    """Parameters of text-classification."""

    top_k: int | None = Field(default=None, ge=1)
    """Classes in the answer; null, when it is given, for all. Without it, the best one alone."""
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    """What makes scores of the model's logits; the model's config decides when absent."""


class TextClassification(TextTask):
    """Labels with scores."""

    options = ClassificationOptions

    def encode(self, given: Any, options: Any, tokenizer: Tokenizer) -> Prepared:
        """A text, or an object with `text` and `text_pair`."""
        if isinstance(given, dict):
            pair = fields(given, ("text",), ("text_pair",))
            second = pair.get("text_pair")
            first = text(pair["text"], "text")
            encoding = self.tokens(tokenizer, options, first, None if second is None else text(second, "text_pair"))
        else:
            encoding = self.tokens(tokenizer, options, text(given))
        return Prepared((self.row(encoding),))

    def decode(self, prepared: Prepared, results: Sequence[Mapping[str, NDArray[Any]]], options: Any) -> Any:  # noqa: ARG002
        """The best class, or with `top_k` that many, the best first."""
        scores = self._scores(results[0]["logits"], options.function_to_apply)
        listed = "top_k" in options.model_fields_set
        count = (options.top_k or len(scores)) if listed else 1
        answers = [{"label": self.label(place), "score": float(scores[place])} for place in best_first(scores, count)]
        return answers if listed else answers[0]

    def shape_answers(self, inputs: Any, answers: list[Any], options: Any) -> Any:
        """A list even for one text, as the pipeline does when no `top_k` is given."""
        if isinstance(inputs, str) and "top_k" not in options.model_fields_set:
            return answers
        return super().shape_answers(inputs, answers, options)

    def _scores(self, logits: NDArray[Any], wanted: str | None) -> NDArray[Any]:
        problem = self.config.get("problem_type")
        if wanted is None:
            many = problem != "multi_label_classification" and len(logits) > 1
            wanted = "none" if problem == "regression" else "softmax" if many else "sigmoid"
        if wanted == "none":
            return logits
        if wanted == "softmax":
            return softmax(logits)
        sigmoid: NDArray[Any] = 1.0 / (1.0 + np.exp(-logits))
        return sigmoid
