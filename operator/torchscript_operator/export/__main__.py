"""The export Job's process: a request in an environment variable, an outcome in the termination message."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from torchscript_operator.artifact import digest, logs, request
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.artifact.outcome import ExportOutcome, Failure, fit
from torchscript_operator.artifact.request import ExportRequest
from torchscript_operator.export.logs import LOGGER

DEFAULT_TERMINATION_LOG = "/dev/termination-log"
"""Where Kubernetes reads a container's termination message."""
QUIET_LOGGERS = ("httpx", "httpcore", "huggingface_hub", "urllib3", "botocore", "boto3", "s3transfer")
"""Libraries whose lines are only worth reading from warnings on."""
ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that wait for each other sleep: spinning takes the core from the one that is waited for, which makes a
    # pass five times slower on a node that has other work.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Settings that the libraries read while they are imported."""


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Run the request of the environment and return the process's exit code."""
    text = environment.get(request.EXPORT_VARIABLE, "")
    try:
        asked = ExportRequest.model_validate_json(text)
    except ValidationError as error:
        logs.configure({}, environment, stream=sys.stdout)
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
        outcome = _refused(text, f"{request.EXPORT_VARIABLE} holds no valid request: {problems}.")
    else:
        logs.configure({"model": asked.model, "target": asked.target}, environment, stream=sys.stdout)
        for name in QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        outcome = _run(asked, environment)
    _report(outcome, environment)
    return CLASSES[outcome.failure.reason].exit_code if outcome.failure else 0


def _run(asked: ExportRequest, environment: Mapping[str, str]) -> ExportOutcome:
    from torchscript_operator.export.pipeline import run  # noqa: PLC0415

    return run(asked, environment, _scratch(environment))


def _scratch(environment: Mapping[str, str]) -> Path:
    return Path(environment.get(request.SCRATCH_VARIABLE, request.SCRATCH_PATH))


def _refused(text: str, found: str) -> ExportOutcome:
    reason = FailureReason.INVALID_REQUEST
    failure = Failure(stage="start", reason=reason, message=f"{found} {CLASSES[reason].advice}")
    return ExportOutcome(request_digest=digest.of_bytes(text.encode()), succeeded=False, failure=failure)


def _report(outcome: ExportOutcome, environment: Mapping[str, str]) -> None:
    """Write the termination message, and the same to the log, which outlives the pod where logs are gathered."""
    message = fit(outcome)
    LOGGER.info(
        "The export has ended", extra={"outcome": outcome.model_dump(mode="json", by_alias=True, exclude_none=True)}
    )
    path = Path(environment.get(request.TERMINATION_LOG_VARIABLE, DEFAULT_TERMINATION_LOG))
    try:
        path.write_text(message, encoding="utf-8")
    except OSError as error:
        LOGGER.warning("The termination message cannot be written to %s: %s", path, error.strerror)


def exit_on_termination() -> None:
    """End the process at once when it is asked to, also while a forward pass is running.

    A thread waits for the signal, since Python runs handlers only between two steps of the main thread. Nothing has
    to be tidied up: what was uploaded so far is not an artifact before its manifest.
    """
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        number = signal.sigwait(signals)
        sys.stderr.write(f"Ended by {signal.Signals(number).name}\n")
        sys.stderr.flush()
        os._exit(128 + number)

    threading.Thread(target=wait, name="termination", daemon=True).start()


if __name__ == "__main__":
    # A worker's home cannot be written to.
    settings = ENVIRONMENT | {"HF_HOME": str(_scratch(os.environ) / "hub")}
    os.environ.update({name: value for name, value in settings.items() if name not in os.environ})
    exit_on_termination()
    sys.exit(main())
