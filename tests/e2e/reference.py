"""Embeddings as Transformers computes them in eager mode: what every answer is held against."""

from __future__ import annotations

import json
import urllib.request
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SENTENCES = ("A man is playing a guitar.", "Il pleut sur la ville depuis ce matin, et personne ne sort.", "ok")
TOLERANCE = 1e-5


@cache
def eager(folder: Path, sentences: tuple[str, ...] = SENTENCES) -> NDArray[np.float32]:
    """Mean-pooled, normalised embeddings, shape (sentences, width)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(list(sentences), padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).float()
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    vectors: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).numpy()
    return vectors


def ask(url: str, model: str, sentences: tuple[str, ...] = SENTENCES, seconds: float = 30) -> NDArray[np.float32]:
    """Ask a model's Service, on a connection of its own."""
    body = json.dumps({"model": model, "input": list(sentences)}).encode()
    request = urllib.request.Request(f"{url}/v1/embeddings", body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=seconds) as response:  # noqa: S310
        answer = json.load(response)
    return np.array([item["embedding"] for item in answer["data"]], dtype=np.float32)
