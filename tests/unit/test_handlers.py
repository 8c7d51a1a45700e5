"""What the operator listens to."""

from typing import Any

import kopf
import pytest

from torchscript_operator.controller import handlers
from torchscript_operator.controller.handlers import Listener
from torchscript_operator.controller.queue import Key


class Keys:
    """Stands for the queue: remembers what was asked for."""

    def __init__(self) -> None:
        self.added: list[Key] = []

    def add(self, key: Key) -> None:
        self.added.append(key)


class Resource:
    plural = "jobs"


def body(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "ml", "name": "minilm", "uid": "1", "generation": 1, **metadata}}


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def listener(keys: Keys) -> Listener:
    return Listener(keys)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("kind", [None, "ADDED", "MODIFIED", "DELETED"])
async def test_event_of_a_child_asks_for_a_pass_over_its_model(
    listener: Listener, keys: Keys, kind: str | None
) -> None:
    child = {"metadata": {"namespace": "ml", "name": "x", "labels": {"torchscript.dev/model": "minilm"}}}
    await listener.child_event({"type": kind, "object": child}, Resource)
    assert keys.added == [Key("ml", "minilm")]


async def test_object_without_the_model_label_asks_for_nothing(listener: Listener, keys: Keys) -> None:
    await listener.child_event({"type": "ADDED", "object": {"metadata": {"namespace": "ml", "name": "x"}}}, Resource)
    assert keys.added == []


def test_kopf_writes_nothing_of_its_own() -> None:
    settings = kopf.OperatorSettings()
    handlers.configure(settings)
    assert settings.posting.enabled is False
    assert settings.peering.standalone is True
    assert settings.scanning.disabled is True


def test_only_low_level_handlers_are_registered(listener: Listener) -> None:
    registry = kopf.OperatorRegistry()
    handlers.register(registry, listener)
    assert len(list(registry._watching.get_all_handlers())) == 1 + len(handlers.CHILDREN)
    assert list(registry._changing.get_all_handlers()) == []
    assert list(registry._spawning.get_all_handlers()) == []
