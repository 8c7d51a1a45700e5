"""Constants of time with which an operator does within seconds what it else does within minutes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp

from torchscript_operator.controller import handlers, settings

if TYPE_CHECKING:
    from pathlib import Path

    import kopf

_configure, _load = handlers.configure, settings.load


def load() -> settings.Settings:
    """Settings with a full look every three seconds."""
    return _load().model_copy(update={"resync_seconds": 3})


def configure(chosen: kopf.OperatorSettings) -> None:
    """A watcher that takes three silent seconds for deafness."""
    _configure(chosen)
    chosen.watching.server_timeout = 5
    chosen.watching.inactivity_timeout = 3


IMPATIENT: dict[str, Any] = {
    "settings.load": load,
    "handlers.configure": configure,
    "cluster.WATCH_SECONDS": 5,
    "connection.WATCH_TIMEOUT": aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=3),
}
SHORT_CALLS: dict[str, Any] = {
    "connection.TIMEOUT": aiohttp.ClientTimeout(total=1),
    "queue.LAST_RETRY_SECONDS": 1.0,
    "watch.LAST_RETRY_SECONDS": 1.0,
}


class MovedClock:
    """A machine's clock that is wrong by as many seconds as a file says."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=float(self.file.read_text()))
