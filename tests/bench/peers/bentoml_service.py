"""BentoML: an API of batches, which its dispatcher fills adaptively."""

import bentoml
import numpy as np
from minilm import Encoder


@bentoml.service(traffic={"timeout": 60})
class Minilm:
    def __init__(self) -> None:
        self.encoder = Encoder()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
    def embed(self, texts: list[str]) -> np.ndarray:
        return self.encoder(texts)
