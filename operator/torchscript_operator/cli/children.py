"""Worker processes: started like a Job's or a pod's container, read line by line, and never left behind."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from torchscript_operator.cli.errors import InterruptedBySignal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a command to end: the keyboard, a supervisor, a terminal that is closed."""
PATIENCE_SECONDS = 10
"""For a worker to end after SIGTERM."""
TAIL_LINES = 12
"""Of a log, shown when a worker has died without saying why."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn the signals that end a command into InterruptedBySignal, so that every `finally` runs."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise InterruptedBySignal(number)

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Line:
    """A line of a worker's log."""

    fields: Mapping[str, Any]

    @property
    def message(self) -> str:
        """What it says."""
        return str(self.fields.get("message", ""))

    @property
    def stage(self) -> str | None:
        """The stage that the worker is in."""
        return self.fields.get("stage")

    @property
    def seconds(self) -> float | None:
        """At the end of a stage, how long it took."""
        return self.fields.get("elapsedSeconds")

    @property
    def alarming(self) -> bool:
        """Whether somebody should look at it."""
        return self.fields.get("level") in {"warning", "error", "critical"}


class Worker:
    """A running worker."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path, copy: IO[str]) -> None:
        """Take the process, the file that its log goes to, and that file open."""
        self.process = process
        self.log = log
        self._copy = copy

    def lines(self) -> Iterator[Line]:
        """The log's lines as they are written, until the worker closes its output; what is no JSON is only kept."""
        stream = self.process.stdout
        for text in stream or ():
            self._copy.write(text)
            self._copy.flush()
            try:
                fields = json.loads(text)
            except ValueError:
                continue
            if isinstance(fields, dict):
                yield Line(fields)

    def follow(self, see: Callable[[Line], None]) -> int:
        """Hand on every line; returns the exit code, 128 and the signal's number for one that was killed."""
        for line in self.lines():
            see(line)
        code = self.process.wait()
        return code if code >= 0 else 128 - code

    def tail(self) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])

    def stop(self) -> None:
        """Ask it to end, and end it when it does not."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@contextmanager
def worker(module: str, variables: Mapping[str, str], log: Path) -> Iterator[Worker]:
    """Run a worker's module with this process's environment and more; it is stopped at the end whatever happens."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as copy:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", module],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            # The keyboard's signal reaches this process alone, which hands on one of its own.
            start_new_session=True,
        )
        running = Worker(process, log, copy)
        try:
            yield running
        finally:
            running.stop()
            if process.stdout is not None:
                process.stdout.close()


def log_file(folder: Path, *names: str) -> Path:
    """A file for a worker's log, one for each model and purpose, which the next run writes anew."""
    return folder / "logs" / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', '-'.join(names))}.log"
