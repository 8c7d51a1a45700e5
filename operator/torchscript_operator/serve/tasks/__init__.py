"""One class for each task: what a text becomes before the model, and what the model's outputs become after it."""

from collections.abc import Mapping
from typing import Any

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.serve.tasks.base import Task
from torchscript_operator.serve.tasks.feature_extraction import FeatureExtraction
from torchscript_operator.serve.tasks.fill_mask import FillMask
from torchscript_operator.serve.tasks.generation import Text2TextGeneration
from torchscript_operator.serve.tasks.multiple_choice import MultipleChoice
from torchscript_operator.serve.tasks.question_answering import QuestionAnswering
from torchscript_operator.serve.tasks.text_classification import TextClassification
from torchscript_operator.serve.tasks.token_classification import TokenClassification

TASKS: dict[str, type[Task]] = {
    "feature-extraction": FeatureExtraction,
    "fill-mask": FillMask,
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
    "multiple-choice": MultipleChoice,
    "text2text-generation": Text2TextGeneration,
}
"""Transformers' task name to the class that serves it."""


def for_manifest(
    manifest: Manifest, config: Mapping[str, Any] | None = None, facts: Mapping[str, Any] | None = None
) -> Task:
    """The task of an artifact, given the model's config.json and the artifact's tokenizer_config.json.

    Raises WorkerError (InvalidRequest) when this version serves no such task.
    """
    if manifest.task not in TASKS:
        msg = f"this worker does not serve the task {manifest.task!r}, only {', '.join(sorted(TASKS))}"
        raise WorkerError(FailureReason.INVALID_REQUEST, msg)
    return TASKS[manifest.task](manifest, config, facts)


__all__ = ["TASKS", "Task", "for_manifest"]
