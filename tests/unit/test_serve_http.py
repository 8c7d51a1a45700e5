import asyncio
import base64
import json
import re
import threading
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.serving import DIGEST, VERSION, WIDTH, Toy, expected, serving, tensor, tensors, toy_manifest, until
from torchscript_operator.artifact.manifest import Pooling
from torchscript_operator.serve.http import application

EMBEDDINGS = "/v1/embeddings"
INFER = "/v2/models/toy/infer"
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10", "w11 w12"]


def asked(given: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "toy", "input": given} | fields


async def test_embeddings_of_texts_are_those_of_each_text_alone() -> None:
    async with serving() as (client, _):
        answer = (await client.post(EMBEDDINGS, json=asked(TEXTS))).json()
    np.testing.assert_allclose([one["embedding"] for one in answer["data"]], expected(TEXTS), rtol=1e-5, atol=1e-6)
    assert [one["index"] for one in answer["data"]] == [0, 1, 2, 3]
    assert answer["usage"] == {"prompt_tokens": 20, "total_tokens": 20}


async def test_base64_holds_the_same_numbers_as_float() -> None:
    async with serving() as (client, _):
        floats = (await client.post(EMBEDDINGS, json=asked("w1 w2"))).json()["data"][0]["embedding"]
        text = (await client.post(EMBEDDINGS, json=asked("w1 w2", encoding_format="base64"))).json()
    decoded = np.frombuffer(base64.b64decode(text["data"][0]["embedding"]), dtype="<f4")
    assert decoded.tolist() == np.array(floats, dtype=np.float32).tolist()


async def test_token_ids_give_what_their_text_gives() -> None:
    async with serving() as (client, _):
        by_text = (await client.post(EMBEDDINGS, json=asked(["w1 w2", "w3"]))).json()["data"]
        by_ids = (await client.post(EMBEDDINGS, json=asked([[2, 5, 6, 3], [2, 7, 3]]))).json()["data"]
        one = (await client.post(EMBEDDINGS, json=asked([2, 5, 6, 3]))).json()["data"]
    np.testing.assert_allclose(
        [row["embedding"] for row in by_ids], [row["embedding"] for row in by_text], rtol=1e-5, atol=1e-6
    )
    assert len(one) == 1


async def test_the_width_is_an_allowed_dimension() -> None:
    async with serving() as (client, _):
        assert (await client.post(EMBEDDINGS, json=asked("w1", dimensions=WIDTH))).status_code == 200


OPENAI_ERRORS: list[tuple[Any, int, str]] = [
    ({"input": "w1"}, 400, "model"),
    ({"model": "toy"}, 400, "input"),
    (asked("w1", model="other"), 404, "'other' does not exist"),
    (asked(""), 400, "empty string"),
    (asked(["w1", ""]), 400, r"input\[1\] is an empty string"),
    (asked([]), 400, "input is empty"),
    (asked([[]]), 400, "empty"),
    (asked(None), 400, "must be a string"),
    (asked(7), 400, "must be a string"),
    (asked({"a": 1}), 400, "must be a string"),
    (asked(["w1", 2]), 400, "mixes types"),
    (asked([1.5]), 400, "mixes types"),
    (asked([True]), 400, "mixes types"),
    (asked([[1, "x"]]), 400, "mixes types"),
    (asked([64]), 400, "outside 0 to 63"),
    (asked([-1]), 400, "outside 0 to 63"),
    (asked([2**70]), 400, "JSON|outside|mixes"),
    (asked(" ".join(["w1"] * 15)), 400, "17 tokens are more than the model's 16.*nothing is cut"),
    (asked("w1", dimensions=3), 400, "dimensions must be 4"),
    (asked("w1", encoding_format="hex"), 400, "encoding_format"),
    (asked("w1", other=True), 400, "other"),
    (asked("w1", model=7), 400, "model"),
    ([], 400, "body"),
    (asked(["w1"] * 11), 400, "more than 10"),
]


