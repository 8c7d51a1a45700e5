"""The first moments of a serving process, in which a container's first process would lose a SIGTERM."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HEAVY = ("pydantic_core", "uvloop", "httptools", "libtorch")
"""Shared libraries that the imports after the handler load."""


def caught(process: int) -> bool:
    """Whether a process has a handler for SIGTERM."""
    status = Path(f"/proc/{process}/status").read_text()
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def test_sigterm_is_handled_before_anything_heavy_is_imported() -> None:
    command = [sys.executable, "-m", "torchscript_operator.serve"]
    with subprocess.Popen(command, env={**os.environ, "TSM_SERVE_REQUEST": ""}, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not caught(process.pid):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGSTOP)
        loaded = Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        code = process.wait(30)
    assert [name for name in HEAVY if name in loaded] == []
    assert code == 0


def test_an_artifact_in_a_folder_needs_nothing_of_s3() -> None:
    """Its library costs every serving pod a tenth of a second and 5 MB."""
    code = (
        "import sys; from torchscript_operator.artifact import request, store\n"
        "import torchscript_operator.serve.loading\n"
        "store.open_store(request.StoreLocation(uri='file:///nowhere')).exists('x')\n"
        "print([name for name in ('botocore', 'boto3', 'urllib3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
