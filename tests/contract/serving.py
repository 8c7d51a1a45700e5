"""Serving processes in tests: `python -m torchscript_operator.serve` on this machine."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from torchscript_operator.artifact.outcome import ServeOutcome
from torchscript_operator.artifact.request import (
    SCRATCH_VARIABLE,
    SERVE_VARIABLE,
    TERMINATION_LOG_VARIABLE,
    ServeRequest,
    StoreLocation,
)

if TYPE_CHECKING:
    from tests.reader import Typed

DEADLINE_SECONDS = 120
"""For a start on a busy machine; a quiet one needs three seconds."""


@dataclass
class Pod:
    """A serving process."""

    process: subprocess.Popen[str]
    folder: Path

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]

    @property
    def url(self) -> str:
        """Where it listens, as its log says."""
        found: str = self._await(lambda: next((line["url"] for line in self.log if "url" in line), None))
        return found

    @property
    def grpc(self) -> str:
        """Where it listens for gRPC, as host:port."""
        found: str = self._await(lambda: next((line["grpc"] for line in self.log if "grpc" in line), None))
        return found

    @property
    def health(self) -> str:
        """The health port's URL, as its log says."""
        found: str = self._await(lambda: next((line["health"] for line in self.log if "health" in line), None))
        return found

    @property
    def outcome(self) -> ServeOutcome:
        return ServeOutcome.model_validate_json((self.folder / "termination-log").read_text())

    def wait_ready(self, url: str | None = None) -> None:
        url = url or self.url
        self._await(lambda: _status(f"{url}/v2/health/ready") == 200 or None)

    def wait_unready(self) -> None:
        url = self.url
        self._await(lambda: _status(f"{url}/v2/health/ready") == 503 or None)

    def wait_metric(self, line: str) -> None:
        url = self.url
        self._await(lambda: line in httpx.get(f"{url}/metrics").text.splitlines() or None)

    def wait_exit(self) -> int:
        return self.process.wait(DEADLINE_SECONDS)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def _await(self, look: Any) -> Any:
        end = time.monotonic() + DEADLINE_SECONDS
        while (found := look()) is None:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end
            # There is no event to wait for: readiness is polled, as the kubelet does.
            time.sleep(0.05)
        return found


def _status(url: str) -> int:
    try:
        return httpx.get(url).status_code
    except httpx.TransportError:
        return 0


async def until(condition: Callable[[], bool]) -> None:
    """For what other threads or processes do, of which there is no event to wait for."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def make_request(uri: str, digest: str, **batching: int) -> ServeRequest:
    return ServeRequest.model_validate(
        {
            "model": "tests/minilm",
            "target": "cpu",
            "artifact": StoreLocation(uri=uri),
            "digest": digest,
            "batching": batching,
        }
    )


@contextmanager
def pod(request: ServeRequest | str, folder: Path, environment: dict[str, str] | None = None) -> Iterator[Pod]:
    """Start a serving process on a free port; it is killed at the end when it still runs."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = {
        **os.environ,
        SERVE_VARIABLE: request if isinstance(request, str) else request.to_json(),
        SCRATCH_VARIABLE: str(folder / "scratch"),
        TERMINATION_LOG_VARIABLE: str(folder / "termination-log"),
        "TSM_SERVE_HOST": "127.0.0.1",
        "TSM_SERVE_PORT": "0",
        "TSM_SERVE_GRPC_PORT": "0",
        "TSM_SERVE_LINGER_SECONDS": "1",
        **(environment or {}),
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "torchscript_operator.serve"], env=variables, stderr=log, stdout=log, text=True
        )
        try:
            yield Pod(process, folder)
        finally:
            process.kill()
            process.wait()


def answers(typed: "Typed") -> None:
    """A `tsm run` of `tiny.write_sentence_model` proves it, and answers until Ctrl-C."""
    url = typed.says(r"answers at (http://\S+)\s")[1]
    answer = httpx.post(f"{url}/v1/embeddings", json={"model": "minilm", "input": ["Hello."]})
    assert len(answer.json()["data"][0]["embedding"]) == 32
    assert typed.ctrl_c() == 0
