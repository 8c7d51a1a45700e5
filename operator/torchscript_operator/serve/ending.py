"""How a serving process ends: the class of what went wrong, the termination message, the exit."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torchscript_operator.artifact.devices import no_device
from torchscript_operator.artifact.failures import CLASSES, FailureReason, WorkerError
from torchscript_operator.artifact.outcome import Failure, ParitySummary, ServeOutcome, fit
from torchscript_operator.artifact.request import TERMINATION_LOG_VARIABLE

if TYPE_CHECKING:
    from torchscript_operator.artifact.manifest import OutputParity

LOGGER = logging.getLogger(__name__)
TERMINATION_LOG = "/dev/termination-log"
"""Kubernetes' default path of the termination message."""
FORCED_EXIT = 143
"""128 + SIGTERM: the process was ended with requests in flight."""


def classify(error: Exception) -> WorkerError:
    """The class of whatever ended loading; the text of unknown errors stays in the log, since it may name paths."""
    if isinstance(error, WorkerError):
        return error
    LOGGER.error("loading failed", exc_info=error)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return WorkerError(FailureReason.OUT_OF_MEMORY, "The model does not fit into the container's memory.")
    if isinstance(error, OSError) and error.errno in {28, 122}:  # ENOSPC, EDQUOT
        return WorkerError(FailureReason.OUT_OF_DISK, "The scratch volume is full.")
    unknown = WorkerError(FailureReason.INTERNAL_ERROR, f"Loading failed with {type(error).__name__}.")
    return no_device(error) or unknown


def report(digest: str, stage: str, error: WorkerError, environment: Mapping[str, str]) -> None:
    """Write the termination message; a process outside a pod has nowhere to, which is no failure."""
    outputs: tuple[OutputParity, ...] = getattr(error, "outputs", ())
    outcome = ServeOutcome(
        digest=digest,
        failure=Failure(
            stage=stage, reason=error.reason, message=f"{error.message.rstrip('.')}. {CLASSES[error.reason].advice}"
        ),
        parity=ParitySummary(verdict="Failed", outputs=outputs) if outputs else None,
    )
    path = Path(environment.get(TERMINATION_LOG_VARIABLE, TERMINATION_LOG))
    try:
        path.write_text(fit(outcome))
    except OSError as problem:
        LOGGER.warning("the termination message cannot be written: %s", problem.strerror)


def end(code: int) -> None:
    """End without waiting for threads: a hung forward pass or an unfinished load would wait for ever."""
    logging.shutdown()
    os._exit(code)
