"""TorchServe's handler, a function of a module: one batch of requests to one list of answers."""

import json
from functools import cache
from typing import Any

from minilm import Encoder


@cache
def encoder() -> Encoder:
    """Of this worker process."""
    return Encoder()


def handle(data: list[dict[str, Any]] | None, _context: Any) -> list[list[float]] | None:
    """TorchServe calls it once without data, to load the model."""
    model = encoder()
    if data is None:
        return None
    bodies = [row.get("data") or row.get("body") for row in data]
    answers: list[list[float]] = model(
        [(body if isinstance(body, dict) else json.loads(body))["text"] for body in bodies]
    ).tolist()
    return answers