@pytest.mark.parametrize(("body", "status", "message"), OPENAI_ERRORS)
async def test_what_an_openai_client_gets_wrong_is_named(body: Any, status: int, message: str) -> None:
    async with serving(request_rows=10) as (client, _):
        response = await client.post(EMBEDDINGS, json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert re.search(message, error["message"], re.DOTALL)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model": "toy", "input": "\xff"}', b'{"model":"toy","input":"\\ud800"}', b'{"a": NaN}', b"[" * 5000],
)
@pytest.mark.parametrize("path", [EMBEDDINGS, INFER])
async def test_what_is_no_json_in_utf8_is_refused(path: str, body: bytes) -> None:
    async with serving() as (client, _):
        response = await client.post(path, content=body)
    assert response.status_code == 400
    assert "not valid JSON" in response.text


@pytest.mark.parametrize("path", [EMBEDDINGS, INFER, "/predict"])
@pytest.mark.parametrize("depth", [100, 500, 1000, 1020, 5000])
async def test_json_that_is_nested_deeply_is_refused(path: str, depth: int) -> None:
    nested = "[" * depth + '"w1"' + "]" * depth
    tensor_of = f'{{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": {nested}}}'
    body = f'{{"inputs": [{tensor_of}]}}' if path == INFER else f'{{"model": "toy", "input": {nested}}}'
    async with serving() as (client, _):
        response = await client.post(path, content=body if path != "/predict" else f'{{"inputs": {nested}}}')
    assert response.status_code == 400


async def test_inference_gives_the_model_outputs_at_the_clients_own_shape() -> None:
    ids, mask = [[2, 5, 6, 3, 0], [2, 7, 3, 0, 0], [2, 5, 6, 7, 3]], [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1] * 5]
    async with serving() as (client, _):
        answer = (await client.post(INFER, json={"id": "a-1", "inputs": tensors(ids, mask)})).json()
    (output,) = answer["outputs"]
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("toy", VERSION, "a-1")
    assert (output["name"], output["shape"], output["datatype"]) == ("last_hidden_state", [3, 5, WIDTH], "FP32")
    direct = Toy()(torch.tensor(ids), torch.tensor(mask), torch.zeros(3, 5, dtype=torch.int64))[0]
    np.testing.assert_allclose(output["data"], direct.reshape(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 30])
async def test_fixed_buckets_take_any_batch_by_padding_and_splitting(rows: int) -> None:
    ids = [[number % 50 + 4, 5, 6] for number in range(rows)]
    async with serving(toy_manifest(batch="fixed", sequence="fixed")) as (client, _):
        (output,) = (await client.post(INFER, json={"inputs": tensors(ids)})).json()["outputs"]
    direct = Toy()(torch.tensor(ids), torch.ones(rows, 3), torch.zeros(rows, 3))[0]
    assert output["shape"] == [rows, 3, WIDTH]
    np.testing.assert_allclose(output["data"], direct.reshape(-1), rtol=1e-5, atol=1e-5)


async def test_data_may_be_flat_and_outputs_selected() -> None:
    given = [dict(one, data=np.array(one["data"]).reshape(-1).tolist()) for one in tensors([[5, 6], [7, 8]])]
    async with serving() as (client, _):
        response = await client.post(INFER, json={"inputs": given, "outputs": [{"name": "last_hidden_state"}]})
    assert [output["shape"] for output in response.json()["outputs"]] == [[2, 2, WIDTH]]


async def test_the_version_may_be_named() -> None:
    async with serving() as (client, _):
        path = f"/v2/models/toy/versions/{VERSION}"
        assert (await client.post(f"{path}/infer", json={"inputs": tensors([[5]])})).status_code == 200
        assert (await client.get(path)).status_code == 200
        assert (await client.get(f"{path}/ready")).json() == {"name": "toy", "ready": True}


