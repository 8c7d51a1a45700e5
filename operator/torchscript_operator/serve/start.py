"""From the environment to a serving process: the request, the settings, the log."""

import contextlib
import ctypes
import logging
import os
import sys

from pydantic import ValidationError

from torchscript_operator.artifact import logs
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import SERVE_VARIABLE, ServeRequest
from torchscript_operator.artifact.threads import available_threads
from torchscript_operator.serve.ending import report
from torchscript_operator.serve.process import Process
from torchscript_operator.serve.settings import Settings

LOGGER = logging.getLogger(__name__)
SPIN_VARIABLE = "GOMP_SPINCOUNT"
"""How often OpenMP's threads look for work before they sleep; read when torch loads its runtime."""
SPIN_COUNT = "10000"
"""Some tens of microseconds: between two operators of a pass they stay awake. The default spins for milliseconds, in
which a neighbour on the same core stands still."""
ARENAS_OPTION = -8
"""M_ARENA_MAX of mallopt(3): one for each thread that computes and one for all others. More would keep tens of MiB."""
SWITCH_SECONDS = 0.0001
"""After which a thread that runs Python lets another in. By default a pass that has ended may wait for 5 ms while the
event loop answers the last one's clients, and its processor does nothing."""


def main() -> int:
    """Serve; returns the exit code."""
    sys.setswitchinterval(SWITCH_SECONDS)
    os.environ.setdefault(SPIN_VARIABLE, SPIN_COUNT)
    # Another C library has no such option, and its own ways.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(ARENAS_OPTION, available_threads() + 1)
    environment = dict(os.environ)
    digest = ""
    try:
        try:
            request = ServeRequest.model_validate_json(environment.get(SERVE_VARIABLE, ""))
        except ValidationError as error:
            msg = f"{SERVE_VARIABLE} holds no request of this version ({error.error_count()} errors)."
            raise WorkerError(FailureReason.INVALID_REQUEST, msg) from None
        digest = request.digest
        settings = Settings.from_environment(environment)
        fields = {"model": request.model, "target": request.target, "digest": request.digest}
        try:
            logs.configure(fields, environment, settings.log_level)
        except ValueError as error:
            raise WorkerError(FailureReason.INVALID_REQUEST, f"unknown log level {settings.log_level!r}") from error
        process = Process(request, settings, environment)
    except WorkerError as error:
        logs.configure({}, environment)
        LOGGER.error(  # noqa: TRY400 - the message says it all
            "%s", error.message, extra={"reason": error.reason, "exit_code": error.exit_code}
        )
        report(digest, "start", error, environment)
        return error.exit_code
    return process.run()
