"""What a person sees of a server: when it answers, how to ask it, what it answered, and why it ended."""

import io
import os
import socket
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from torchscript_operator.api.v1alpha1.spec import Task
from torchscript_operator.artifact.request import ServeRequest, StoreLocation
from torchscript_operator.cli import serving
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.serving import Address

REQUEST = ServeRequest(
    model="default/minilm", target="cpu", artifact=StoreLocation(uri="file:///store/key"), digest="sha256:ab"
)
STARTED = """
import json, os, sys
def say(**fields): print(json.dumps({"level": "info", "message": ""} | fields), flush=True)
say(message="listening", url=f"http://{os.environ['TSM_SERVE_HOST']}:8080")
for stage in ("fetch", "load", "replay", "warm-up", "serve"): say(message=f"stage {stage}", stage=stage)
"""
FAILED = """
import json, sys
print(json.dumps({"level": "info", "message": "stage fetch", "stage": "fetch"}))
print(json.dumps({"level": "error", "message": "model.pt has SHA-256 0 instead of 1.", "stage": "fetch"}))
sys.exit(89)
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source of a module that stands in for the server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(serving, "MODULE", "made_up_serve")
    return tmp_path / "made_up_serve.py"


def run(task: str = "feature-extraction", host: str = "127.0.0.1") -> tuple[str, CliError]:
    """What was printed, and how it ended; a stand-in always ends by itself."""
    stream = io.StringIO()
    with pytest.raises(CliError) as caught:
        serving.serve(REQUEST, task, Address(host, 0), Console(file=stream, width=200))
    return stream.getvalue(), caught.value


def test_a_ready_server_says_how_to_ask_it(server: Path) -> None:
    server.write_text(STARTED)
    printed, _ = run()
    assert "minilm answers at http://127.0.0.1:8080" in printed
    assert """-d '{"model": "minilm", "input": ["Hello."]}'""" in printed
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("✓")] == [
        "fetch",
        "load",
        "replay",
        "warm-up",
    ]


def test_a_wildcard_is_shown_as_an_address_that_can_be_asked(server: Path) -> None:
    server.write_text(STARTED)
    assert "curl http://127.0.0.1:8080/" in run(host="0.0.0.0")[0]  # noqa: S104 - nothing listens


@pytest.mark.parametrize("task", get_args(Task))
def test_every_task_has_a_first_request(server: Path, task: str) -> None:
    server.write_text(STARTED)
    assert "curl http://127.0.0.1:8080/" in run(task)[0]


def test_answered_requests_are_shown(server: Path) -> None:
    line = 'say(message="request", method="POST", path="/predict[0]", status=200, duration_ms=3.5)\n'
    server.write_text(STARTED + line)
    assert "POST /predict[0]  200  3.5 ms" in run()[0]


def test_a_warning_is_shown(server: Path) -> None:
    server.write_text(STARTED + 'say(level="warning", message="the queue is full")\n')
    assert "! the queue is full" in run()[0]


def test_a_server_that_cannot_start_has_its_classes_exit_code(server: Path) -> None:
    server.write_text(FAILED)
    printed, error = run()
    assert error.exit_code == 89
    assert error.message == "model.pt has SHA-256 0 instead of 1."
    assert "answers at" not in printed
    assert "✗ fetch" in printed


def test_a_server_that_dies_without_a_word_shows_its_log(server: Path) -> None:
    server.write_text("raise SystemExit('no libgomp')\n")
    _, error = run()
    assert "no libgomp" in error.message
    assert "default-minilm-cpu-serve.log" in error.advice


def test_grpc_is_off_unless_asked_for() -> None:
    assert Address("127.0.0.1", 0).variables["TSM_SERVE_GRPC"] == "off"
    asked = Address("127.0.0.1", 0, 9001).variables
    assert (asked["TSM_SERVE_GRPC"], asked["TSM_SERVE_GRPC_PORT"]) == ("on", "9001")


def test_a_taken_port_is_told_before_anything_is_exported() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port: int = taken.getsockname()[1]
        with pytest.raises(CliError, match="is in use") as caught:
            Address("127.0.0.1", port).check()
        with pytest.raises(CliError) as grpc:
            Address("127.0.0.1", 0, port).check()
    assert "--port 0" in caught.value.advice
    assert "--grpc-port 0" in grpc.value.advice