FINE = tensors([[5, 6]])
INFERENCE_ERRORS: list[tuple[Any, str]] = [
    ({}, "inputs"),
    ({"inputs": []}, "inputs"),
    ({"inputs": FINE[:2]}, "missing input 'token_type_ids'"),
    ({"inputs": [*FINE, FINE[0]]}, "given twice"),
    ({"inputs": [*FINE, tensor("pixels", [[1]])]}, "unknown input 'pixels'; the model takes input_ids"),
    ({"inputs": [tensor("input_ids", [[5, 6]], "INT32"), *FINE[1:]]}, "datatype INT64, not 'INT32'"),
    ({"inputs": [tensor("input_ids", [[5.5, 6]]), *FINE[1:]]}, "not 64-bit integers"),
    ({"inputs": [tensor("input_ids", [["a", "b"]]), *FINE[1:]]}, "not 64-bit integers"),
    ({"inputs": [dict(FINE[0], data=[[5, 6], [7]]), *FINE[1:]]}, "ragged"),
    ({"inputs": [dict(FINE[0], shape=[2, 2]), *FINE[1:]]}, "does not fit"),
    ({"inputs": [dict(FINE[0], shape=[2]), *FINE[1:]]}, "two sizes"),
    ({"inputs": [dict(FINE[0], shape=[-1, 2]), *FINE[1:]]}, "two sizes"),
    ({"inputs": [dict(FINE[0], shape=[0, 2], data=[]), *FINE[1:]]}, "empty"),
    ({"inputs": [tensor("input_ids", [[5, 6, 7]]), *FINE[1:]]}, "one shape"),
    ({"inputs": tensors([[5, 99]])}, "'input_ids' holds values outside 0 to 63"),
    ({"inputs": tensors([[5, 6]], [[1, 2]])}, "'attention_mask' holds values outside 0 to 1"),
    ({"inputs": tensors([[5, 6]], [[0, 0]])}, "without any 1"),
    ({"inputs": tensors([[5] * 17])}, "17 tokens"),
    ({"inputs": FINE, "outputs": [{"name": "logits"}]}, "unknown output 'logits'; the model gives last_hidden_state"),
    ({"inputs": FINE, "outputs": [{"name": "last_hidden_state"}] * 2}, "twice"),
    ({"inputs": FINE, "extra": 1}, "extra"),
    ([], "body"),
]


@pytest.mark.parametrize(("body", "message"), INFERENCE_ERRORS)
async def test_what_an_inference_client_gets_wrong_is_named(body: Any, message: str) -> None:
    async with serving() as (client, _):
        response = await client.post(INFER, json=body)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/toy/versions/1", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/nowhere", 404),
        ("GET", EMBEDDINGS, 405),
        ("POST", "/v2/health/live", 405),
    ],
)
async def test_paths_that_are_not_there_say_so_in_json(method: str, path: str, status: int) -> None:
    async with serving() as (client, _):
        response = await client.request(method, path)
    assert response.status_code == status
    assert "error" in response.json()


async def test_the_metadata_says_what_the_artifact_is() -> None:
    async with serving(toy_manifest(batch="dynamic", sequence="fixed")) as (client, _):
        answer = (await client.get("/v2/models/toy")).json()
    assert answer["versions"] == [VERSION]
    assert answer["inputs"][0] == {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}
    assert answer["outputs"] == [{"name": "last_hidden_state", "datatype": "FP32", "shape": [-1, -1, WIDTH]}]
    parameters = answer["parameters"]
    assert parameters["digest"] == DIGEST
    assert parameters["buckets"] == ["b1-s8", "b4-s8", "b4-s16"]
    assert parameters["dynamicAxes"] == ["batch"]
    assert parameters["parity"] == "Passed"


async def test_server_metadata_and_model_list() -> None:
    async with serving() as (client, _):
        assert (await client.get("/v2")).json()["name"] == "torchscript-operator"
        assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["toy"]
        assert (await client.get("/v1/models/toy")).json()["object"] == "model"


