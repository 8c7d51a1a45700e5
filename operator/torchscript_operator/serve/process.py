"""The life of a serving process: listen, load, serve, drain, end with the exit code that says how it went."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

import uvloop

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import ServeRequest
from torchscript_operator.serve.access import Tls, tls_of, tokens_of
from torchscript_operator.serve.ending import FORCED_EXIT, classify, report
from torchscript_operator.serve.engine import Engine, Limits
from torchscript_operator.serve.http import application, health
from torchscript_operator.serve.server import Server, http_server
from torchscript_operator.serve.settings import Settings, traced
from torchscript_operator.serve.state import Model, State

if TYPE_CHECKING:
    from torchscript_operator.serve.loading import Loaded
    from torchscript_operator.serve.rpc import Listener
    from torchscript_operator.serve.tracing import Tracing

LOGGER = logging.getLogger(__name__)
RENEW_SECONDS = 60.0
"""Between two looks at the certificate; a renewed Secret takes about as long to reach the pod."""


class Process:
    """One serving process; `run` returns its exit code."""

    def __init__(self, request: ServeRequest, settings: Settings, environment: Mapping[str, str]) -> None:
        """Take what to serve, how, and the environment with the store's credentials.

        Raises WorkerError (InvalidRequest) for a token or certificate that cannot be used.
        """
        self._environment = environment
        self._settings = settings
        self._state = State(request, settings)
        self._exit_code = 0
        self._terminations = 0
        self._state.tracing = tracing_of(request, environment)
        self._tokens = tokens_of(settings)
        self._tls = tls_of(settings)
        state = self._state
        self._server = http_server("url", application(state, self._tokens), settings.port, state, self._tls)
        self._health = (
            http_server("health", health(state), settings.health_port, state) if settings.health_port else None
        )
        self._listener: Listener | None = None
        self._listening: asyncio.Future[bool] | None = None
        self._opening: asyncio.Future[None] | None = None
        self._stopping: asyncio.Future[None] | None = None

    def run(self) -> int:
        """Serve until a signal or a failure; the exit code of a failure's class, 0 after a drain."""
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(self._serve())

    async def _serve(self) -> int:
        loop = asyncio.get_running_loop()
        # Few: what each of them works on is up to some hundred megabytes of a tokenizer's.
        loop.set_default_executor(self._state.executor)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        # A daemon: a load that hangs must not keep the process from ending.
        threading.Thread(target=self._load, args=(loop,), name="load", daemon=True).start()
        self._listening = asyncio.ensure_future(self._listen())
        if self._tls is not None:
            self._renew(loop, self._tls)
        await asyncio.gather(self._serve_http(self._server), self._serve_health())
        if self._stopping is not None:
            await self._stopping
        if self._state.model is not None:
            self._state.model.engine.stop(0.1)
        if self._state.tracing is not None:
            await asyncio.to_thread(self._state.tracing.close)
        LOGGER.info("ended", extra={"exit_code": self._exit_code})
        return self._exit_code

    async def _serve_http(self, server: Server) -> None:
        try:
            await server.serve()
        except SystemExit:
            # uvicorn's way to say that the port is taken.
            self._fail_port(server.config.port)

    async def _serve_health(self) -> None:
        if self._health is not None:
            await self._serve_http(self._health)

    async def _listen(self) -> bool:
        """Start gRPC where it is on; whether the process may become ready."""
        if self._settings.grpc == "off":
            return True
        try:
            # In a thread, beside the import of torch; what C++ would log is no JSON.
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
            rpc = await asyncio.to_thread(import_module, "torchscript_operator.serve.rpc")
        except ImportError as error:
            if self._settings.grpc == "on":
                msg = f"TSM_SERVE_GRPC is on, but this image has no {error.name}"
                self._fail(WorkerError(FailureReason.INVALID_REQUEST, msg))
                return False
            LOGGER.warning("gRPC is off: this image has no %s", error.name)
            return True
        listener: Listener = rpc.Listener(self._state, self._tokens, self._tls)
        try:
            await listener.start()
        except RuntimeError:
            self._fail_port(self._settings.grpc_port)
            return False
        self._listener = listener
        return True

    def _renew(self, loop: asyncio.AbstractEventLoop, tls: Tls) -> None:
        tls.renew()
        loop.call_later(RENEW_SECONDS, self._renew, loop, tls)

    def _fail_port(self, port: int) -> None:
        self._fail(WorkerError(FailureReason.INTERNAL_ERROR, f"port {port} cannot be listened on"))

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
        self._opening = loop.create_task(self._open(loop, outcome))

    async def _open(self, loop: asyncio.AbstractEventLoop, outcome: "Loaded | WorkerError") -> None:
        if isinstance(outcome, WorkerError):
            self._fail(outcome)
            return
        manifest, request, settings = outcome.manifest, self._state.request, self._settings
        make = Engine if self._state.tracing is None else self._state.tracing.engine
        engine = make(
            outcome.runner,
            Limits(
                queue_rows=settings.queue_rows,
                queue_tokens=settings.queue_tokens,
                delay_seconds=request.batching.maximum_delay_milliseconds / 1000,
                forward_seconds=settings.forward_seconds,
                workers=outcome.runner.workers,
                queue_seconds=settings.queue_seconds,
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
        # Ready only when both protocols are there.
        if self._listening is None or await self._listening:
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
        self._exit()

    def _exit(self, *, force: bool = False) -> None:
        for server in (self._server, self._health):
            if server is not None:
                server.should_exit = True
                server.force_exit = force
        if self._listener is not None:
            stop = self._listener.stop(0 if force else self._settings.drain_seconds)
            self._stopping = asyncio.get_running_loop().create_task(stop)

    def _terminate(self) -> None:
        self._terminations += 1
        if self._terminations > 1:
            self._exit_code = FORCED_EXIT
            self._exit(force=True)
            return
        serving = self._state.model is not None
        self._state.enter("drain")
        loop = asyncio.get_running_loop()
        # A pod that was never ready is in no endpoint list: nobody has to forget it.
        loop.call_later(self._settings.linger_seconds if serving else 0, self._exit)


def tracing_of(request: ServeRequest, environment: Mapping[str, str]) -> "Tracing | None":
    """Traces where the environment asks for them and the image can make them; else the model is served without."""
    if not traced(environment):
        return None
    try:
        made: Tracing = import_module("torchscript_operator.serve.tracing").make(request, environment)
    except ImportError as error:
        LOGGER.warning("traces are off: this image has no %s", error.name)
    except ValueError as error:
        LOGGER.warning("traces are off: %s", error)
    else:
        return made
    return None
