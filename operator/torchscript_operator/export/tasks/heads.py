"""Tasks of an encoder with a head: a declaration each."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.export.tasks.base import Arrays, AxisName, Output, Task, TextStyle, forward_options

if TYPE_CHECKING:
    from torch import nn

SCORES_OF_TEXTS: tuple[AxisName, ...] = ("batch", "feature")
SCORES_OF_TOKENS: tuple[AxisName, ...] = ("batch", "sequence", "feature")


class Head(Task):
    """A model whose outputs are those of its head, under the head's own names."""

    head_outputs: ClassVar[tuple[Output, ...]]

    @classmethod
    def of_folder(cls, folder: Path) -> "Head":  # noqa: ARG003
        """All is in the model itself."""
        return cls()

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The head's."""
        return self.head_outputs

    def wrap(self, model: "nn.Module", input_names: tuple[str, ...]) -> "nn.Module":
        """The model's own first outputs."""
        from torchscript_operator.export.wrapper import HeadOutputs  # noqa: PLC0415

        return HeadOutputs(model, input_names, len(self.outputs), forward_options(model))

    def reference(self, answer: Any, inputs: Arrays) -> dict[str, NDArray[Any]]:  # noqa: ARG002
        """What the model calls by these names."""
        lacking = [output.name for output in self.outputs if output.name not in answer]
        if lacking:
            message = f"The model gives {', '.join(answer)} but no {lacking[0]}, which task {self.name!r} needs."
            raise WorkerError(FailureReason.TASK_MISMATCH, message)
        return {output.name: answer[output.name].numpy() for output in self.outputs}


class FillMask(Head):
    """Scores of the whole vocabulary for each token."""

    name = "fill-mask"
    auto_class = "AutoModelForMaskedLM"
    heads = ("ForMaskedLM", "ForPreTraining")
    texts = TextStyle(mask=True)
    head_outputs = (Output("logits", SCORES_OF_TOKENS, "class"),)


class TextClassification(Head):
    """Scores of classes for each text or pair of texts."""

    name = "text-classification"
    auto_class = "AutoModelForSequenceClassification"
    heads = ("ForSequenceClassification",)
    texts = TextStyle(pairs="some")
    head_outputs = (Output("logits", SCORES_OF_TEXTS, "class"),)


class TokenClassification(Head):
    """Scores of classes for each token."""

    name = "token-classification"
    auto_class = "AutoModelForTokenClassification"
    heads = ("ForTokenClassification",)
    head_outputs = (Output("logits", SCORES_OF_TOKENS, "class"),)


class QuestionAnswering(Head):
    """Scores of each token for being the first and for being the last of the answer."""

    name = "question-answering"
    auto_class = "AutoModelForQuestionAnswering"
    heads = ("ForQuestionAnswering",)
    texts = TextStyle(pairs="always")
    head_outputs = (
        Output("start_logits", ("batch", "sequence"), "position"),
        Output("end_logits", ("batch", "sequence"), "span"),
    )


class MultipleChoice(Head):
    """One score for each row, where a row is a prompt with one of its choices.

    Transformers takes (batch, choices, sequence) and reshapes it to such rows itself. Rows as they are leave the number
    of choices free and let choices of several prompts share a batch.
    """

    name = "multiple-choice"
    auto_class = "AutoModelForMultipleChoice"
    heads = ("ForMultipleChoice",)
    texts = TextStyle(pairs="always")
    head_outputs = (Output("logits", SCORES_OF_TEXTS, "choice"),)

    def wrap(self, model: "nn.Module", input_names: tuple[str, ...]) -> "nn.Module":
        """Each row as the one choice of a prompt."""
        from torchscript_operator.export.wrapper import SingleChoice  # noqa: PLC0415

        return SingleChoice(model, input_names, 1, forward_options(model))

    def arrange(self, inputs: Arrays) -> Arrays:
        """All rows as choices of one prompt, so that eager goes the other way through the model's reshaping."""
        return {name: array[None] for name, array in inputs.items()}

    def reference(self, answer: Any, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """(1, rows) to (rows, 1)."""
        return {name: array.T for name, array in super().reference(answer, inputs).items()}
