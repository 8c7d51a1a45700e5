"""LitServe: batches of up to 32 within 5 ms, as its guide of batching shows."""

import os

import litserve
from minilm import Encoder


class Embedding(litserve.LitAPI):
    def setup(self, _device: str) -> None:
        self.encoder = Encoder()

    def decode_request(self, request: dict) -> str:
        return request["text"]

    def predict(self, texts: list) -> list:
        return list(self.encoder(texts))

    def encode_response(self, vector: object) -> dict:
        return {"embedding": vector.tolist()}


if __name__ == "__main__":
    api = Embedding(max_batch_size=32, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(os.environ.get("LITSERVE_WORKERS", "1")))
    server.run(port=int(os.environ["PORT"]), host="127.0.0.1", generate_client_file=False, log_level="warning")
