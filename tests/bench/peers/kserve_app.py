"""KServe's Python server with a model of its own, as its guide of custom predictors shows.

One process, its default: with more, its supervisor ends those that take five seconds to import torch.
"""

import os

import kserve
from minilm import Encoder


class Minilm(kserve.Model):
    def load(self) -> bool:
        self.encoder = Encoder()
        self.ready = True
        return True

    def predict(self, payload: dict, *_headers: object, **_more: object) -> dict:
        return {"predictions": self.encoder(payload["instances"]).tolist()}


if __name__ == "__main__":
    model = Minilm("minilm")
    model.load()
    kserve.ModelServer(http_port=int(os.environ["PORT"]), enable_grpc=False, access_log_format=None).start([model])
