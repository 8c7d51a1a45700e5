"""What an uninstall does to models that wait for the operator when they are deleted."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from torchscript_operator.controller import release
from torchscript_operator.controller.cluster import ApiError
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


async def test_refusal_is_told() -> None:
    with pytest.raises(ApiError):
        await release.release(Server(fails=403))  # type: ignore[arg-type]
