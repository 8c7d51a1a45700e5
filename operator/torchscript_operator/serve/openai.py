"""OpenAI's embeddings API over a feature-extraction artifact."""

import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from starlette.requests import Request
from starlette.responses import Response

from torchscript_operator.serve.buckets import TooLongError
from torchscript_operator.serve.errors import ApiError, refuse, too_long
from torchscript_operator.serve.exchange import (
    body_of,
    check_count,
    compute,
    json_response,
    model_of,
    numbers_response,
    parse,
)
from torchscript_operator.serve.rows import INPUT_IDS, Row
from torchscript_operator.serve.state import Model, State

OWNER = "torchscript-operator"
"""`owned_by` of every model."""
INPUT_FORMS: list[JsonValue] = [
    {"type": "string", "minLength": 1},
    {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
    {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
    {
        "type": "array",
        "minItems": 1,
        "items": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
    },
]
"""JSON schemas of an `input`, which to_rows checks with an error of its own for each."""
LARGEST_ID = 2**31 - 1
"""No vocabulary is larger; keeps ids inside the tensors' type when the artifact does not say its vocabulary's size."""


class EmbeddingRequest(BaseModel):
    """Texts to embed. A field that nothing acts on is refused, so that none is ignored silently."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    model: str
    """The model's name, as GET /v1/models lists it."""
    input: Any = Field(json_schema_extra={"anyOf": INPUT_FORMS})
    """One text, texts, token ids, or lists of token ids, which are taken as they are."""
    encoding_format: Literal["float", "base64"] = "float"
    """base64 holds little-endian float32."""
    dimensions: int | None = None
    """Must be the model's own width: its embeddings are not made to be cut."""
    user: str | None = None
    """OpenAI's tag for abuse reports; of no use here."""
    truncate: bool = False
    """Not OpenAI's: cut texts that are longer than the model takes at their end, which are errors otherwise."""


class Embedding(BaseModel):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens, special ones included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """Vectors in the order of the input."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class ModelCard(BaseModel):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The one model."""

    object: Literal["list"]
    data: list[ModelCard]


class OpenAIErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """An error in OpenAI's shape."""

    error: OpenAIErrorDetail


async def embeddings(state: State, request: Request) -> Response:
    """POST /v1/embeddings."""
    model = model_of(state)
    async with body_of(state, request) as body:
        asked = parse(EmbeddingRequest, body)
        if asked.model != state.name:
            raise _unknown(asked.model)
        width = model.task.width
        if width is None:
            refuse("this artifact has no pooling and gives no embeddings; use the Open Inference Protocol")
        if asked.dimensions not in {None, width}:
            refuse(f"dimensions must be {width}: this model's embeddings are not made to be cut", "dimensions")
        rows = await to_rows(state, model, asked.input, truncate=asked.truncate)
        vectors = await compute(state, request, model, rows)
        if not all(np.isfinite(vector).all() for vector in vectors):
            raise ApiError(500, "the model gave NaN or infinite values", code="not_finite")
        tokens = sum(row.length for row in rows)
        answer = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _encode(vector, asked.encoding_format)}
                for index, vector in enumerate(vectors)
            ],
            "model": state.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return await numbers_response(state, answer, len(vectors) * width)


async def models(state: State, _request: Request) -> Response:
    """GET /v1/models."""
    return json_response({"object": "list", "data": [_card(state)]})


async def model(state: State, request: Request) -> Response:
    """GET /v1/models/{name}."""
    if request.path_params["name"] != state.name:
        raise _unknown(request.path_params["name"])
    return json_response(_card(state))


async def to_rows(state: State, model: Model, given: Any, *, truncate: bool) -> list[Row]:
    """The rows of an `input`: one text, texts, token ids, or lists of token ids. Ids are taken as they are.

    Raises ApiError 400 for anything else, and for what is empty.
    """
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list):
        refuse("input must be a string, a list of strings, a list of token ids or a list of such lists", "input")
    if not given:
        refuse("input is empty", "input")
    if all(isinstance(text, str) for text in given):
        _check_texts(state, model, given)
        try:
            return await model.tokenizing.rows(given, model.buckets, state.executor, truncate=truncate)
        except TooLongError as error:
            raise too_long(error, "input") from None
    if all(_is_id(number) for number in given):
        given = [given]
    check_count(state, len(given), "input")
    if not all(isinstance(ids, list) and all(_is_id(number) for number in ids) for ids in given):
        refuse("input mixes types: give only strings, only token ids, or only lists of token ids", "input")
    return [model.tokenizing.from_ids(_ids(model, index, ids)) for index, ids in enumerate(given)]


def _check_texts(state: State, model: Model, texts: Sequence[str]) -> None:
    if not model.tokenizing.available:
        refuse("this artifact has no tokenizer: give token ids", "input")
    check_count(state, len(texts), "input")
    for index, text in enumerate(texts):
        if not text:
            refuse(f"input[{index}] is an empty string", "input")


def _is_id(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _ids(model: Model, index: int, ids: list[int]) -> NDArray[np.int64]:
    if not ids:
        refuse(f"input[{index}] is empty", "input")
    try:
        model.buckets.check(len(ids))
    except TooLongError as error:
        raise too_long(error, "input") from None
    limit = model.tokenizing.limits.get(INPUT_IDS, LARGEST_ID)
    if min(ids) < 0 or max(ids) >= limit:
        refuse(f"input[{index}] holds token ids outside 0 to {limit - 1}", "input")
    return np.array(ids, dtype=np.int64)


def _encode(vector: NDArray[np.float32], encoding: str) -> Any:
    # OpenAI's base64 is little-endian float32, whatever this machine's order is.
    return vector if encoding == "float" else base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()


def _unknown(name: str) -> ApiError:
    return ApiError(404, f"the model {name!r} does not exist here", code="model_not_found", parameter="model")


def _card(state: State) -> dict[str, Any]:
    return {"id": state.name, "object": "model", "created": int(state.started), "owned_by": OWNER}
