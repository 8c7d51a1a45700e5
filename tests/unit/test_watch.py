"""Listening to children: list, watch, go on after every way in which a watch can end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from torchscript_operator.controller import watch as watching
from torchscript_operator.controller.children import Children
from torchscript_operator.controller.connection import ApiError
from torchscript_operator.controller.model import MODEL_LABEL, Json
from torchscript_operator.controller.queue import Key
from torchscript_operator.controller.watch import SOON_SECONDS, Watch

ONE, TWO = Key("ml", "one"), Key("ml", "two")
Part = Json | Exception
"""An event, or how a watch breaks off."""


class Done(Exception):  # noqa: N818 -- it ends a test
    """The script of a test is played out."""


class Server:
    """Plays lists and watches that a test writes down; remembers from which versions it was watched."""

    def __init__(self, lists: list[list[Json] | Exception], watches: list[list[Part]]) -> None:
        self.lists, self.watches = lists, watches
        self.since: list[str] = []
        self.listed = 0

    async def pages(self, *_: Any) -> AsyncIterator[tuple[list[Json], str]]:
        self.listed += 1
        found = self.lists[min(self.listed, len(self.lists)) - 1]
        if isinstance(found, Exception):
            raise found
        for number, item in enumerate(found):
            yield [item], f"{100 * self.listed + number}"
        yield [], f"{100 * self.listed + 99}"

    async def watch(self, *arguments: Any) -> AsyncIterator[Json]:
        self.since.append(arguments[-1])
        if len(self.since) > len(self.watches):
            raise Done
        for part in self.watches[len(self.since) - 1]:
            if isinstance(part, Exception):
                raise part
            yield part


class Keys:
    """Stands for the queue."""

    def __init__(self) -> None:
        self.now: list[Key] = []
        self.soon: list[tuple[Key, float]] = []

    def add(self, key: Key) -> None:
        self.now.append(key)

    def add_after(self, key: Key, seconds: float) -> None:
        self.soon.append((key, seconds))


def job(model: str = "one", version: str = "1", **status: Any) -> Json:
    metadata = {
        "namespace": "ml",
        "name": f"{model}-export",
        "uid": model,
        "resourceVersion": version,
        "labels": {MODEL_LABEL: model},
    }
    return {"metadata": metadata, "status": status}


def event(kind: str, body: Json) -> Json:
    return {"type": kind, "object": body}


def bookmark(version: str) -> Json:
    return event("BOOKMARK", {"metadata": {"resourceVersion": version}})


def error(code: int) -> Json:
    return event("ERROR", {"kind": "Status", "code": code, "message": "said the server"})


async def run(server: Server, *, relist_seconds: float = 600, plural: str = "jobs") -> tuple[Watch, Keys]:
    """Listen until the script is played out."""
    keys = Keys()
    watch = Watch(server, keys, Children(), plural, None, relist_seconds)  # type: ignore[arg-type]
    with pytest.raises(Done):
        await asyncio.wait_for(watch.run(), 5)
    return watch, keys


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FIRST_RETRY_SECONDS", 0.001)


async def test_everything_listed_asks_for_a_pass_and_the_watch_goes_on_from_the_lists_end() -> None:
    server = Server([[job("one"), job("two")]], [])
    watch, keys = await run(server)
    assert keys.now == [ONE, TWO]
    assert server.since == ["199"]
    assert watch.listed.is_set()


async def test_nothing_is_known_before_the_list_is_whole() -> None:
    server = Server([[job("one")]], [])
    watch = Watch(server, Keys(), Children(), "jobs", None, 600)  # type: ignore[arg-type]
    assert not watch.listed.is_set()


async def test_change_asks_for_a_pass_and_repetition_for_none() -> None:
    done = [{"type": "Complete", "status": "True"}]
    events = [event("ADDED", job()), event("MODIFIED", job()), event("MODIFIED", job(conditions=done))]
    _, keys = await run(Server([[]], [events]))
    assert keys.now == [ONE, ONE]


async def test_child_that_goes_asks_for_a_pass() -> None:
    _, keys = await run(Server([[job()]], [[event("DELETED", job())]]))
    assert keys.now == [ONE, ONE]


async def test_pod_that_appears_is_told_of_together_with_what_follows() -> None:
    _, keys = await run(Server([[]], [[event("ADDED", job())]]), plural="pods")
    assert (keys.now, keys.soon) == ([], [(ONE, SOON_SECONDS)])


async def test_watch_that_the_server_ends_goes_on_from_the_last_bookmark() -> None:
    server = Server([[]], [[event("ADDED", job(version="210")), bookmark("250")], []])
    await run(server)
    assert (server.listed, server.since) == (1, ["199", "250", "250"])


async def test_lost_connection_goes_on_without_another_list() -> None:
    server = Server([[]], [[bookmark("250"), ApiError(0, "gone")]])
    await run(server)
    assert (server.listed, server.since) == (1, ["199", "250"])


@pytest.mark.parametrize("part", [error(410), ApiError(410, "too old")])
async def test_version_that_is_too_old_is_followed_by_a_list(part: Part) -> None:
    server = Server([[job("one")], [job("two")]], [[bookmark("250"), part]])
    _, keys = await run(server)
    assert (server.listed, server.since) == (2, ["199", "299"])
    assert sorted(keys.now) == [ONE, ONE, TWO], "the one that the second list lacks is gone"


async def test_other_error_in_the_stream_is_tried_again() -> None:
    server = Server([[]], [[error(500)]])
    await run(server)
    assert server.since == ["199", "199"]


async def test_list_that_fails_is_tried_again_before_anything_is_watched() -> None:
    server = Server([ApiError(503, "starting"), []], [])
    await run(server)
    assert (server.listed, server.since) == (2, ["299"])


async def test_everything_is_listed_again_after_a_time() -> None:
    server = Server([[job()]], [[], []])
    _, keys = await run(server, relist_seconds=0)
    assert server.listed == 3
    assert keys.now == [ONE], "what has not changed asks for no pass"


async def test_failures_wait_ever_longer_until_an_event_comes() -> None:
    server = Server([[]], [[ApiError(0, "no")], [ApiError(0, "no")], [bookmark("250"), ApiError(0, "no")]])
    watch, _ = await run(server)
    assert watch.failures == 1
