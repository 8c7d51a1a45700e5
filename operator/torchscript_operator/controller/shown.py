"""Models at rest as the first list has shown them: what spares an operator that starts a second reading of each."""

import orjson

from torchscript_operator.controller.model import Json
from torchscript_operator.controller.queue import Key


class Shown:
    """Each model until its first pass, or until something newer is known of it. As JSON, which takes a tenth."""

    def __init__(self) -> None:
        """Know of none, and take what a list shows."""
        self._bodies: dict[Key, bytes] = {}
        self._passed: set[Key] | None = set()
        """Models that have had a pass: a list may be older than what that has written. None once the look is over."""

    def keep(self, key: Key, body: Json) -> None:
        """Take in a model as a list shows it."""
        if self._passed is None or key in self._passed:
            return
        # Who has written which field is half of an object, and nothing to a pass.
        metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
        self._bodies[key] = orjson.dumps({**body, "metadata": metadata})

    def take(self, key: Key) -> Json | None:
        """A model for its first pass."""
        if self._passed is not None:
            self._passed.add(key)
        body = self._bodies.pop(key, None)
        return None if body is None else orjson.loads(body)

    def drop(self, key: Key) -> None:
        """Something newer is known."""
        self._bodies.pop(key, None)

    def close(self) -> None:
        """The look is over."""
        self._passed = None
