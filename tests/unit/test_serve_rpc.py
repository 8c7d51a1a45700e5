"""The Open Inference Protocol over gRPC, through a plain channel and the committed messages."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.serving import VERSION, WIDTH, Live, live, toy_manifest, toy_tokenizing
from tests.unit.test_serve_binary import arrays, direct, output_of, request, texts
from tests.unit.test_serve_http import Held
from torchscript_operator.serve.openinference import open_inference_pb2 as messages
from torchscript_operator.serve.rpc import SERVICE


def call(server: Live, method: str, message: Any, answer: Any = None, **options: Any) -> Any:
    """One call; message: of its type, or the bytes as they are."""
    with grpc.insecure_channel(server.grpc) as channel:
        multi = channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda given: given if isinstance(given, bytes) else given.SerializeToString(),
            response_deserializer=(answer or getattr(messages, f"{method}Response")).FromString,
        )
        return multi(message, timeout=options.pop("timeout", 30), **options)


def failure(server: Live, method: str, message: Any, **options: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call(server, method, message, **options)
    error: Any = raised.value
    return error.code(), error.details()


def infer(inputs: list[tuple[str, str, list[int], bytes]], *, raw: bool = True, **fields: Any) -> Any:
    message = messages.ModelInferRequest(model_name="toy", **fields)
    for name, datatype, shape, values in inputs:
        tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw:
            message.raw_input_contents.append(values)
        else:
            tensor.contents.int64_contents.extend(np.frombuffer(values, "<i8").tolist())
    return message


def raw_output(answer: Any) -> Any:
    (output,), (raw,) = answer.outputs, answer.raw_output_contents
    return np.frombuffer(raw, "<f4").reshape(list(output.shape))


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(request_rows=10) as found:
        yield found


def test_generated_messages_are_those_of_the_proto() -> None:
    subprocess.run([sys.executable, "operator/generate_protocol.py", "--check"], check=True)


def test_health_and_metadata(server: Live) -> None:
    assert call(server, "ServerLive", messages.ServerLiveRequest()).live
    assert call(server, "ServerReady", messages.ServerReadyRequest()).ready
    assert call(server, "ModelReady", messages.ModelReadyRequest(name="toy", version=VERSION)).ready
    assert list(call(server, "ServerMetadata", messages.ServerMetadataRequest()).extensions) == ["binary_tensor_data"]
    found = call(server, "ModelMetadata", messages.ModelMetadataRequest(name="toy"))
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in found.outputs] == [
        ("last_hidden_state", "FP32", [-1, -1, WIDTH])
    ]


def test_while_loading_it_is_live_and_not_ready() -> None:
    with live() as server:
        model, server.state.model = server.state.model, None
        server.state.enter("load")
        assert call(server, "ServerLive", messages.ServerLiveRequest()).live
        assert not call(server, "ServerReady", messages.ServerReadyRequest()).ready
        assert failure(server, "ModelInfer", infer(arrays([[5]])))[0] == grpc.StatusCode.UNAVAILABLE
        server.state.model = model


@pytest.mark.parametrize("raw", [True, False])
def test_inference_gives_the_models_outputs_the_way_inputs_came(server: Live, raw: bool) -> None:
    ids = [[2, 5, 6, 3], [2, 7, 8, 3]]
    answer = call(server, "ModelInfer", infer(arrays(ids), raw=raw, id="a-1"))
    assert (answer.model_name, answer.model_version, answer.id) == ("toy", VERSION, "a-1")
    found = raw_output(answer) if raw else np.array(answer.outputs[0].contents.fp32_contents).reshape(2, 4, WIDTH)
    np.testing.assert_allclose(found, direct(ids), rtol=1e-5, atol=1e-6)
    assert len(answer.raw_output_contents) == raw


def test_texts_give_their_tokens_and_a_mask(server: Live) -> None:
    answer = call(server, "ModelInfer", infer(texts("w1 w2 w3", "w4")))
    assert [(output.name, list(output.shape)) for output in answer.outputs] == [
        ("last_hidden_state", [2, 5, WIDTH]),
        ("attention_mask", [2, 5]),
    ]
    assert np.frombuffer(answer.raw_output_contents[1], "<i8").tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    ids = [row.inputs["input_ids"].tolist() for row in toy_tokenizing().encode(["w1 w2 w3", "w4"])]
    found = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(2, 5, WIDTH)
    np.testing.assert_allclose(found[1, :3], direct([ids[1]])[0], rtol=1e-5, atol=1e-6)
    assert not found[1, 3:].any()


def test_long_texts_are_cut_only_when_asked(server: Live) -> None:
    code, message = failure(server, "ModelInfer", infer(texts("w1 " * 30)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "32 tokens" in message
    asked = infer(texts("w1 " * 30), parameters={"truncate": messages.InferParameter(bool_param=True)})
    assert list(call(server, "ModelInfer", asked).outputs[0].shape) == [1, 16, WIDTH]


def with_contents_too() -> Any:
    message = infer(arrays([[5, 6]]))
    message.inputs[0].contents.int64_contents.extend([5, 6])
    return message


def of_another_type() -> Any:
    message = infer(arrays([[5, 6]]), raw=False)
    message.inputs[0].datatype = "FP32"
    return message


ERRORS: list[tuple[Any, grpc.StatusCode, str]] = [
    (infer(arrays([[5]]), model_version="1"), grpc.StatusCode.NOT_FOUND, "unknown version '1'"),
    (messages.ModelInferRequest(model_name="x"), grpc.StatusCode.NOT_FOUND, "unknown model 'x'"),
    (messages.ModelInferRequest(model_name="toy"), grpc.StatusCode.INVALID_ARGUMENT, "missing input"),
    (infer(arrays([[5, 99]])), grpc.StatusCode.INVALID_ARGUMENT, "outside 0 to 63"),
    (with_contents_too(), grpc.StatusCode.INVALID_ARGUMENT, "both contents and raw"),
    (of_another_type(), grpc.StatusCode.INVALID_ARGUMENT, "datatype INT64, not 'FP32'"),
    (infer([("input_ids", "INT64", [1, 3], b"\0" * 8)]), grpc.StatusCode.INVALID_ARGUMENT, "8 bytes do not fit"),
    (infer([("input_ids", "INT64", [-1, 3], b"")]), grpc.StatusCode.INVALID_ARGUMENT, "negative"),
    (infer(texts("")), grpc.StatusCode.INVALID_ARGUMENT, "empty text"),
    (infer(texts(*["w1"] * 11)), grpc.StatusCode.INVALID_ARGUMENT, "more than 10"),
    (infer(arrays([[5]] * 11)), grpc.StatusCode.INVALID_ARGUMENT, "more than 10"),
    (
        infer(arrays([[5]]), parameters={"priority": messages.InferParameter(int64_param=1)}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "unknown parameter 'priority'",
    ),
    (
        infer(arrays([[5]]), raw_input_contents=[b"x"]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "4 raw_input_contents do not fit 3 inputs",
    ),
    (b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "no message of this method"),
]


@pytest.mark.parametrize(("message", "code", "text"), ERRORS)
def test_what_a_client_gets_wrong_is_named(server: Live, message: Any, code: grpc.StatusCode, text: str) -> None:
    found = failure(server, "ModelInfer", message)
    assert found[0] == code
    assert text in found[1]


def test_a_message_over_the_limit_is_refused() -> None:
    with live(grpc_message_bytes=1000) as server:
        code, _ = failure(server, "ModelInfer", infer(arrays([[5] * 100])))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_messages_of_all_clients_together_are_bounded() -> None:
    with live(buffered_bytes=10) as server:
        code, _ = failure(server, "ModelInfer", infer(arrays([[5]])))
        assert server.state.buffered_bytes == 0
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_full_queue_says_when_to_come_back() -> None:
    with live(queue_rows=1) as server, pytest.raises(grpc.RpcError) as raised:
        call(server, "ModelInfer", infer(arrays([[5], [6]])))
    error: Any = raised.value
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(error.trailing_metadata())["retry-after"]) >= 1


def test_a_call_whose_time_is_over_frees_its_place() -> None:
    toy = Held()
    with live(toy=toy, request_seconds=0.2) as server:
        code, _ = failure(server, "ModelInfer", infer(arrays([[5]])))
        assert server.state.model is not None
        assert server.state.model.engine.waiting == (0, 0)
        toy.gate.set()
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_message_that_never_comes_is_given_up() -> None:
    over = threading.Event()

    def silent() -> Iterator[bytes]:
        over.wait()
        yield from ()

    with live(request_seconds=0.2) as server, grpc.insecure_channel(server.grpc) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.stream_unary(f"/{SERVICE}/ModelInfer")(silent(), timeout=30)
        over.set()
    error: Any = raised.value
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "did not come in time" in error.details()


def test_a_fault_of_ours_is_internal_without_its_stack() -> None:
    with live(toy=Held(RuntimeError("/secret/path"))) as server:
        code, message = failure(server, "ModelInfer", infer(arrays([[5]])))
        metrics = httpx.get(f"{server.url}/metrics").text
    assert code == grpc.StatusCode.INTERNAL
    assert "/secret/path" not in message
    assert f'tsm_requests_total{{code="INTERNAL",route="/{SERVICE}/ModelInfer"}} 1.0' in metrics


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_any_mix_of_protocols_lengths_and_masks_gives_each_row_its_own_answer(kind: str) -> None:
    """Many requests at a time, so that batches mix rows of all of them: no row's padding reaches another's answer."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from tests.unit.serving import Toy

    row = st.integers(1, 16).flatmap(
        lambda length: st.tuples(
            st.lists(st.integers(4, 63), min_size=length, max_size=length),
            st.lists(st.integers(0, 1), min_size=length, max_size=length).filter(any),
        )
    )
    mix = st.lists(st.tuples(st.sampled_from(["json", "binary", "grpc"]), row), min_size=1, max_size=12)

    def encoded(ids: list[int], mask: list[int]) -> list[tuple[str, str, list[int], bytes]]:
        values = [("input_ids", ids), ("attention_mask", mask), ("token_type_ids", [0] * len(ids))]
        return [(name, "INT64", [1, len(ids)], np.array(data, "<i8").tobytes()) for name, data in values]

    with (
        live(toy_manifest(batch=kind, sequence=kind)) as server,
        httpx.Client(base_url=server.url) as client,
        ThreadPoolExecutor(12) as pool,
    ):

        def ask(given: tuple[str, tuple[list[int], list[int]]]) -> Any:
            protocol, (ids, mask) = given
            if protocol == "grpc":
                return raw_output(call(server, "ModelInfer", infer(encoded(ids, mask))))
            body, headers = request(encoded(ids, mask), binary_data_output=protocol == "binary")
            response = client.post("/v2/models/toy/infer", content=body, headers=headers)
            if protocol == "binary":
                return output_of(response)
            (output,) = response.json()["outputs"]
            return np.array(output["data"]).reshape(output["shape"])

        @settings(max_examples=25, derandomize=True, database=None)
        @given(mix)
        def compare(requests: list[Any]) -> None:
            for (_, (ids, mask)), found in zip(requests, pool.map(ask, requests), strict=True):
                expected = Toy()(torch.tensor([ids]), torch.tensor([mask]), torch.zeros(1, len(ids)))[0].numpy()
                assert found.shape == expected.shape
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

        compare()
