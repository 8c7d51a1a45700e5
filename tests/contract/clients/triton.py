"""A program that asks a server with NVIDIA's tritonclient, as its users do: URL GRPC_ADDRESS INPUTS.npz OUTPUTS.npz.

A process of its own, since tritonclient and kserve register the same protobuf names and cannot be imported together.
"""

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

MODEL = "minilm"
EMBEDDING, TOKENS = "sentence_embedding", "last_hidden_state"


def inputs(library: Any, arrays: dict[str, Any], **options: Any) -> list[Any]:
    found = []
    for name, array in arrays.items():
        one = library.InferInput(name, list(array.shape), "BYTES" if array.dtype == np.object_ else "INT64")
        one.set_data_from_numpy(array, **options)
        found.append(one)
    return found


def ask(library: Any, client: Any, tensors: dict[str, Any], texts: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    answer = client.infer(MODEL, inputs(library, tensors), request_id="a-1")
    chosen = client.infer(
        MODEL, inputs(library, tensors), outputs=[library.InferRequestedOutput(EMBEDDING)], model_version=""
    )
    by_text = client.infer(MODEL, inputs(library, {"text": texts}))
    tokens = client.infer(MODEL, inputs(library, {"text": texts}), outputs=[library.InferRequestedOutput(TOKENS)])
    try:
        client.infer("other", inputs(library, tensors))
        error = ""
    except tritonclient.utils.InferenceServerException as raised:
        error = f"{raised.status()} {raised.message()}"
    said = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(MODEL),
        "error": error,
        "only": chosen.as_numpy(TOKENS) is None,
    }
    return said, {
        "tokens": answer.as_numpy(TOKENS),
        "embedding": answer.as_numpy(EMBEDDING),
        "chosen": chosen.as_numpy(EMBEDDING),
        "by_text": by_text.as_numpy(EMBEDDING),
        "text_tokens": tokens.as_numpy(TOKENS),
        "text_mask": tokens.as_numpy("attention_mask"),
    }


def main(url: str, address: str, given: str, results: str) -> None:
    with np.load(given) as file:
        arrays = dict(file)
    texts = np.array([text.encode() for text in arrays.pop("texts").tolist()], dtype=np.object_)
    arrays_found: dict[str, Any] = {}
    said: dict[str, Any] = {}
    with tritonclient.http.InferenceServerClient(url.removeprefix("http://")) as client:
        said["http"], found = ask(tritonclient.http, client, arrays, texts)
        said["http"]["server"] = client.get_server_metadata()
        said["http"]["model"] = client.get_model_metadata(MODEL)
        plain = client.infer(
            MODEL,
            inputs(tritonclient.http, arrays, binary_data=False),
            outputs=[tritonclient.http.InferRequestedOutput(EMBEDDING, binary_data=False)],
        )
        found["json"] = plain.as_numpy(EMBEDDING)
        arrays_found |= {f"http_{name}": array for name, array in found.items()}
    with tritonclient.grpc.InferenceServerClient(address) as client:
        said["grpc"], found = ask(tritonclient.grpc, client, arrays, texts)
        said["grpc"]["server"] = client.get_server_metadata(as_json=True)
        said["grpc"]["model"] = client.get_model_metadata(MODEL, as_json=True)
        arrays_found |= {f"grpc_{name}": array for name, array in found.items()}
    np.savez(results, **arrays_found)
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
