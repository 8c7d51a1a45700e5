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

from torchscript_operator.artifact.devices import no_device
from torchscript_operator.artifact.failures import CLASSES, FailureReason, WorkerError
from torchscript_operator.artifact.outcome import Failure, ParitySummary, ServeOutcome, fit
from torchscript_operator.artifact.request import TERMINATION_LOG_VARIABLE, ServeRequest
from torchscript_operator.serve.access import Tls, Tokens
from torchscript_operator.serve.connection import Bounds, bounded
from torchscript_operator.serve.engine import Engine, Limits
from torchscript_operator.serve.http import application, health
from torchscript_operator.serve.settings import Settings
from torchscript_operator.serve.state import Model, State

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from torchscript_operator.artifact.manifest import OutputParity
    from torchscript_operator.serve.loading import Loaded
    from torchscript_operator.serve.rpc import Listener

LOGGER = logging.getLogger(__name__)
TERMINATION_LOG = "/dev/termination-log"
"""Kubernetes' default path of the termination message."""
FORCED_EXIT = 143
"""128 + SIGTERM: the process was ended with requests in flight."""
KEEP_ALIVE_SECONDS = 75
"""Longer than load balancers keep idle connections, so that it is they who close them."""
BACKLOG = 2048
"""Connections that the kernel holds while the event loop is busy."""
RENEW_SECONDS = 60.0
"""Between two looks at the certificate; a renewed Secret takes about as long to reach the pod."""
HTTP_LOGGER_LEVEL = "ERROR"
"""uvicorn's lines about starts and connections say nothing that ours do not, and strangers could fill the log."""


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: a pod drains in an order of its own."""

    def __init__(self, config: uvicorn.Config, label: str) -> None:
        """label: the log's field with the address."""
        super().__init__(config)
        self._label = label

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where: the port may have been left to the kernel."""
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                scheme = "https" if self.config.is_ssl else "http"
                LOGGER.info("listening", extra={self._label: f"{scheme}://{host}:{port}"})

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


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
        self._tokens = Tokens(Path(settings.token_file)) if settings.token_file else None
        self._tls = tls_of(settings)
        self._server = self._http("url", application(self._state, self._tokens), settings.port, self._tls)
        self._health = (
            self._http("health", health(self._state), settings.health_port, None) if settings.health_port else None
        )
        self._listener: Listener | None = None
        self._listening: asyncio.Future[bool] | None = None
        self._opening: asyncio.Future[None] | None = None
        self._stopping: asyncio.Future[None] | None = None
        logging.getLogger("uvicorn").setLevel(HTTP_LOGGER_LEVEL)

    def _http(self, label: str, app: "ASGIApp", port: int, tls: Tls | None) -> Server:
        settings = self._settings
        bounds = Bounds(
            connections=settings.connections,
            head_bytes=settings.head_bytes,
            head_seconds=settings.head_seconds,
            write_seconds=settings.write_seconds,
            metrics=self._state.metrics,
        )
        return Server(
            uvicorn.Config(
                app,
                host=settings.host,
                port=port,
                loop="uvloop",
                http=bounded(bounds),
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
                ssl_context_factory=None if tls is None else lambda _config, _default: tls.context,
            ),
            label,
        )

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
        self._listening = asyncio.ensure_future(self._listen())
        if self._tls is not None:
            self._renew(loop, self._tls)
        await asyncio.gather(self._serve_http(self._server), self._serve_health())
        if self._stopping is not None:
            await self._stopping
        if self._state.model is not None:
            self._state.model.engine.stop(0.1)
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


def tls_of(settings: Settings) -> Tls | None:
    """TLS where the settings ask for it. Raises WorkerError (InvalidRequest)."""
    if not settings.tls_certificate_file:
        return None
    authority = settings.tls_client_authority_file
    return Tls(Path(settings.tls_certificate_file), Path(settings.tls_key_file), Path(authority) if authority else None)


def classify(error: Exception) -> WorkerError:
    """The class of whatever ended loading; the text of unknown errors stays in the log, since it may name paths."""
    if isinstance(error, WorkerError):
        return error
    LOGGER.error("loading failed", exc_info=error)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return WorkerError(FailureReason.OUT_OF_MEMORY, "The model does not fit into the container's memory.")
    if isinstance(error, OSError) and error.errno in {28, 122}:  # ENOSPC, EDQUOT
        return WorkerError(FailureReason.OUT_OF_DISK, "The scratch volume is full.")
    unknown = WorkerError(FailureReason.INTERNAL_ERROR, f"Loading failed with {type(error).__name__}.")
    return no_device(error) or unknown


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
