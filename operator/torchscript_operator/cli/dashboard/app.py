"""The page's server: the files of the page, the models as events, one model in full, and parity reports."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from importlib import resources

from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from torchscript_operator import __version__
from torchscript_operator.artifact.failures import WorkerError
from torchscript_operator.cli import advice, reports
from torchscript_operator.cli.cluster import progress
from torchscript_operator.cli.cluster.access import Json
from torchscript_operator.cli.cluster.read import ModelView
from torchscript_operator.cli.dashboard import facts, guard
from torchscript_operator.cli.dashboard.feed import Feed
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.waiting import Logs

TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
COALESCE_SECONDS = 0.1
"""Changes that come within this time are told together."""
SILENCE_SECONDS = 15.0
"""After which a word is sent, so that a page that has gone is noticed."""
KEPT_REPORTS = 16


class Dashboard:
    """What the routes share."""

    def __init__(self, feed: Feed, wish: reports.Wish) -> None:
        """Take what is shown, and how reports are to be read from their stores."""
        self._feed = feed
        self._wish = wish
        self._logs = Logs(feed.cluster)
        self._logs_lock = threading.Lock()
        self._lock = threading.Lock()
        self._reports: dict[str, bytes] = {}
        folder = resources.files(__package__) / "assets"
        self._files = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}

    def app(self) -> Starlette:
        """The routes, below the token."""
        return Starlette(
            routes=[
                Route("/", self._file),
                Route("/assets/{name}", self._file),
                Route("/events", self._events),
                Route("/models/{namespace}/{name}", self._model),
                Route("/reports/{namespace}/{name}/{target}", self._report),
            ],
        )

    async def _file(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in self._files:
            return Response(status_code=HTTPStatus.NOT_FOUND)
        return Response(self._files[name], media_type=TYPES[name.rpartition(".")[2]])

    async def _events(self, _request: Request) -> StreamingResponse:
        return StreamingResponse(self._told(), media_type="text/event-stream")

    async def _told(self) -> AsyncIterator[str]:
        """Server-sent events: everything first, then what has changed."""
        changed, loop = asyncio.Event(), asyncio.get_running_loop()
        leave = self._feed.listen(_waking(loop, changed))
        try:
            cluster = self._feed.cluster
            yield _event("hello", {"context": cluster.context, "namespace": cluster.namespace, "version": __version__})
            serial = 0
            changed.set()
            while not self._feed.stopped:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), SILENCE_SECONDS)
                if not changed.is_set():
                    yield ": still here\n\n"
                    continue
                changed.clear()
                if self._feed.models.read or self._feed.problem is not None:
                    serial, told = await run_sync(self._news, serial)
                    yield _event("models", told)
                await asyncio.sleep(COALESCE_SECONDS)
        finally:
            leave()

    def _news(self, serial: int) -> tuple[int, Json]:
        newest, views, gone = self._feed.since(serial)
        problem = self._feed.problem
        return newest, {
            "whole": serial == 0,
            "now": progress.now().isoformat(),
            "rows": [facts.row(view) for view in views],
            "gone": [list(key) for key in gone],
            "missing": self._feed.missing,
            "problem": {"message": problem.message, "advice": problem.advice} if problem else None,
        }

    async def _model(self, request: Request) -> Response:
        view = self._feed.view(**request.path_params)
        # No error for one that has just gone: a page that asks for it has done nothing wrong.
        return JSONResponse(None if view is None else await run_sync(self._detail, view))

    def _detail(self, view: ModelView) -> Json:
        # Logs are followed only of models that somebody looks at.
        with self._logs_lock:
            self._logs.watch(view)
        return facts.detail(view, self._logs.runs, self._logs.earlier, progress.now())

    async def _report(self, request: Request) -> Response:
        place = request.path_params
        view = self._feed.view(place["namespace"], place["name"])
        if view is None:
            return _refusal(HTTPStatus.NOT_FOUND, "This model is not there any more.", "")
        try:
            content = await run_sync(partial(self._page, view, place["target"]))
        except WorkerError as error:
            step = f"{advice.on(error.reason)} `tsm dashboard --secret` takes the credentials that the pods have."
            return _refusal(HTTPStatus.BAD_GATEWAY, error.message, step)
        except CliError as error:
            return _refusal(HTTPStatus.NOT_FOUND, error.message, error.advice)
        return HTMLResponse(content, headers={"Content-Security-Policy": guard.REPORT_POLICY})

    def _page(self, view: ModelView, target: str) -> bytes:
        wish = replace(self._wish, target=target)
        uri = reports.find(view, wish).uri or ""
        with self._lock:
            if uri in self._reports:
                return self._reports[uri]
        content = reports.page(self._feed.cluster.within(view.model.namespace), view, wish)
        with self._lock:
            while len(self._reports) >= KEPT_REPORTS:
                self._reports.pop(next(iter(self._reports)))
            self._reports[uri] = content
        return content


def _waking(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> Callable[[], None]:
    def wake() -> None:
        # The loop may have ended while a thread was about to tell.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(event.set)

    return wake


def _event(name: str, data: Json) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


def _refusal(status: HTTPStatus, message: str, step: str) -> JSONResponse:
    return JSONResponse({"message": message, "advice": step}, status)
