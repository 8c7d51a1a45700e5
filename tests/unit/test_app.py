"""The full look at all models: what it queues, and what it forgets."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from torchscript_operator.controller import app
from torchscript_operator.controller.connection import ApiError
from torchscript_operator.controller.handlers import Listener
from torchscript_operator.controller.model import Json
from torchscript_operator.controller.queue import Key, Rank
from torchscript_operator.controller.settings import Settings
from torchscript_operator.controller.shown import Shown

SETTINGS = Settings(worker_image="w")
AT_REST = [("Ready", "True"), ("Reconciling", "False"), ("Stalled", "False")]


def body(name: str, conditions: list[tuple[str, str]] = AT_REST) -> Json:
    told = [{"type": kind, "status": status} for kind, status in conditions]
    metadata = {"namespace": "ml", "name": name, "uid": name, "generation": 1}
    return {"metadata": metadata, "status": {"observedGeneration": 1, "conditions": told}}


class Server:
    """Lists what a test says, look by look; the last answer stays."""

    def __init__(self, *looks: list[Json] | Exception) -> None:
        self.looks = list(looks)

    async def pages(self, *_: Any) -> AsyncIterator[tuple[list[Json], str]]:
        found = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(found, Exception):
            raise found
        for item in found:
            yield [item], "7"


class Keys:
    """Stands for the queue."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.ranks: list[Rank] = []

    def add(self, key: Key, rank: Rank) -> None:
        self.added.append(key.name)
        self.ranks.append(rank)


class Signs:
    """Stands for the health checks."""

    def __init__(self) -> None:
        self.started, self.looks = False, 0

    def resynced(self) -> None:
        self.started, self.looks = True, self.looks + 1


@pytest.fixture
def listener() -> Listener:
    return Listener(Keys(), Shown())  # type: ignore[arg-type]


def queued(listener: Listener) -> list[str]:
    found: list[str] = listener.queue.added  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(("everything", "expected"), [(True, ["well", "stuck"]), (False, ["stuck"])])
async def test_look_queues_all_models_or_those_that_are_not_at_rest(
    listener: Listener, everything: bool, expected: list[str]
) -> None:
    found = [body("well"), body("stuck", [("Ready", "False")])]
    server = Server(found)
    for item in found:
        listener.is_news(Key(item["metadata"]["namespace"], item["metadata"]["name"]), item)  # events have told of both
    await app.full_look(server, listener, SETTINGS, Rank.LOOK, everything=everything, keep=False)  # type: ignore[arg-type]
    assert queued(listener) == expected


async def test_later_looks_wait_for_nobodys_work_but_of_what_no_event_has_told(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.random, "uniform", lambda *_: 0)
    leading = asyncio.Event()
    leading.set()
    server = Server([body("stuck", [("Ready", "False")])], [body("stuck", [("Ready", "False")])], [body("new")])
    task, _ = await run(server, listener, leading)
    task.cancel()
    assert listener.queue.ranks[:3] == [Rank.REPORTED, Rank.LOOK, Rank.REPORTED]  # type: ignore[attr-defined]


async def test_look_forgets_models_whose_end_no_event_has_told(listener: Listener) -> None:
    for name in ("gone", "there"):
        await listener.model_event({"type": None, "object": body(name)})
    await app.full_look(Server([body("there")]), listener, SETTINGS, Rank.LOOK, everything=False, keep=False)  # type: ignore[arg-type]
    assert list(listener.wishes) == [Key("ml", "there")]
    assert list(listener.census._entries) == [Key("ml", "there")]


async def run(server: Server, listener: Listener, leading: asyncio.Event) -> tuple[asyncio.Task[None], Signs]:
    signs = Signs()
    looks = app.resync(server, listener, SETTINGS, signs, leading)  # type: ignore[arg-type]
    task = asyncio.create_task(looks)
    for _ in range(10):
        await asyncio.sleep(0)
    return task, signs


async def test_operator_that_waits_looks_once_and_again_as_soon_as_it_leads(listener: Listener) -> None:
    leading = asyncio.Event()
    task, signs = await run(Server([body("well")]), listener, leading)
    assert (signs.started, signs.looks) == (True, 1)
    leading.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert (signs.looks, queued(listener)) == (2, ["well", "well"]), "the second look is at everything"
    assert listener.queue.ranks[-1] is Rank.REPORTED, "nothing else tells what happened before"  # type: ignore[attr-defined]
    task.cancel()


async def test_models_at_rest_are_kept_by_the_first_look_as_leader_alone(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.random, "uniform", lambda *_: 0)
    leading = asyncio.Event()
    both = [body("well"), body("stuck", [("Ready", "False")])]
    task, _ = await run(Server(both, both, [*both, body("later")]), listener, leading)
    assert listener.shown._bodies == {}
    leading.set()
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    assert [key.name for key in listener.shown._bodies] == ["well"]
    assert Key("ml", "later") in listener.wishes


async def test_absent_definition_ends_the_operator_before_it_has_started(listener: Listener) -> None:
    leading = asyncio.Event()
    leading.set()
    task, _ = await run(Server(ApiError(404, "not found")), listener, leading)
    with pytest.raises(app.MissingResourceError, match="install the CRD"):
        await task


async def test_failed_look_is_tried_again(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "RETRY_SECONDS", 0)
    leading = asyncio.Event()
    leading.set()
    task, signs = await run(Server(ApiError(503, "starting"), [body("well")]), listener, leading)
    assert signs.looks == 1
    task.cancel()
