"""What the kubelet asks: is the operator alive and does it hear, and has it started."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

PORT = 8080
"""Health and metrics."""
STUCK_SECONDS = 300.0
"""A key that waits longer at the head of the queue means that no worker works."""
MISSED_RESYNCS = 3
"""Full looks that may fail in a row before the process is better started again."""


class Health:
    """Collects signs of life. Each check gives a reason when it is unwell."""

    def __init__(self, oldest_seconds: Callable[[], float], resync_seconds: float) -> None:
        """Take the queue's age and the time between two full looks."""
        self._oldest_seconds = oldest_seconds
        self._resync_seconds = resync_seconds
        self.last_resync = time.monotonic()
        self.started = False

    def resynced(self) -> None:
        """A full look has been made."""
        self.last_resync = time.monotonic()
        self.started = True

    def ailments(self) -> list[str]:
        """Why the process should be started again; empty when it is well."""
        found = []
        if (waited := self._oldest_seconds()) > STUCK_SECONDS:
            found.append(f"a model has waited {waited:.0f} s for a pass")
        silence = time.monotonic() - self.last_resync
        if silence > self._resync_seconds * MISSED_RESYNCS:
            found.append(f"no full look at all models for {silence:.0f} s")
        return found

    async def live(self, _: web.Request) -> web.Response:
        """Answer /healthz."""
        found = self.ailments()
        return web.Response(text="; ".join(found) or "ok", status=500 if found else 200)

    async def ready(self, _: web.Request) -> web.Response:
        """Answer /readyz."""
        return web.Response(text="ok" if self.started else "starting", status=200 if self.started else 503)

    async def metrics(self, _: web.Request) -> web.Response:
        """Answer /metrics."""
        body = await asyncio.to_thread(generate_latest)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


@contextlib.asynccontextmanager
async def serve(health: Health, port: int = PORT) -> AsyncIterator[None]:
    """Answer health and metrics requests on all addresses."""
    app = web.Application()
    app.router.add_get("/healthz", health.live)
    app.router.add_get("/readyz", health.ready)
    app.router.add_get("/metrics", health.metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()
