"""What a task is: which head it loads, what it puts out, and how eager computes the same without our wrapper."""

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.export.tasks.base import Arrays, Output, Task, TextStyle, forward_options
from torchscript_operator.export.tasks.feature_extraction import FeatureExtraction
from torchscript_operator.export.tasks.generation import Text2TextGeneration
from torchscript_operator.export.tasks.heads import (
    FillMask,
    MultipleChoice,
    QuestionAnswering,
    TextClassification,
    TokenClassification,
)
from torchscript_operator.export.tasks.pooling import pool, read_pooling

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        FeatureExtraction,
        FillMask,
        TextClassification,
        TokenClassification,
        QuestionAnswering,
        MultipleChoice,
        Text2TextGeneration,
    )
}
"""Transformers' task name to what is exported for it."""


def find(name: str) -> type[Task]:
    """The task of a name. WorkerError TASK_MISMATCH lists what there is."""
    if name not in TASKS:
        message = f"Task {name!r} is not known to this worker; it knows: {', '.join(sorted(TASKS))}."
        raise WorkerError(FailureReason.TASK_MISMATCH, message)
    return TASKS[name]


def of_architecture(model_class: str) -> str | None:
    """The task that a model class has the head of, such as fill-mask for BertForMaskedLM; None when it has no head."""
    return next((task.name for task in TASKS.values() if task.heads and model_class.endswith(task.heads)), None)


__all__ = [
    "TASKS",
    "Arrays",
    "FeatureExtraction",
    "Output",
    "Task",
    "TextStyle",
    "find",
    "forward_options",
    "of_architecture",
    "pool",
    "read_pooling",
]
