"""A program that asks a server with KServe's own clients, as its users do: URL GRPC_ADDRESS INPUTS.npz OUTPUTS.npz."""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

MODEL = "minilm"


def request(arrays: dict[str, Any], *, binary: bool, **options: Any) -> InferRequest:
    tensors = []
    for name, array in arrays.items():
        one = InferInput(name, list(array.shape), "BYTES" if array.dtype == np.object_ else "INT64")
        one.set_data_from_numpy(array, binary_data=binary)
        tensors.append(one)
    return InferRequest(model_name=MODEL, infer_inputs=tensors, **options)


async def ask(url: str, address: str, arrays: dict[str, Any], texts: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    chosen = [RequestedOutput("sentence_embedding", {"binary_data": True})]
    said: dict[str, Any] = {
        "live": await rest.is_server_live(url),
        "ready": await rest.is_server_ready(url),
        "model_ready": await rest.is_model_ready(url, MODEL),
    }
    found = {}
    for name, asked in {
        "json": request(arrays, binary=False),
        "binary": request(arrays, binary=True, request_outputs=chosen),
        "text": request({"text": texts}, binary=False),
        "binary_text": request({"text": texts}, binary=True),
    }.items():
        answer = await rest.infer(url, asked, model_name=MODEL)
        (output,) = [output for output in answer.outputs if output.name == "sentence_embedding"]
        found[name] = output.as_numpy()
    try:
        await rest.infer(url, request(arrays, binary=False), model_name="other")
    except Exception as raised:  # noqa: BLE001 - whatever the client makes of a 404
        said["error"] = f"{type(raised).__name__}: {raised}"
    await rest.close()
    grpc = InferenceGRPCClient(address)
    said["grpc_ready"] = await grpc.is_server_ready() and await grpc.is_model_ready(MODEL)
    answer = await grpc.infer(request(arrays, binary=True))
    (output,) = [output for output in answer.outputs if output.name == "sentence_embedding"]
    found["grpc"] = output.as_numpy()
    await grpc.close()
    return said, found


def main(url: str, address: str, given: str, results: str) -> None:
    with np.load(given) as file:
        arrays = dict(file)
    texts = np.array([text.encode() for text in arrays.pop("texts").tolist()], dtype=np.object_)
    said, found = asyncio.run(ask(url, address, arrays, texts))
    np.savez(results, **found)
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
