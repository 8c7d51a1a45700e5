"""What the kubelet asks: is the operator alive and does it hear, and has it started."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from torchscript_operator.controller import cluster
from torchscript_operator.controller.calls import Calls
from torchscript_operator.controller.lease import Leadership

PORT = 8080
"""Health and metrics."""
STUCK_SECONDS = 300.0
"""A key that waits so long while no pass ends means that no worker works."""
MISSED_RESYNCS = 3
"""Full looks that may fail in a row before the process is better started again."""
DEAF_SECONDS = 2.0 * cluster.WATCH_SECONDS
"""The server ends a watch after half of this; one that has not begun again by then never will."""


class Health:
    """Collects signs of life. Each check gives a reason when it is unwell."""

    def __init__(
        self,
        stuck_seconds: Callable[[], float],
        resync_seconds: float,
        leadership: Leadership,
        calls: Calls,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take how long the queue stands still, the time between two full looks, who leads, and what is watched."""
        self._stuck_seconds = stuck_seconds
        self._resync_seconds = resync_seconds
        self._leadership = leadership
        self._calls = calls
        self._clock = clock
        self.last_resync = clock()
        self.started = False

    def resynced(self) -> None:
        """A full look has been made."""
        self.last_resync = self._clock()
        self.started = True

    def ailments(self) -> list[str]:
        """Why the process should be started again; empty when it is well."""
        return [*self._idle(), *self._deaf()]

    def _idle(self) -> list[str]:
        """What a leader leaves undone; whoever waits to lead has nothing to do, and its time begins when it leads."""
        found = []
        led = self._leadership.led_seconds()
        if (waited := min(self._stuck_seconds(), led)) > STUCK_SECONDS:
            found.append(f"a model waits, and no pass has ended for {waited:.0f} s")
        silence = min(self._clock() - self.last_resync, led)
        if silence > self._resync_seconds * MISSED_RESYNCS:
            found.append(f"no full look at all models for {silence:.0f} s")
        return found

    def _deaf(self) -> list[str]:
        ages = self._calls.ages().items()
        return [f"the watch of {path} has not begun again for {age:.0f} s" for path, age in ages if age > DEAF_SECONDS]

    def lacks(self) -> list[str]:
        """What is still to come before the operator has started."""
        found = [] if self.started else ["a full look at all models"]
        found += [] if self._leadership.able else ["a lease that it can read"]
        return found + [f"the watch of {path}" for path in self._calls.waiting()]

    async def live(self, _: web.Request) -> web.Response:
        """Answer /healthz."""
        found = self.ailments()
        return web.Response(text="; ".join(found) or "ok", status=500 if found else 200)

    async def ready(self, _: web.Request) -> web.Response:
        """Answer /readyz; an operator that waits to lead is ready for that."""
        found = self.lacks()
        return web.Response(
            text=f"starting, still without {', '.join(found)}" if found else "ok", status=503 if found else 200
        )

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
