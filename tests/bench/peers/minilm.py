"""The model as the peers load it: eager, or the very TorchScript file that our own server serves."""

import os

import numpy as np
import torch
from tokenizers import Tokenizer


class Encoder:
    """Texts to vectors. Threads: all of this process's, unless MINILM_THREADS says otherwise."""

    def __init__(self, kind: str = "traced") -> None:
        if "MINILM_THREADS" in os.environ:
            torch.set_num_threads(int(os.environ["MINILM_THREADS"]))
        folder = os.environ["MINILM_FOLDER"]
        self._tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self._tokenizer.no_truncation()
        self._tokenizer.enable_padding()
        self._eager = kind == "eager"
        if self._eager:
            from transformers import AutoModel

            self._model = AutoModel.from_pretrained(folder).eval()
        else:
            self._model = torch.jit.load(os.environ["MINILM_TRACED"]).eval()

    def __call__(self, texts: list[str]) -> np.ndarray:
        """One normalised vector of shape (384,) a text."""
        encodings = self._tokenizer.encode_batch(texts)
        ids, mask, types = (
            torch.tensor([getattr(encoding, name) for encoding in encodings])
            for name in ("ids", "attention_mask", "type_ids")
        )
        with torch.inference_mode():
            if not self._eager:
                given = self._model(ids, mask, types)
                return (given["sentence_embedding"] if isinstance(given, dict) else given[1]).float().numpy()
            hidden = self._model(ids, attention_mask=mask, token_type_ids=types).last_hidden_state
            weights = mask[:, :, None].float()
            vectors = (hidden * weights).sum(1) / weights.sum(1)
            return torch.nn.functional.normalize(vectors).numpy()
