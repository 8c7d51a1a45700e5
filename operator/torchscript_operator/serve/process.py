"""The life of a serving process: listen, load, serve, drain, end with the exit code that says how it went."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from torchscript_operator.artifact.failures import CLASSES, FailureReason, WorkerError
from torchscript_operator.artifact.outcome import Failure, ParitySummary, ServeOutcome, fit
from torchscript_operator.artifact.request import TERMINATION_LOG_VARIABLE, ServeRequest
from torchscript_operator.serve.engine import Engine, Limits
from torchscript_operator.serve.http import application
from torchscript_operator.serve.settings import Settings
from torchscript_operator.serve.state import Model, State

if TYPE_CHECKING:
    from torchscript_operator.artifact.manifest import OutputParity
    from torchscript_operator.serve.loading import Loaded

LOGGER = logging.getLogger(__name__)
TERMINATION_LOG = "/dev/termination-log"
"""Kubernetes' default path of the termination message."""
FORCED_EXIT = 143
"""128 + SIGTERM: the process was ended with requests in flight."""
KEEP_ALIVE_SECONDS = 75
"""Longer than load balancers keep idle connections, so that it is they who close them."""
BACKLOG = 2048
"""Connections that the kernel holds while the event loop is busy."""
HTTP_LOGGER_LEVEL = "WARNING"
"""uvicorn's own lines about starts and connections say nothing that ours do not."""


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: a pod drains in an order of its own."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where: the port may have been left to the kernel."""
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                LOGGER.info("listening", extra={"url": f"http://{host}:{port}"})

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class Process:
    """One serving process; `run` returns its exit code."""

    def __init__(self, request: ServeRequest, settings: Settings, environment: Mapping[str, str]) -> None:
        """Take what to serve, how, and the environment with the store's credentials."""
        self._environment = environment
        self._settings = settings
        self._state = State(request, settings)
        self._exit_code = 0
        self._terminations = 0
        self._server = Server(
            uvicorn.Config(
                application(self._state),
                host=settings.host,
                port=settings.port,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=int(settings.drain_seconds),
            )
        )
        logging.getLogger("uvicorn").setLevel(HTTP_LOGGER_LEVEL)

    def run(self) -> int:
        """Serve until a signal or a failure; the exit code of a failure's class, 0 after a drain."""
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(self._serve())

    async def _serve(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        # A daemon: a load that hangs must not keep the process from ending.
        threading.Thread(target=self._load, args=(loop,), name="load", daemon=True).start()
        try:
            await self._server.serve()
        except SystemExit:
            # uvicorn's way to say that the port is taken.
            self._fail(WorkerError(FailureReason.INTERNAL_ERROR, f"port {self._settings.port} cannot be listened on"))
        if self._state.model is not None:
            self._state.model.engine.stop(0.1)
        LOGGER.info("ended", extra={"exit_code": self._exit_code})
        return self._exit_code

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        """Runs in the load thread; every end is handed to the event loop."""

        def progress(stage: str) -> None:
            loop.call_soon_threadsafe(self._state.enter, stage)

        outcome: Loaded | WorkerError
        try:
            # Imported here, since torch takes seconds in which probes are answered already.
            loading = import_module("torchscript_operator.serve.loading")
            outcome = loading.load(self._state.request, self._settings, self._environment, progress)
        except Exception as error:  # noqa: BLE001 - every failure gets a class and an exit code
            outcome = classify(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending anyway
            loop.call_soon_threadsafe(self._loaded, loop, outcome)

    def _loaded(self, loop: asyncio.AbstractEventLoop, outcome: "Loaded | WorkerError") -> None:
        if isinstance(outcome, WorkerError):
            self._fail(outcome)
            return
        manifest, request, settings = outcome.manifest, self._state.request, self._settings
        engine = Engine(
            outcome.runner,
            Limits(
                queue_rows=settings.queue_rows,
                queue_tokens=settings.queue_tokens,
                delay_seconds=request.batching.maximum_delay_milliseconds / 1000,
                forward_seconds=settings.forward_seconds,
                workers=outcome.runner.workers,
            ),
            self._state.metrics,
        )
        engine.start(loop)
        self._state.model = Model(manifest, outcome.task, outcome.tokenizing, outcome.runner.buckets, engine)
        self._state.metrics.artifact.labels(
            request.model,
            request.target,
            request.digest,
            manifest.key,
            manifest.task,
            manifest.compilation.compiler,
            manifest.precision,
        ).set(1)
        self._state.enter("serve")

    def _fail(self, error: WorkerError) -> None:
        if self._state.draining:
            return
        self._exit_code = error.exit_code
        LOGGER.error(
            "%s",
            error.message,
            extra={"stage": self._state.stage, "reason": error.reason, "exit_code": error.exit_code},
        )
        report(self._state.request.digest, self._state.stage, error, self._environment)
        self._server.should_exit = True

    def _terminate(self) -> None:
        self._terminations += 1
        if self._terminations > 1:
            self._exit_code = FORCED_EXIT
            self._server.should_exit = self._server.force_exit = True
            return
        serving = self._state.model is not None
        self._state.enter("drain")
        loop = asyncio.get_running_loop()
        # A pod that was never ready is in no endpoint list: nobody has to forget it.
        loop.call_later(self._settings.linger_seconds if serving else 0, setattr, self._server, "should_exit", True)  # noqa: FBT003


def classify(error: Exception) -> WorkerError:
    """The class of whatever ended loading; the text of unknown errors stays in the log, since it may name paths."""
    if isinstance(error, WorkerError):
        return error
    LOGGER.error("loading failed", exc_info=error)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return WorkerError(FailureReason.OUT_OF_MEMORY, "The model does not fit into the container's memory.")
    if isinstance(error, OSError) and error.errno in {28, 122}:  # ENOSPC, EDQUOT
        return WorkerError(FailureReason.OUT_OF_DISK, "The scratch volume is full.")
    return WorkerError(FailureReason.INTERNAL_ERROR, f"Loading failed with {type(error).__name__}.")


def report(digest: str, stage: str, error: WorkerError, environment: Mapping[str, str]) -> None:
    """Write the termination message; a process outside a pod has nowhere to, which is no failure."""
    outputs: tuple[OutputParity, ...] = getattr(error, "outputs", ())
    outcome = ServeOutcome(
        digest=digest,
        failure=Failure(
            stage=stage, reason=error.reason, message=f"{error.message.rstrip('.')}. {CLASSES[error.reason].advice}"
        ),
        parity=ParitySummary(verdict="Failed", outputs=outputs) if outputs else None,
    )
    path = Path(environment.get(TERMINATION_LOG_VARIABLE, TERMINATION_LOG))
    try:
        path.write_text(fit(outcome))
    except OSError as problem:
        LOGGER.warning("the termination message cannot be written: %s", problem.strerror)


def end(code: int) -> None:
    """End without waiting for threads: a hung forward pass or an unfinished load would wait for ever."""
    logging.shutdown()
    os._exit(code)
