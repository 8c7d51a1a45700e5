"""`python -m torchscript_operator.export.remove`: the Job that removes artifacts of a model that was deleted."""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from torchscript_operator.artifact import digest, logs, request, store
from torchscript_operator.artifact.failures import CLASSES, FailureReason, WorkerError
from torchscript_operator.artifact.outcome import ExportOutcome, Failure, fit
from torchscript_operator.artifact.request import RemoveRequest

DEFAULT_TERMINATION_LOG = "/dev/termination-log"
"""Where Kubernetes reads a container's termination message."""

logger = logging.getLogger(__name__)


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Remove what the request of the environment names and return the process's exit code."""
    text = environment.get(request.REMOVE_VARIABLE, "")
    try:
        asked = RemoveRequest.model_validate_json(text)
    except ValidationError as error:
        logs.configure({}, environment, stream=sys.stdout)
        message = f"{request.REMOVE_VARIABLE} holds no valid request ({error.error_count()} errors)."
        return _end(text, WorkerError(FailureReason.INVALID_REQUEST, message), environment)
    logs.configure({"model": asked.model}, environment, stream=sys.stdout)
    try:
        _remove(asked, environment)
    except WorkerError as error:
        return _end(text, error, environment)
    return _end(text, None, environment)


def _remove(asked: RemoveRequest, environment: Mapping[str, str]) -> None:
    """Remove every artifact. Raises WorkerError at the first that cannot be removed."""
    credentials = store.Credentials.from_environment(request.ARTIFACT_CREDENTIALS_PREFIX, environment)
    for key in asked.keys:
        location = asked.store.model_copy(update={"uri": f"{asked.store.uri}/{key}"})
        count = store.remove(store.open_store(location, credentials))
        logger.info("Artifact %s is removed (%d files)", key, count)


def _end(text: str, error: WorkerError | None, environment: Mapping[str, str]) -> int:
    """Write the termination message and return the exit code."""
    failure = None
    if error is not None:
        logger.error("%s", error.message)
        advice = CLASSES[error.reason].advice
        failure = Failure(stage="remove", reason=error.reason, message=f"{error.message} {advice}")
    outcome = ExportOutcome(request_digest=digest.of_bytes(text.encode()), succeeded=error is None, failure=failure)
    path = Path(environment.get(request.TERMINATION_LOG_VARIABLE, DEFAULT_TERMINATION_LOG))
    try:
        path.write_text(fit(outcome), encoding="utf-8")
    except OSError as found:
        logger.warning("The termination message cannot be written to %s: %s", path, found.strerror)
    return 0 if error is None else error.exit_code


if __name__ == "__main__":
    sys.exit(main())
