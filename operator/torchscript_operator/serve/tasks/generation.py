"""text2text-generation: texts written from texts."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from pydantic import Field
from tokenizers import Tokenizer

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.generation import strip
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.serve.rows import Row, Writing
from torchscript_operator.serve.tasks.base import InputError, Options, Prepared, TextTask, text

SPACE = "\u2581"
"""What SentencePiece writes for a space."""
SEQUENCES = "sequences"
"""The output with the tokens written."""


class GenerationOptions(Options):
    """Parameters of text2text-generation; the model's generation config where they are absent."""

    num_beams: int | None = Field(default=None, ge=1)
    """Hypotheses kept at a time; 1 is greedy. At most the model's own number."""
    max_length: int | None = Field(default=None, ge=2)
    """Tokens of the answer, its start token included. At most the longest bucket's."""


class Text2TextGeneration(TextTask):
    """Answers as texts, without special tokens."""

    options = GenerationOptions

    def __init__(
        self, manifest: Manifest, config: Mapping[str, Any] | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Take the settings of generation from the manifest."""
        super().__init__(manifest, config, facts)
        if manifest.generation is None:
            raise WorkerError(FailureReason.INVALID_REQUEST, "the artifact does not say how sequences are generated")
        self.generation = manifest.generation

    def encode(self, given: Any, options: Any, tokenizer: Tokenizer) -> Prepared:
        """A text."""
        beams, longest = self.generation.beams, self.generation.maximum_length
        if options.num_beams is not None and options.num_beams > beams:
            raise InputError(f"parameters.num_beams is more than the {beams} that the artifact was made and proven for")
        if options.max_length is not None and options.max_length > longest:
            raise InputError(
                f"parameters.max_length is more than {longest}: add a longer shape to spec.inputs.shapes, as far as "
                "the model's own generation config allows"
            )
        row = self.row(self.tokens(tokenizer, options, text(given)))
        writing = Writing(options.num_beams or beams, options.max_length or longest)
        return Prepared((Row(row.inputs, row.length, "outputs", writing),), tokenizer)

    def decode(self, prepared: Prepared, results: Sequence[Mapping[str, NDArray[Any]]], options: Any) -> Any:  # noqa: ARG002
        """The text."""
        (tokens,) = strip(results[0][SEQUENCES][None], self.generation)
        return {"generated_text": self._spell(prepared.context, tokens)}

    def _spell(self, tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
        pieces = self.facts.get("targetPieces")
        if pieces is None:
            return self.text_of(tokenizer, tokens, skip_special_tokens=True)
        # MarianMT reads and writes with two models over one vocabulary; tokenizer.json is the one that reads.
        special = set(self.facts.get("targetSpecialIds", ()))
        return "".join(pieces[token] for token in tokens if token not in special).replace(SPACE, " ").strip()

    def shape_answers(self, inputs: Any, answers: list[Any], options: Any) -> Any:  # noqa: ARG002
        """Always a list."""
        return answers

    def describe(self) -> dict[str, Any]:
        """How sequences are searched for, beside the task."""
        return super().describe() | {
            "numBeams": self.generation.beams,
            "maximumLength": self.generation.maximum_length,
        }
