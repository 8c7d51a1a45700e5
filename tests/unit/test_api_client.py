"""Calls and watches against a server that answers what a test says."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from torchscript_operator.controller import connection
from torchscript_operator.controller.cluster import Cluster
from torchscript_operator.controller.connection import ApiError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
JOBS = ("batch/v1", "jobs", None, "torchscript.dev/model", "7")
JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"namespace": "ml", "name": "x", "ownerReferences": []}}


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Cluster]:
    """A client of a server that gives every request to a handler."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    configuration = Configuration(host=f"http://127.0.0.1:{port}", api_key={"BearerToken": "bearer secret"})
    async with aiohttp.ClientSession() as session:
        yield Cluster(session, configuration, None)
    await runner.cleanup()


def streaming(*chunks: bytes, pause: float = 0) -> Handler:
    """A handler that sends a body piece by piece and then, maybe, falls silent."""

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for chunk in chunks:
            await answer.write(chunk)
            await asyncio.sleep(0.01)
        await asyncio.sleep(pause)
        return answer

    return handle


def refusing(status: int, message: str = "no", **headers: str) -> Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.json_response({"message": message}, status=status, headers=headers)

    return handle


async def heard(cluster: Cluster) -> list[Any]:
    return [event async for event in cluster.watch(*JOBS)]


async def test_event_may_come_in_pieces_and_several_in_one() -> None:
    async with serving(streaming(b'{"type":"AD', b'DED"}\n{"type":"MODIFIED"}\n{"ty', b'pe":"DELETED"}\n')) as cluster:
        assert [event["type"] for event in await heard(cluster)] == ["ADDED", "MODIFIED", "DELETED"]


async def test_watch_asks_for_bookmarks_from_a_version_on() -> None:
    asked: dict[str, str] = {}

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.update(request.query, path=request.path, token=request.headers["Authorization"])
        return web.Response()

    async with serving(handle) as cluster:
        assert await heard(cluster) == []
    assert asked.items() >= {"path": "/apis/batch/v1/jobs", "watch": "true", "allowWatchBookmarks": "true"}.items()
    assert (asked["resourceVersion"], asked["labelSelector"], asked["token"]) == (JOBS[4], JOBS[3], "bearer secret")


async def test_watch_that_falls_silent_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WATCH_TIMEOUT", aiohttp.ClientTimeout(total=None, sock_read=0.1))
    async with serving(streaming(b'{"type":"ADDED"}\n', pause=0.5)) as cluster:
        assert len(await heard(cluster)) == 1


async def test_watch_that_is_refused_says_so() -> None:
    async with serving(refusing(410, "too old")) as cluster:
        with pytest.raises(ApiError) as caught:
            await heard(cluster)
    assert (caught.value.status, caught.value.message) == (410, "too old")


async def test_watch_that_breaks_off_says_so() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        return answer

    async with serving(handle) as cluster:
        with pytest.raises(ApiError) as caught:
            await heard(cluster)
    assert caught.value.status == 0


async def test_first_application_names_a_version_that_nothing_has() -> None:
    asked: list[Any] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append((request.method, await request.json()))
        return web.json_response({"metadata": {}})

    body = {**JOB, "apiVersion": "apps/v1", "kind": "Deployment"}
    async with serving(handle) as cluster:
        await cluster.apply_new(body)
    assert asked == [("PATCH", {**body, "metadata": {**JOB["metadata"], "resourceVersion": "1"}})]  # type: ignore[dict-item]


async def test_first_application_of_what_is_there_says_so() -> None:
    async with serving(refusing(409, "the object has been modified")) as cluster:
        with pytest.raises(connection.ExistsError) as caught:
            await cluster.apply_new({**JOB, "apiVersion": "apps/v1", "kind": "Deployment"})
    assert (caught.value.status, caught.value.permanent) == (409, False)


async def test_deployment_that_is_not_there_has_nothing_to_scale() -> None:
    async with serving(refusing(404)) as cluster:
        assert await cluster.scale("system", "operator", 0) is None


async def test_too_many_requests_are_tried_again_when_the_server_says() -> None:
    calls: list[float] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        calls.append(asyncio.get_running_loop().time())
        answer = refusing(429, **{"Retry-After": "1"}) if len(calls) == 1 else refusing(200)
        return await answer(request)

    async with serving(handle) as cluster:
        assert await cluster.find("v1", "services", "ml", "x") == {"message": "no"}
    assert calls[1] - calls[0] >= 1


