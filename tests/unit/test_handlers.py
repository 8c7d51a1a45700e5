"""What the operator listens to."""

import inspect
from typing import Any

import aiohttp
import kopf
import orjson
import pytest

from torchscript_operator.controller import handlers
from torchscript_operator.controller.handlers import Listener
from torchscript_operator.controller.queue import Key, Rank
from torchscript_operator.controller.shown import Shown


class Keys:
    """Stands for the queue: remembers what was asked for."""

    def __init__(self) -> None:
        self.added: list[Key] = []

    def add(self, key: Key, rank: Rank = Rank.REPORTED) -> None:
        assert rank is Rank.ASKED, "what a person asks for goes first"
        self.added.append(key)


def body(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "ml", "name": "minilm", "uid": "1", "generation": 1, **metadata}}


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def listener(keys: Keys) -> Listener:
    return Listener(keys, Shown())  # type: ignore[arg-type]


async def see(listener: Listener, kind: str | None, found: dict[str, Any]) -> None:
    await listener.model_event({"type": kind, "object": found})


async def test_new_model_asks_for_a_pass(listener: Listener, keys: Keys) -> None:
    await see(listener, None, body())
    assert keys.added == [Key("ml", "minilm")]


async def test_status_write_asks_for_none(listener: Listener, keys: Keys) -> None:
    await see(listener, "ADDED", body())
    await see(listener, "MODIFIED", {**body(), "status": {"observedGeneration": 1}})
    await see(listener, "MODIFIED", body(labels={"team": "a"}))
    assert len(keys.added) == 1


@pytest.mark.parametrize(
    "change",
    [{"generation": 2}, {"annotations": {"torchscript.dev/retry": "1"}}, {"uid": "2"}, {"deletionTimestamp": "t"}],
)
async def test_change_of_what_is_wanted_asks_for_a_pass(listener: Listener, keys: Keys, change: dict[str, Any]) -> None:
    await see(listener, "ADDED", body())
    await see(listener, "MODIFIED", body(**change))
    assert len(keys.added) == 2


async def test_model_that_comes_again_asks_for_a_pass(listener: Listener, keys: Keys) -> None:
    await see(listener, "ADDED", body())
    await see(listener, "DELETED", body())
    await see(listener, "ADDED", body())
    assert len(keys.added) == 2


def resting(**status: Any) -> dict[str, Any]:
    said = {"Ready": "True", "Reconciling": "False", "Stalled": "False", **status.pop("said", {})}
    conditions = [{"type": kind, "status": value} for kind, value in said.items()]
    return {**body(), "status": {"observedGeneration": 1, "conditions": conditions, **status}}


def test_model_that_serves_is_at_rest() -> None:
    assert handlers.at_rest(resting())


@pytest.mark.parametrize(
    "found",
    [
        body(),
        resting(observedGeneration=0),
        resting(said={"Ready": "False"}),
        resting(said={"Reconciling": "True"}),
        resting(said={"Stalled": "True"}),
        resting(conditions=[]),
    ],
)
def test_model_that_anything_can_come_of_is_not_at_rest(found: dict[str, Any]) -> None:
    assert not handlers.at_rest(found)


def test_kopf_writes_nothing_of_its_own() -> None:
    settings = kopf.OperatorSettings()
    handlers.configure(settings)
    assert settings.posting.enabled is False
    assert settings.peering.standalone is True
    assert settings.scanning.disabled is True


def test_only_low_level_handlers_are_registered(listener: Listener) -> None:
    registry = kopf.OperatorRegistry()
    handlers.register(registry, listener, handlers.Login())
    assert len(list(registry._watching.get_all_handlers())) == 1
    assert list(registry._changing.get_all_handlers()) == []
    assert list(registry._spawning.get_all_handlers()) == []


def credentials(bearer: str) -> kopf.ConnectionInfo:
    return kopf.ConnectionInfo(server="https://server", scheme="Bearer", token=bearer)


