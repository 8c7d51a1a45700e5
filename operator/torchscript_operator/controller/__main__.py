"""`python -m torchscript_operator.controller`: the operator, as its image runs it."""

import asyncio
import gc
import logging
import os
import sys

import yaml
from pydantic import ValidationError

from torchscript_operator import __version__
from torchscript_operator.artifact import logs
from torchscript_operator.controller import app, health, lease, settings

PORT_VARIABLE = "TSM_HEALTH_PORT"
"""Environment variable that moves health and metrics to another port."""

EXIT_CODES: dict[type[Exception], int] = {
    lease.NoNamespaceError: 2,
    app.MissingResourceError: 3,
    lease.LeaseLostError: 4,
}
"""Of the process, for what it expects to end it; the kubelet starts it again."""
GARBAGE_THRESHOLDS = (20_000, 20, 50)
"""New objects, and rounds, between two searches for cycles. At Python's (700, 10, 10), what lasts, such as the digests
of all children, is searched so often that a restart with 1,500 models takes a fifth more CPU (measured)."""


def main() -> int:
    """Read the settings, run, and say in one line why it ended badly."""
    logs.configure({"operator": __version__}, os.environ)
    try:
        chosen = settings.load()
    except (KeyError, OSError, ValidationError, ValueError, yaml.YAMLError) as error:
        logging.getLogger(__name__).error("the settings file (%s) is bad: %s", settings.PATH_VARIABLE, error)  # noqa: TRY400 -- one line, no trace
        return 2
    logging.getLogger("torchscript_operator").setLevel(chosen.log_level)
    # kopf writes two lines for each event, with all of its settings in each.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    try:
        asyncio.run(app.run(chosen, int(os.environ.get(PORT_VARIABLE, health.PORT))))
    except (app.MissingResourceError, lease.NoNamespaceError, lease.LeaseLostError) as error:
        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 -- one line, no trace
        return EXIT_CODES[type(error)]
    return 0


if __name__ == "__main__":
    sys.exit(main())
