"""Hugging Face's inference shape: `inputs` and `parameters` to what Transformers' pipeline of the task returns."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from torchscript_operator.serve.buckets import TooLongError
from torchscript_operator.serve.errors import ApiError, refuse, too_long
from torchscript_operator.serve.exchange import body_of, compute, model_of, numbers_response, parse
from torchscript_operator.serve.rows import Result, Row
from torchscript_operator.serve.state import State
from torchscript_operator.serve.tasks.base import InputError, texts_in

TEXTS_PER_ROW = 2
"""Most texts that become one row: a pair."""


class PredictRequest(BaseModel):
    """Inputs of the served task, and its pipeline's parameters."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    inputs: Any
    """What the task's pipeline takes: a text, texts, or an object for tasks that read several texts."""
    parameters: dict[str, Any] | None = None
    """The pipeline's parameters; unknown ones are refused."""


async def predict(state: State, request: Request) -> Response:
    """POST /predict."""
    model = model_of(state)
    async with body_of(state, request) as body:
        asked = parse(PredictRequest, body)
        # Before anything is tokenised: two million texts of one letter fit into a body.
        if sum(1 for _ in texts_in([asked.inputs, asked.parameters])) > TEXTS_PER_ROW * state.settings.request_rows:
            refuse(f"inputs and parameters hold more texts than {state.settings.request_rows} rows can have", "inputs")

        async def run(rows: Sequence[Row]) -> Sequence[Result]:
            return await compute(state, request, model, rows, "inputs")

        try:
            answer = await model.task.predict(asked.inputs, asked.parameters or {}, model.tokenizing, run)
        except InputError as error:
            refuse(str(error), "inputs")
        except TooLongError as error:
            raise too_long(error, "inputs") from None
        return await numbers_response(state, answer, measure(answer))


def measure(answer: Any) -> int:
    """How many values an answer holds.

    Raises ApiError 500 for a number that is not finite, which JSON would turn into null.
    """
    if isinstance(answer, dict):
        return sum(map(measure, answer.values()))
    if isinstance(answer, (list, tuple)):
        return sum(map(measure, answer))
    if isinstance(answer, (np.ndarray, np.floating)):
        finite = bool(np.isfinite(answer).all())
    else:
        finite = not isinstance(answer, float) or math.isfinite(answer)
    if not finite:
        raise ApiError(500, "the model gave NaN or infinite values", code="not_finite")
    return answer.size if isinstance(answer, np.ndarray) else 1