async def test_refusal_has_the_servers_words_and_no_token() -> None:
    async with serving(refusing(403, "forbidden: quota")) as cluster:
        with pytest.raises(ApiError) as caught:
            await cluster.create(JOB)
    assert caught.value.permanent
    assert str(caught.value) == "403: forbidden: quota"


async def test_object_that_went_between_conflict_and_look_is_created_by_the_next_pass() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await refusing(409 if request.method == "POST" else 404)(request)

    owned = {**JOB, "metadata": {**JOB["metadata"], "ownerReferences": [{"uid": "u"}]}}
    async with serving(handle) as cluster:
        with pytest.raises(ApiError) as caught:
            await cluster.create(owned)
    assert caught.value.status == 409
    assert not caught.value.permanent


@pytest.mark.parametrize(("live", "is_told"), [("u", True), ("another", False)])
async def test_conflict_of_a_deletion_is_told_while_the_object_is_there(live: str, is_told: bool) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE":
            return await refusing(409)(request)
        return web.json_response({"metadata": {"uid": live}})

    item = {**JOB, "metadata": {**JOB["metadata"], "uid": "u"}}
    async with serving(handle) as cluster:
        if not is_told:
            return await cluster.delete(item)
        with pytest.raises(ApiError) as caught:
            await cluster.delete(item)
    assert caught.value.status == 409
    return None


@pytest.mark.parametrize("text", ["plain", "\x7f", "\x92", "\x85", "\ufeff", "\uffff", "\x00\x1b", "é 語 😀", '"\\'])
def test_what_is_sent_is_json_and_yaml_alike(text: str) -> None:
    sent = connection.encode({"message": text})
    assert json.loads(sent) == yaml.safe_load(sent.decode()) == {"message": text}


async def test_replaced_token_is_read_again_when_the_old_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read_again(configuration: Configuration) -> None:
        configuration.api_key["BearerToken"] = "bearer new"

    async def handle(request: web.Request) -> web.StreamResponse:
        return await refusing(200 if request.headers["Authorization"] == "bearer new" else 401)(request)

    monkeypatch.setattr(connection, "log_in", read_again)
    async with serving(handle) as cluster:
        assert await cluster.find("v1", "services", "ml", "x") == {"message": "no"}


async def test_refused_token_that_is_not_replaced_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read_again(_: Configuration) -> None:
        raise connection.config.ConfigException

    monkeypatch.setattr(connection, "log_in", read_again)
    async with serving(refusing(401, "Unauthorized")) as cluster:
        with pytest.raises(ApiError) as caught:
            await cluster.find("v1", "services", "ml", "x")
    assert caught.value.status == 401
    assert not caught.value.permanent


async def test_time_is_the_servers() -> None:
    async with serving(refusing(200, Date="Thu, 01 Jan 2026 12:00:00 GMT")) as cluster:
        await cluster.find("v1", "services", "ml", "x")
    assert cluster.clock.now().strftime("%Y-%m-%d %H:%M") == "2026-01-01 12:00"


async def test_absent_object_is_none() -> None:
    async with serving(refusing(404)) as cluster:
        assert await cluster.find("v1", "services", "ml", "x") is None


async def test_answer_that_is_no_json_is_no_answer() -> None:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>")

    async with serving(handle) as cluster:
        with pytest.raises(ApiError) as caught:
            await cluster.find("v1", "services", "ml", "x")
    assert caught.value.status == 0


async def test_pages_are_read_to_the_end() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        first = "continue" not in request.query
        metadata = {"resourceVersion": "7", **({"continue": "more"} if first else {})}
        return web.json_response({"items": [{"page": 1 if first else 2}], "metadata": metadata})

    async with serving(handle) as cluster:
        assert await cluster.list("batch/v1", "jobs") == [{"page": 1}, {"page": 2}]


@pytest.mark.parametrize(
    ("environment", "given", "wanted"),
    [
        ({}, None, None),
        ({"https_proxy": "http://proxy:1"}, None, "http://proxy:1"),
        ({"https_proxy": "http://proxy:1"}, "http://own:1", "http://own:1"),
        ({"https_proxy": "http://proxy:1", "no_proxy": "10.0.0.1"}, None, None),
    ],
)
def test_proxy_is_the_kubeconfigs_or_the_environments(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], given: str | None, wanted: str | None
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert connection.proxy_of(Configuration(host="https://10.0.0.1:443", proxy=given)) == wanted
