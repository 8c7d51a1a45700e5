"""Binary tensor data: a fuzzer on the parser, and the parser behind its route."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.serving import WIDTH, Toy, live, serving, tensors, toy_tokenizing
from torchscript_operator.serve import binary
from torchscript_operator.serve.binary import BinaryError

INFER = "/v2/models/toy/infer"
HEADER = "Inference-Header-Content-Length"
SHAPES = st.lists(st.integers(0, 5), max_size=3)
LENGTHS = st.one_of(st.none(), st.text(max_size=6), st.integers(0, 40).map(str))


@settings(max_examples=300)
@given(st.binary(max_size=40), LENGTHS)
def test_any_body_and_length_is_split_or_refused(body: bytes, declared: str | None) -> None:
    try:
        head, rest = binary.split(body, declared)
    except BinaryError:
        assert declared is not None
        return
    assert bytes(head) + bytes(rest) == body


@settings(max_examples=300)
@given(st.binary(max_size=40), st.lists(st.integers(-3, 20), max_size=5))
def test_any_sizes_use_all_bytes_or_are_refused(rest: bytes, sizes: list[int]) -> None:
    try:
        pieces = binary.cut(memoryview(rest), sizes)
    except BinaryError:
        assert sum(sizes) != len(rest) or min(sizes) < 0
        return
    assert [len(piece) for piece in pieces] == sizes
    assert b"".join(pieces) == rest


@settings(max_examples=300)
@given(st.binary(max_size=60), SHAPES, st.sampled_from([*binary.TYPES, "BYTES", "BF16", ""]))
def test_any_bytes_are_numbers_of_their_shape_or_refused(raw: bytes, shape: list[int], datatype: str) -> None:
    try:
        found = binary.numbers(raw, datatype, shape)
    except BinaryError:
        return
    assert found.size == int(np.prod(shape))
    assert found.tobytes() == raw


@settings(max_examples=500)
@given(st.one_of(st.binary(max_size=60), st.lists(st.binary(max_size=8)).map(binary.encode_texts)), SHAPES)
def test_any_bytes_are_elements_of_their_shape_or_refused(raw: bytes, shape: list[int]) -> None:
    try:
        found = binary.texts(raw, shape)
    except BinaryError:
        return
    assert len(found) == int(np.prod(shape))
    assert binary.encode_texts(found) == raw


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_texts_come_back_as_they_were_sent(elements: list[bytes]) -> None:
    assert binary.texts(binary.encode_texts(elements), [len(elements)]) == elements


def request(
    inputs: list[tuple[str, str, list[int], bytes]], outputs: Any = None, **parameters: Any
) -> tuple[bytes, dict[str, str]]:
    """Body and headers; inputs: name, datatype, shape, bytes."""
    head: dict[str, Any] = {
        "inputs": [
            {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
            for name, datatype, shape, raw in inputs
        ]
    }
    if outputs is not None:
        head["outputs"] = outputs
    if parameters:
        head["parameters"] = parameters
    text = json.dumps(head).encode()
    return text + b"".join(raw for *_, raw in inputs), {HEADER: str(len(text))}


def arrays(ids: list[list[int]]) -> list[tuple[str, str, list[int], bytes]]:
    given = np.array(ids, dtype="<i8")
    values = {"input_ids": given, "attention_mask": np.ones_like(given), "token_type_ids": np.zeros_like(given)}
    return [(name, "INT64", list(array.shape), array.tobytes()) for name, array in values.items()]


def texts(*given: str) -> list[tuple[str, str, list[int], bytes]]:
    return [("text", "BYTES", [len(given)], binary.encode_texts(text.encode() for text in given))]


def output_of(response: httpx.Response) -> Any:
    """The one output of a binary answer."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[HEADER])
    (output,) = json.loads(response.content[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": len(response.content) - length}
    assert "data" not in output
    return np.frombuffer(response.content[length:], "<f4").reshape(output["shape"])


def direct(ids: list[list[int]]) -> Any:
    import torch

    given = torch.tensor(ids)
    return Toy()(given, torch.ones_like(given), torch.zeros_like(given))[0].numpy()


async def test_binary_in_and_out() -> None:
    ids = [[2, 5, 6, 3], [2, 7, 8, 3]]
    async with serving() as (client, _):
        body, headers = request(arrays(ids), binary_data_output=True)
        found = output_of(await client.post(INFER, content=body, headers=headers))
    np.testing.assert_allclose(found, direct(ids), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("default", "own", "as_bytes"), [(False, True, True), (True, False, False), (True, None, True)]
)
async def test_an_outputs_own_parameter_goes_before_the_requests(
    default: bool, own: bool | None, as_bytes: bool
) -> None:
    output = {"name": "last_hidden_state"} | ({} if own is None else {"parameters": {"binary_data": own}})
    async with serving() as (client, _):
        body, headers = request(arrays([[5, 6]]), outputs=[output], binary_data_output=default)
        response = await client.post(INFER, content=body, headers=headers)
    assert (response.headers["content-type"] == "application/octet-stream") == as_bytes


async def test_json_and_binary_inputs_mix() -> None:
    first, *_ = arrays([[5, 6]])
    body, headers = request([first])
    head = json.loads(body[: int(headers[HEADER])])
    head["inputs"] += tensors([[5, 6]])[1:]
    text = json.dumps(head).encode()
    async with serving() as (client, _):
        response = await client.post(INFER, content=text + first[3], headers={HEADER: str(len(text))})
    np.testing.assert_allclose(response.json()["outputs"][0]["data"], direct([[5, 6]]).reshape(-1), rtol=1e-5)


@pytest.mark.parametrize("way", ["binary", "json", "json column"])
async def test_texts_give_zeros_and_a_mask_behind_the_shorter_ones(way: str) -> None:
    given = ["w1 w2 w3", "w4"]
    async with serving() as (client, _):
        if way == "binary":
            body, headers = request(texts(*given))
            response = await client.post(INFER, content=body, headers=headers)
        else:
            column = way == "json column"
            data: Any = [[text] for text in given] if column else given
            one = {"name": "text", "shape": [2, 1] if column else [2], "datatype": "BYTES", "data": data}
            response = await client.post(INFER, json={"inputs": [one]})
    tokens, mask = response.json()["outputs"]
    found = np.array(tokens["data"], dtype=np.float32).reshape(tokens["shape"])
    rows = [row.inputs["input_ids"].tolist() for row in toy_tokenizing().encode(given)]
    assert (tokens["shape"], mask["name"], mask["datatype"]) == ([2, 5, WIDTH], "attention_mask", "INT64")
    assert mask["data"] == [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    for number, ids in enumerate(rows):
        np.testing.assert_allclose(found[number, : len(ids)], direct([ids])[0], rtol=1e-5, atol=1e-6)
        assert not found[number, len(ids) :].any()


LONG = "w1 " * 30


async def test_long_texts_are_cut_only_when_asked() -> None:
    async with serving() as (client, _):
        body, headers = request(texts(LONG))
        refused = await client.post(INFER, content=body, headers=headers)
        body, headers = request(texts(LONG, "w2"), truncate=True)
        tokens, mask = (await client.post(INFER, content=body, headers=headers)).json()["outputs"]
    assert refused.status_code == 400
    assert "32 tokens" in refused.json()["error"]
    assert tokens["shape"] == [2, 16, WIDTH]
    ids = [2, *[5] * 14, 3]
    found = np.array(tokens["data"]).reshape(tokens["shape"])
    np.testing.assert_allclose(found[0], direct([ids])[0], rtol=1e-5, atol=1e-6)
    assert sum(mask["data"]) == 16 + 3


GOOD, GOOD_HEADERS = request(arrays([[5, 6]]))
ERRORS: list[tuple[tuple[bytes, dict[str, str]], str]] = [
    ((GOOD, {HEADER: "99999"}), "must be the length of the JSON"),
    ((GOOD, {HEADER: "-1"}), "must be the length of the JSON"),
    ((GOOD, {HEADER: "x"}), "must be the length of the JSON"),
    ((GOOD, {HEADER: "5"}), "not valid JSON"),
    ((GOOD, {}), "not valid JSON"),
    ((GOOD[: int(GOOD_HEADERS[HEADER])], {}), "needs the header"),
    ((GOOD + b"x", GOOD_HEADERS), "add up to 48 bytes, but 49 bytes follow"),
    ((GOOD[:-1], GOOD_HEADERS), "add up to 48 bytes, but 47 bytes follow"),
    (request([("input_ids", "INT64", [1, 3], b"\0" * 8)]), "8 bytes do not fit the shape [1, 3] of INT64"),
    (request([("input_ids", "INT32", [1, 2], b"\0" * 8)]), "datatype INT64, not 'INT32'"),
    (request([("input_ids", "BF16", [1, 2], b"\0" * 4)]), "no binary form"),
    (request([("input_ids", "INT64", [-1, 2], b"")]), "none of them negative"),
    (request([("input_ids", "INT64", [0, 2], b"")]), "empty"),
    (request([("input_ids", "BYTES", [1], b"\1\0\0\0a")]), "datatype INT64, not 'BYTES'"),
    (request([("text", "BYTES", [1], b"\1\0\0")]), "middle of a length"),
    (request([("text", "BYTES", [1], b"\5\0\0\0a")]), "middle of an element"),
    (request([("text", "BYTES", [2], b"\1\0\0\0a")]), "2 elements, not 1"),
    (request([("text", "BYTES", [1], b"\1\0\0\0\xff")]), "element 0 is not UTF-8"),
    (request([("text", "BYTES", [1], b"\0\0\0\0")]), "element 0 is an empty text"),
    (request([("text", "BYTES", [0], b"")]), "'text' is empty"),
    (request([("text", "INT64", [1], b"\0" * 8)]), "'text' must have the datatype BYTES"),
    (request([("text", "BYTES", [1, 2], b"\1\0\0\0a" * 2)]), "[batch] or [batch, 1]"),
    (request([*texts("w1"), arrays([[5]])[0]]), "stands alone"),
    (request(arrays([[5, 6]]), truncate=True), "truncate cuts texts"),
    (request(arrays([[5, 6]]), priority=1), "parameters.priority"),
    (request(arrays([[5, 6]]), timeout=0), "parameters.timeout"),
    (request(texts(*["w1"] * 11)), "more than 10"),
]


@pytest.mark.parametrize(("sent", "message"), ERRORS)
async def test_what_a_binary_client_gets_wrong_is_named(sent: tuple[bytes, dict[str, str]], message: str) -> None:
    body, headers = sent
    async with serving(request_rows=10) as (client, _):
        response = await client.post(INFER, content=body, headers=headers)
    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize("tensor", [{"data": [1], "parameters": {"binary_data_size": 8}}, {}])
async def test_values_come_one_way(tensor: dict[str, Any]) -> None:
    head = json.dumps({"inputs": [{"name": "input_ids", "shape": [1, 1], "datatype": "INT64"} | tensor]}).encode()
    body = head + (b"\0" * 8 if tensor else b"")
    async with serving() as (client, _):
        response = await client.post(INFER, content=body, headers={HEADER: str(len(head))})
    assert response.status_code == 400
    assert "either data or" in response.json()["error"]


async def test_a_compressed_body_is_not_taken() -> None:
    async with serving() as (client, _):
        response = await client.post(INFER, content=GOOD, headers={**GOOD_HEADERS, "Content-Encoding": "gzip"})
    assert response.status_code == 415


async def test_a_client_may_wait_less_than_the_server() -> None:
    from tests.unit.test_serve_http import Held

    toy = Held()
    body, headers = request(arrays([[5, 6]]), timeout=20_000)
    async with serving(toy=toy) as (client, _):
        response = await client.post(INFER, content=body, headers=headers)
        toy.gate.set()
    assert response.status_code == 503


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    """A right request, with some of it changed."""
    ids = draw(st.lists(st.lists(st.integers(4, 63), min_size=3, max_size=3), min_size=1, max_size=4))
    body, headers = request(draw(st.sampled_from([arrays(ids), texts("w1 w2", "w3")])))
    changed = bytearray(body)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(changed)))
        changed[place : place + draw(st.integers(0, 9))] = draw(st.binary(max_size=9))
    length = int(headers[HEADER]) + draw(st.sampled_from([0, 0, 0, -1, 1, -8, 8]))
    return bytes(changed), {HEADER: str(max(0, length))}


def test_spoiled_requests_never_end_in_a_fault_of_ours() -> None:
    with live() as server, httpx.Client(base_url=server.url) as client:

        @settings(max_examples=300, derandomize=True, database=None)
        @given(spoiled())
        def attack(sent: tuple[bytes, dict[str, str]]) -> None:
            body, headers = sent
            assert client.post(INFER, content=body, headers=headers).status_code in {200, 400}

        attack()
        body, headers = request(arrays([[5, 6]]), binary_data_output=True)
        found = output_of(client.post(INFER, content=body, headers=headers))
    np.testing.assert_allclose(found, direct([[5, 6]]), rtol=1e-5, atol=1e-6)