@pytest.mark.parametrize("path", [EMBEDDINGS, INFER])
async def test_a_body_over_the_limit_is_refused(path: str) -> None:
    async def endless() -> Any:
        for _ in range(10):
            yield b" " * 50

    async with serving(request_bytes=100) as (client, state):
        assert (await client.post(path, content=b" " * 101)).status_code == 413
        assert (await client.post(path, content=endless())).status_code == 413
        assert state.buffered_bytes == 0


async def test_bodies_of_all_clients_together_are_bounded() -> None:
    async with serving(buffered_bytes=10) as (client, _):
        response = await client.post(EMBEDDINGS, json=asked("w1"))
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")


async def test_while_loading_everything_but_liveness_waits() -> None:
    async with serving() as (client, state):
        state.model = None
        state.enter("replay")
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        ready = await client.get("/v2/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"ready": False, "stage": "replay"})
        for response in (
            await client.post(EMBEDDINGS, json=asked("w1")),
            await client.post(INFER, json={"inputs": FINE}),
            await client.get("/v2/models/toy"),
        ):
            assert response.status_code == 503
            assert "replay" in response.text
        assert (await client.get("/v2/models/toy/ready")).status_code == 503


async def test_a_draining_pod_is_not_ready_but_answers_and_closes_connections() -> None:
    async with serving() as (client, state):
        state.enter("drain")
        assert (await client.get("/v2/health/ready")).status_code == 503
        response = await client.post(EMBEDDINGS, json=asked("w1"))
        assert (response.status_code, response.headers["connection"]) == (200, "close")


class Held(Toy):
    """Waits at a gate, or fails, as a test wants."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error = error
        self.gate = threading.Event()
        self.entered = threading.Event()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> tuple[torch.Tensor]:
        self.entered.set()
        if self.error is not None:
            raise self.error
        self.gate.wait()
        return super().forward(ids, mask, types)


async def test_a_full_queue_is_429_with_retry_after() -> None:
    toy = Held()
    async with serving(toy=toy, queue_rows=1) as (client, state):
        first = asyncio.ensure_future(client.post(EMBEDDINGS, json=asked("w1")))
        await asyncio.to_thread(toy.entered.wait)
        second = asyncio.ensure_future(client.post(EMBEDDINGS, json=asked("w1")))
        await until(lambda: state.model is not None and state.model.engine.waiting[0] == 1)
        response = await client.post(EMBEDDINGS, json=asked("w1"))
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        toy.gate.set()
        assert [(await one).status_code for one in (first, second)] == [200, 200]


async def test_a_request_whose_time_is_over_is_503() -> None:
    toy = Held()
    async with serving(toy=toy, request_seconds=0.05) as (client, _):
        response = await client.post(EMBEDDINGS, json=asked("w1"))
        toy.gate.set()
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "deadline_exceeded"


async def test_a_client_that_goes_away_frees_its_place() -> None:
    toy = Held()
    async with serving(toy=toy) as (client, state):
        first = asyncio.ensure_future(client.post(EMBEDDINGS, json=asked("w1")))
        await asyncio.to_thread(toy.entered.wait)
        gone = asyncio.Event()
        body = json.dumps(asked(["w1", "w2"])).encode()
        sent: list[Any] = []

        async def receive() -> Any:
            if sent:
                await gone.wait()
                return {"type": "http.disconnect"}
            sent.append(body)
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": EMBEDDINGS, "headers": [], "query_string": b""}
        second = asyncio.ensure_future(application(state)(scope, receive, send))
        await until(lambda: state.model is not None and state.model.engine.waiting[0] == 2)
        gone.set()
        await second
        assert state.model is not None
        assert state.model.engine.waiting == (0, 0)
        toy.gate.set()
        assert (await first).status_code == 200
        assert state.buffered_bytes == 0


async def test_a_body_that_never_comes_is_given_up() -> None:
    async def stalled() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    async with serving(request_seconds=0.05) as (client, state):
        assert (await client.post(EMBEDDINGS, content=stalled())).status_code == 408
        assert state.buffered_bytes == 0


async def test_a_failing_model_is_500_without_its_stack() -> None:
    async with serving(toy=Held(RuntimeError("/secret/path"))) as (client, _):
        response = await client.post(EMBEDDINGS, json=asked("w1"))
    assert response.status_code == 500
    assert "/secret/path" not in response.text


async def test_a_dead_compute_thread_makes_the_pod_not_live() -> None:
    async with serving(toy=Held(SystemExit())) as (client, _):
        assert (await client.post(EMBEDDINGS, json=asked("w1"))).status_code == 503
        assert (await client.get("/v2/health/live")).status_code == 500
        assert (await client.get("/v2/health/ready")).status_code == 503
        assert (await client.post(EMBEDDINGS, json=asked("w1"))).status_code == 503


async def test_numbers_that_are_not_finite_are_never_sent() -> None:
    class NotFinite(Toy):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> tuple[torch.Tensor]:
            return (super().forward(ids, mask, types)[0] * float("nan"),)

    async with serving(toy=NotFinite()) as (client, _):
        assert (await client.post(EMBEDDINGS, json=asked("w1"))).status_code == 500
        assert (await client.post(INFER, json={"inputs": FINE})).status_code == 500


async def test_a_fault_of_ours_is_500_in_the_protocols_shape(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (client, state):
        assert state.model is not None
        state.model = None
        object.__setattr__(state, "model", "broken")
        response = await client.post(EMBEDDINGS, json=asked("w1"))
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "internal error"
    assert "AttributeError" in caplog.text


async def test_without_pooling_there_are_no_embeddings() -> None:
    found = toy_manifest(pooling=Pooling(mode="none", normalize=False, origin="default"))
    async with serving(found) as (client, _):
        response = await client.post(EMBEDDINGS, json=asked("w1"))
    assert response.status_code == 400
    assert "no pooling" in response.text


async def test_a_request_id_is_honoured_or_made() -> None:
    async with serving() as (client, _):
        assert (await client.get("/v2", headers={"X-Request-Id": "abc-1"})).headers["x-request-id"] == "abc-1"
        forged = await client.get("/v2", headers={"X-Request-Id": 'a"b c'})
        assert len(forged.headers["x-request-id"]) == 32


@pytest.mark.parametrize(("level", "access_log"), [("DEBUG", False), ("INFO", True)])
async def test_access_lines_are_written_when_asked_for_and_leave_probes_out(
    caplog: pytest.LogCaptureFixture, level: str, access_log: bool
) -> None:
    caplog.set_level(level, "torchscript_operator.serve.edge")
    async with serving(access_log=access_log) as (client, _):
        await client.get("/v2/health/live")
        await client.get("/v2", headers={"X-Request-Id": "abc"})
    lines = [record for record in caplog.records if record.message == "request"]
    assert [(line.__dict__["path"], line.__dict__["status"], line.__dict__["request_id"]) for line in lines] == [
        ("/v2", 200, "abc")
    ]


async def test_without_being_asked_for_no_access_line_is_written(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "torchscript_operator.serve.edge")
    async with serving() as (client, _):
        await client.get("/v2")
    assert not [record for record in caplog.records if record.message == "request"]


async def test_metrics_count_requests_tokens_and_padding() -> None:
    async with serving() as (client, _):
        await client.post(EMBEDDINGS, json=asked(["w1 w2", "w3"]))
        await client.get("/nowhere/at/all")
        response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    for line in (
        'tsm_requests_total{code="200",route="/v1/embeddings"} 1.0',
        'tsm_requests_total{code="404",route="other"} 1.0',
        "tsm_tokens_total 7.0",
        "tsm_padding_tokens_total 1.0",
        "tsm_batch_rows_count 1.0",
        "tsm_ready 1.0",
    ):
        assert line in response.text.splitlines()
