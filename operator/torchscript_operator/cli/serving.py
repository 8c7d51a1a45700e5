"""tsm run, second half: the pod's own process on this machine, until the keyboard or a signal ends it."""

import errno
import json
import shlex
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from torchscript_operator.artifact.failures import reason_of_exit_code
from torchscript_operator.artifact.request import (
    SCRATCH_VARIABLE,
    SERVE_VARIABLE,
    TERMINATION_LOG_VARIABLE,
    ServeRequest,
)
from torchscript_operator.cli import advice, children, locations
from torchscript_operator.cli.children import Line, Worker
from torchscript_operator.cli.errors import CliError, InterruptedBySignal
from torchscript_operator.cli.stages import Stages

MODULE = "torchscript_operator.serve"
READY_STAGE = "serve"
STAGES = {
    "fetch": "Fetching and verifying every file",
    "load": "Loading the compiled model",
    "replay": "Replaying eager's recorded outputs on this machine",
    "warm-up": "Warming up every shape",
}
"""What each of the server's stages does."""
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - addresses that are shown, not listened on
PREDICT = "/predict"
_SENTENCE = "The parcel was delivered on Tuesday."
EXAMPLES: dict[str, tuple[str, object]] = {
    "feature-extraction": ("/v1/embeddings", ["Hello."]),
    "fill-mask": (PREDICT, "The parcel was [MASK] on Tuesday."),
    "text-classification": (PREDICT, _SENTENCE),
    "token-classification": (PREDICT, _SENTENCE),
    "question-answering": (PREDICT, {"question": "When was it delivered?", "context": _SENTENCE}),
    "multiple-choice": (PREDICT, {"prompt": "The parcel", "choices": ["arrived.", "sang."]}),
    "text2text-generation": (PREDICT, _SENTENCE),
}
"""Task to the path and the input of a first request."""
SERVER_ERROR = 500


def check_port(host: str, port: int, option: str) -> None:
    """Raise CliError for an address that cannot be listened on: it would come out only after the export."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            found = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on: {error.strerror}"
            step = f"Choose another with {option}; {option} 0 takes a free one."
            raise CliError(f"Port {port} on {host} {found}.", exit_code=1, advice=step) from error


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str
    port: int
    """Of HTTP; 0 takes a free one."""
    grpc_port: int | None = None
    """Of the Open Inference Protocol over gRPC; None leaves it out."""

    def check(self) -> None:
        """Raise CliError for what cannot be listened on: it would come out only after the export."""
        check_port(self.host, self.port, "--port")
        if self.grpc_port is not None:
            check_port(self.host, self.grpc_port, "--grpc-port")

    @property
    def variables(self) -> dict[str, str]:
        """The server's settings."""
        grpc = {"GRPC": "off"} if self.grpc_port is None else {"GRPC": "on", "GRPC_PORT": str(self.grpc_port)}
        settings = {"HOST": self.host, "PORT": str(self.port), **grpc}
        return {f"TSM_SERVE_{name}": value for name, value in settings.items()}


def serve(request: ServeRequest, task: str, address: Address, console: Console) -> None:
    """Serve one artifact until a signal. CliError, with the exit code of the failure's class, when it cannot."""
    cache = locations.cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    log = children.log_file(cache, request.model, request.target, "serve")
    with tempfile.TemporaryDirectory(prefix="serve-", dir=cache) as scratch:
        variables = {
            SERVE_VARIABLE: request.to_json(),
            SCRATCH_VARIABLE: scratch,
            TERMINATION_LOG_VARIABLE: str(Path(scratch, "termination-log")),
            **address.variables,
            # Nobody has to forget this process before it may stop listening.
            "TSM_SERVE_LINGER_SECONDS": "0",
            # With the access log, which is for the person who is trying the model.
            "TSM_SERVE_LOG_LEVEL": "debug",
        }
        with children.interruptible(), children.worker(MODULE, variables, log) as running:
            server = _Server(request, task, console)
            try:
                code = server.follow(running)
            except InterruptedBySignal:
                _stop(running, console)
                return
    raise CliError(
        server.complaint or f"The server ended with exit code {code}. The end of its log:\n{running.tail()}",
        code or 1,
        advice.on(reason_of_exit_code(code)) if server.complaint else f"The whole log: {log}",
    )


def _stop(running: Worker, console: Console) -> None:
    """End the server, requests in flight first; a second signal ends it at once."""
    console.print("\nAnswering requests in flight; Ctrl-C again ends at once.")
    running.process.terminate()
    try:
        running.process.communicate()
    except InterruptedBySignal:
        running.process.terminate()
        running.process.communicate()
    console.print("Stopped.")


class _Server:
    """Follows a server's log: its stages, then what it answers."""

    def __init__(self, request: ServeRequest, task: str, console: Console) -> None:
        self._request = request
        self._task = task
        self._console = console
        self._url = ""
        self._grpc = ""
        self.complaint = ""
        """The last error, as the server itself put it."""

    def follow(self, running: Worker) -> int:
        """Return the exit code of a server that ends by itself."""
        with Stages(self._console) as stages:
            for line in running.lines():
                self._learn(line)
                if line.stage == READY_STAGE:
                    stages.done()
                    break
                if line.stage in STAGES and not line.alarming:
                    stages.enter(line.stage, STAGES[line.stage])
            else:
                stages.fail()
                return running.follow(self._learn)
        self._welcome()
        return running.follow(self._answer)

    def _learn(self, line: Line) -> None:
        if "url" in line.fields:
            self._url = str(line.fields["url"])
        if "grpc" in line.fields:
            self._grpc = str(line.fields["grpc"])
        if line.fields.get("level") == "error":
            self.complaint = line.message

    def _welcome(self) -> None:
        url = self._url
        for wildcard, shown in WILDCARDS.items():
            url = url.replace(f"//{wildcard}:", f"//{shown}:")
        self._console.print()
        self._console.print(f"[bold]{escape(self._request.name)}[/] answers at [bold]{escape(url)}[/] ({url}/docs)")
        if self._grpc:
            self._console.print(f"[dim]gRPC at {escape(self._grpc)}[/]")
        self._console.print()
        self._console.print(f"  {escape(self._first_request(url))}", soft_wrap=True)
        self._console.print()
        self._console.print("[dim]Ctrl-C stops it.[/]")

    def _first_request(self, url: str) -> str:
        path, given = EXAMPLES[self._task]
        body = {"inputs": given} if path == PREDICT else {"model": self._request.name, "input": given}
        text = json.dumps(body)
        return f"curl {url}{path} \\\n    -H 'Content-Type: application/json' \\\n    -d {shlex.quote(text)}"

    def _answer(self, line: Line) -> None:
        self._learn(line)
        status = line.fields.get("status")
        if line.message == "request" and isinstance(status, int):
            asked = f"{line.fields.get('method')} {line.fields.get('path')}"
            colour = "red" if status >= SERVER_ERROR else "dim"
            took = line.fields.get("duration_ms")
            self._console.print(f"[{colour}]{escape(asked)}  {status}  {took} ms[/]")
        elif line.alarming:
            self._console.print(f"[yellow]![/] {escape(line.message)}")
