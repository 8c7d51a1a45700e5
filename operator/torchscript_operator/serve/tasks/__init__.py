"""One class for each task: what a text becomes before the model, and what the model's outputs become after it."""

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.serve.tasks.base import Task
from torchscript_operator.serve.tasks.feature_extraction import FeatureExtraction

TASKS: dict[str, type[Task]] = {"feature-extraction": FeatureExtraction}
"""Transformers' task name to the class that serves it."""


def for_manifest(manifest: Manifest) -> Task:
    """The task of an artifact.

    Raises WorkerError (InvalidRequest) when this version serves no such task.
    """
    if manifest.task not in TASKS:
        msg = f"this worker does not serve the task {manifest.task!r}, only {', '.join(sorted(TASKS))}"
        raise WorkerError(FailureReason.INVALID_REQUEST, msg)
    return TASKS[manifest.task](manifest)


__all__ = ["TASKS", "Task", "for_manifest"]