async def test_connection_is_listened_to_and_stays_while_its_credentials_do(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [credentials("one"), credentials("one"), credentials("two")]
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: found.pop(0))
    trace = aiohttp.TraceConfig()
    login = handlers.Login(trace)
    first, same, renewed = [await login.connection() for _ in range(3)]
    assert first is same, "kopf knows by this that it has been refused with them before"
    assert first is not None
    assert renewed is not None
    assert renewed is not first
    assert first.aiohttp_session.trace_configs == [trace]
    assert first.aiohttp_session.headers["Authorization"] == "Bearer one"
    assert renewed.aiohttp_session.headers["Authorization"] == "Bearer two"
    for each in (first, renewed):
        await each.aiohttp_session.close()


async def test_nobody_to_log_in_as_is_left_to_kopf_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    for way in ("login_with_service_account", "login_with_kubeconfig"):
        monkeypatch.setattr(kopf, way, lambda **_: None)
    assert await handlers.Login().connection() is None


async def test_kopf_can_wait_for_the_connection() -> None:
    registry = kopf.OperatorRegistry()
    handlers.register(registry, Listener(Keys(), Shown()), handlers.Login())  # type: ignore[arg-type]
    (login,) = [each for each in registry._activities.get_all_handlers() if each.activity.name == "AUTHENTICATION"]
    assert inspect.iscoroutinefunction(login.fn)


async def test_list_tells_what_no_event_has_told(listener: Listener) -> None:
    key = Key("ml", "minilm")
    await see(listener, "ADDED", body())
    assert not listener.is_news(key, body())
    annotated = body()
    annotated["metadata"]["annotations"] = {"torchscript.dev/rollback-to": "a"}
    assert listener.is_news(key, annotated)
    await see(listener, "MODIFIED", annotated)
    assert not listener.is_news(key, annotated)


WELL = {
    "observedGeneration": 1,
    "conditions": [
        {"type": kind, "status": status}
        for kind, status in (("Ready", "True"), ("Reconciling", "False"), ("Stalled", "False"))
    ],
}


def shown(listener: Listener, found: dict[str, Any]) -> dict[Key, bytes]:
    """What is kept of a model that a list shows."""
    key = Key("ml", "minilm")
    listener.is_news(key, found, keep=True)
    return listener.shown._bodies


async def test_model_at_rest_is_kept_as_a_list_shows_it(listener: Listener) -> None:
    well = {**body(), "status": WELL}
    assert orjson.loads(shown(listener, well)[Key("ml", "minilm")]) == well


@pytest.mark.parametrize("found", [body(), {**body(generation=2), "status": WELL}])
async def test_model_that_is_not_at_rest_is_not_kept(listener: Listener, found: dict[str, Any]) -> None:
    assert shown(listener, found) == {}


async def test_model_of_which_an_event_has_told_otherwise_is_not_kept(listener: Listener) -> None:
    await see(listener, "ADDED", body(annotations={"torchscript.dev/retry": "1"}))
    assert shown(listener, {**body(), "status": WELL}) == {}


@pytest.mark.parametrize("event", [("MODIFIED", body(generation=2)), ("DELETED", body())])
async def test_model_is_kept_until_an_event_tells_otherwise(
    listener: Listener, event: tuple[str, dict[str, Any]]
) -> None:
    well = {**body(), "status": WELL}
    assert shown(listener, well)
    await see(listener, "ADDED", well)
    assert listener.shown._bodies
    await see(listener, *event)
    assert listener.shown._bodies == {}


async def test_list_that_is_older_than_the_last_event_hides_no_event_to_come(listener: Listener, keys: Keys) -> None:
    annotated = body()
    annotated["metadata"]["annotations"] = {"torchscript.dev/rollback-to": "a"}
    await see(listener, "ADDED", annotated)
    assert listener.is_news(Key("ml", "minilm"), body())
    keys.added.clear()
    await see(listener, "MODIFIED", body())
    assert keys.added


@pytest.mark.parametrize(
    ("host", "server"),
    [("10.0.0.1", "https://10.0.0.1:6443"), ("fd00::1", "https://[fd00::1]:6443"), ("", "https://server")],
)
def test_server_is_where_the_kubelet_says(monkeypatch: pytest.MonkeyPatch, host: str, server: str) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: credentials("one"))
    found = handlers.in_pod()
    assert found is not None
    assert found.server == server
