"""A reader of the pages, who types their commands as they stand there.

A line that no page has fails. tests/unit/test_docs_commands.py reads every `types("…")` and `starts("…")` of the tests
and fails where a page has a command that none of them types.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from typer.testing import CliRunner

from tests.cluster.binaries import build
from tests.cluster.paths import binary
from tests.unit import pages
from torchscript_operator.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

SECONDS = 400
"""Longest time that a command takes on a busy machine."""
OWN = ("Makefile", "charts", "crds", "examples")
"""What commands name of the repository."""
TERMINAL = "set -o pipefail\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n"
"""A terminal that is closed takes what runs in its background along."""


@dataclass(frozen=True)
class Typed:
    """A line that was typed, and what came of it."""

    process: subprocess.Popen[str]
    stdout: Path
    stderr: Path

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until it has said something."""
        deadline = time.monotonic() + SECONDS
        while (found := re.search(pattern, self.text)) is None:
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            # What another process writes is no event to wait for.
            time.sleep(0.05)
        return found

    @property
    def text(self) -> str:
        """All that it has said."""
        return self.stdout.read_text() + self.stderr.read_text()

    def ends(self, code: int = 0) -> str:
        """Its standard output, once it has ended by itself with an exit code."""
        assert self.process.wait(SECONDS) == code, self.text
        return self.stdout.read_text()

    def ctrl_c(self) -> int:
        """Its exit code after Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(SECONDS)


class Reader:
    """Someone with a terminal in a folder that has what the repository has, and with kubectl, helm and tsm."""

    def __init__(self, folder: Path, swaps: dict[str, str] | None = None, **environment: str | Path) -> None:
        """swaps: what has to be other than in the pages, such as a port."""
        build(["helm"])
        self.folder, self.swaps = folder / "desk", swaps or {}
        self.folder.mkdir()
        for name in OWN:
            (self.folder / name).symlink_to(pages.ROOT / name)
        programs = folder / "programs"
        programs.mkdir()
        for name in ("kubectl", "helm"):
            (programs / name).symlink_to(binary(name))
        self.script(programs / "kustomize", 'shift\nexec kubectl kustomize "$@"')  # kubectl has all of it
        self.script(programs / "browser", f'echo "$@" >>{shlex.quote(str(folder / "browsed"))}')
        self.browsed = folder / "browsed"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), kept["PATH"]])
        own = {"HOME": str(folder), "PATH": path, "BROWSER": str(programs / "browser"), "NO_COLOR": "1"}
        self.environment = kept | own | {name: str(value) for name, value in environment.items()}

    @classmethod
    def at(cls, kubeconfig: Path, namespace: str, folder: Path, swaps: dict[str, str] | None = None) -> Self:
        """Someone whose kubeconfig is that of a cluster, with a namespace."""
        config = yaml.safe_load(kubeconfig.read_text())
        config["contexts"][0]["context"]["namespace"] = namespace
        own = folder / "kubeconfig"
        own.write_text(yaml.safe_dump(config))
        cache = kubeconfig.parent / "kubectl-cache"
        return cls(folder, swaps, KUBECONFIG=own, KUBECACHEDIR=cache, AWS_EC2_METADATA_DISABLED="true")

    @staticmethod
    def script(path: Path, text: str) -> None:
        """A program."""
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    @contextmanager
    def starts(self, line: str) -> Iterator[Typed]:
        """Type a line; whatever of it still runs at the end of the block is ended."""
        script = TERMINAL + self._read(line)
        stdout, stderr = (self.folder.parent / f"{time.monotonic_ns()}.{name}" for name in ("stdout", "stderr"))
        with stdout.open("w") as out, stderr.open("w") as err:
            process = subprocess.Popen(
                # A shell that runs the tests in its background has its children ignore Ctrl-C.
                ["env", "--default-signal=INT", "bash", "-c", script],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
            )
        try:
            yield Typed(process, stdout, stderr)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(SECONDS)

    def types(self, line: str, code: int = 0) -> str:
        """Standard output of a line that ends by itself with an exit code."""
        words = list(pages.split(line))
        if len(words) == 1 and words[0][0] == "tsm":
            return self._tsm(self._read(line), code)
        with self.starts(line) as typed:
            return typed.ends(code)

    def _read(self, line: str) -> str:
        unknown = [words for words in pages.split(line) if not any(it.is_shown_by(words) for it in pages.COMMANDS)]
        assert unknown == [], "no page has this"
        for old, new in self.swaps.items():
            line = line.replace(old, new)
        return line

    def _tsm(self, line: str, code: int) -> str:
        """In this process, since Python with all that the command needs takes a second to start."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name in os.environ.keys() - self.environment.keys():
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == code, done.output
        return done.stdout
