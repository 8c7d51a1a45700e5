"""An operator that no longer hears of changes says so, and is started again."""

import asyncio
import os
import signal
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.cluster.controlplane import ControlPlane
from tests.cluster.network import free_ports
from torchscript_operator.controller import app, cluster, connection, health, settings

WAIT_SECONDS = 60


async def answer(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"http://127.0.0.1:{port}{path}") as found:
                return found.status, await found.text()
        except aiohttp.ClientConnectionError:
            return 0, ""


async def until(operator: asyncio.Task[None], port: int, path: str, status: int) -> str:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            assert not operator.done(), operator.result()
            found, text = await answer(port, path)
            if found == status:
                return text
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("plural", ["torchscriptmodels", "deployments"])
async def test_watch_that_ends_and_does_not_begin_again_makes_the_operator_unwell(
    plane: ControlPlane, settings_file: Path, monkeypatch: pytest.MonkeyPatch, plural: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    # The client has read that variable when it was imported.
    load = partial(connection.config.load_kube_config, config_file=str(plane.kubeconfig))
    monkeypatch.setattr(connection.config, "load_kube_config", load)
    # The server ends a watch after 2 s in place of 5 minutes, and deaf is who has not begun again after 10 s.
    monkeypatch.setattr(cluster, "WATCH_SECONDS", 2)
    monkeypatch.setattr(health, "DEAF_SECONDS", 10)
    (port,) = free_ports(1)
    held = asyncio.Event()
    if plural == "deployments":
        hold(monkeypatch, plural, held)
    operator = asyncio.create_task(app.run(settings.load(settings_file), port))
    await until(operator, port, "/readyz", 200)
    assert await until(operator, port, "/healthz", 200) == "ok"
    if plural == "torchscriptmodels":
        # As kopf's watcher ends on an error that it does not expect: nobody starts it again.
        watcher, *_ = [task for task in asyncio.all_tasks() if task.get_name().startswith(f"watcher for {plural}.")]
        watcher.cancel()
    held.set()
    text = await until(operator, port, "/healthz", 500)
    assert text.startswith("the watch of /apis/")
    assert f"/{plural} has not begun again" in text
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(operator, WAIT_SECONDS)


def hold(monkeypatch: pytest.MonkeyPatch, plural: str, held: asyncio.Event) -> None:
    """Let a watch of children stop for ever at its next turn, once a test says so."""
    follow = app.Watch.follow

    async def stuck(self: app.Watch) -> None:
        if self.plural == plural and held.is_set():
            await asyncio.Event().wait()
        await follow(self)

    monkeypatch.setattr(app.Watch, "follow", stuck)
