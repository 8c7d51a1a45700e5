"""`python -m torchscript_operator.serve`: reads the request from the environment and serves one artifact.

Kept tiny: as a container's first process it has no default for SIGTERM, so that one that comes before a handler is
installed would be lost, and the imports below take half a second.
"""

import os
import signal
from importlib import import_module
from typing import Any


def end_early(_number: int, _frame: Any) -> None:
    """End at once: nothing is served yet, and nothing is left to tidy up."""
    os._exit(0)


if __name__ == "__main__":
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, end_early)
    code: int = import_module("torchscript_operator.serve.start").main()
    import_module("torchscript_operator.serve.ending").end(code)
