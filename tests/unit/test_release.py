"""What an uninstall does to the operator, and to models that wait for the operator when they are deleted."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from torchscript_operator.controller import release
from torchscript_operator.controller.connection import ApiError
from torchscript_operator.controller.model import FINALIZER, Json


class Server:
    def __init__(self, *models: Json, fails: int = 0) -> None:
        self.models, self.fails = models, fails
        self.written: list[tuple[str, Sequence[str]]] = []

    async def pages(self, *_: Any) -> AsyncIterator[tuple[list[Json], str]]:
        if self.fails:
            raise ApiError(self.fails, "no")
        for each in self.models:
            yield [each], "7"

    async def apply_finalizers(self, namespace: str, name: str, uid: str, finalizers: Sequence[str]) -> None:
        assert (namespace, uid) == ("ml", f"uid-{name}")
        self.written.append((name, finalizers))


def model(name: str, *finalizers: str) -> Json:
    return {"metadata": {"namespace": "ml", "name": name, "uid": f"uid-{name}", "finalizers": list(finalizers)}}


async def test_only_models_that_wait_for_the_operator_are_written() -> None:
    server = Server(model("mine", FINALIZER, "other/one"), model("others", "other/one"), model("free"))
    assert await release.release(server) == 1  # type: ignore[arg-type]
    assert server.written == [("mine", ())], "an application of no finalizer takes away ours alone"


async def test_cluster_without_the_definition_has_nothing_to_release() -> None:
    assert await release.release(Server(fails=404)) == 0  # type: ignore[arg-type]


class Operator:
    """A Deployment as its controller and the kubelet change it, one state at each look."""

    def __init__(self, *states: Json) -> None:
        self.done: list[str] = []
        self._states: Iterator[Json] = iter(states)
        self._pods: list[str] = []

    def _seen(self) -> Json | None:
        state = next(self._states)
        if state is GONE:
            return None
        self._pods = state["pods"]
        template = {"spec": {"terminationGracePeriodSeconds": 0}}
        spec = {"selector": {"matchLabels": {"app": "operator"}}, "template": template}
        return {"metadata": {"generation": 2}, "spec": spec, "status": state["status"]}

    async def scale(self, namespace: str, name: str, replicas: int) -> Json | None:
        self.done.append(f"scale {namespace}/{name} to {replicas}")
        return self._seen()

    async def find(self, *_: str) -> Json | None:
        self.done.append("look")
        return self._seen()

    async def pages(self, *_: Any) -> AsyncIterator[tuple[list[Json], str]]:
        self.done.append("release")
        yield [], "7"

    async def list(self, _: str, plural: str, namespace: str, selector: str) -> list[Json]:
        assert (plural, namespace, selector) == ("pods", "system", "app=operator")
        return [{"status": {"phase": phase}} for phase in self._pods]


def looks(replicas: int, *pods: str, observed: int = 2) -> Json:
    return {"status": {"observedGeneration": observed, "replicas": replicas}, "pods": list(pods)}


GONE: Json = {}


@pytest.mark.parametrize(
    ("states", "count"),
    [
        ([looks(1, "Running", observed=1), looks(0, observed=1), looks(1), looks(0, "Running"), looks(0)], 4),
        ([looks(1, "Running"), looks(0, "Failed", "Succeeded")], 1),
        ([looks(1, "Running"), GONE], 1),
        ([GONE], 0),
    ],
)
async def test_operator_is_stopped_once_its_last_pod_has_ended(
    monkeypatch: pytest.MonkeyPatch, states: list[Json], count: int
) -> None:
    monkeypatch.setattr(release, "LOOK_SECONDS", 0)
    operator = Operator(*states)
    assert await release.stop(operator, "system", "operator")  # type: ignore[arg-type]
    assert operator.done == ["scale system/operator to 0", *["look"] * count]


async def test_operator_that_does_not_end_is_waited_for_no_longer_than_it_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(release, "LOOK_SECONDS", 0)
    monkeypatch.setattr(release, "MARGIN_SECONDS", 0.01)

    def for_ever() -> Iterator[Json]:
        while True:
            yield looks(0, "Running")

    operator = Operator()
    operator._states = for_ever()
    assert not await release.stop(operator, "system", "operator")  # type: ignore[arg-type]


def test_operator_ends_before_models_are_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "LOOK_SECONDS", 0)
    operator = Operator(looks(1, "Running"), looks(0, "Running"), looks(0))

    @asynccontextmanager
    async def connect() -> AsyncIterator[Operator]:
        yield operator

    monkeypatch.setattr(release, "connect", connect)
    assert release.main(["--stop=system/operator"]) == 0
    assert operator.done == ["scale system/operator to 0", "look", "look", "release"]


def test_name_without_a_namespace_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        release.main(["--stop=operator"])
    assert "is not NAMESPACE/NAME" in capsys.readouterr().err


async def test_refusal_is_told() -> None:
    with pytest.raises(ApiError):
        await release.release(Server(fails=403))  # type: ignore[arg-type]
