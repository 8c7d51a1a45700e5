"""Texts to rows with the artifact's tokenizer.json: nothing is cut, nothing is padded here."""

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.serve.rows import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS, Row, Want

INLINE_CHARACTERS = 4096
"""Texts up to this many characters together are encoded on the event loop: a thread's hand-over would cost more."""
KNOWN_INPUTS = frozenset({INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS})
"""Inputs that can be made from a text."""


class Tokenizing:
    """The tokenizer of one artifact and the ranges of its ids."""

    def __init__(self, tokenizer: Tokenizer | None, inputs: Sequence[str], config: dict[str, Any]) -> None:
        """Take what was loaded.

        tokenizer: None when the artifact has none, which leaves tensors only. config: the model's config.json.
        """
        self._tokenizer = tokenizer
        self._inputs = tuple(inputs)
        if tokenizer is not None:
            # The file may ask for both; a server that obeyed would cut texts without a word.
            tokenizer.no_truncation()
            tokenizer.no_padding()
        self.limits = {
            name: size
            for name, size in (
                (INPUT_IDS, config.get("vocab_size")),
                (TOKEN_TYPE_IDS, config.get("type_vocab_size")),
                (ATTENTION_MASK, 2),
            )
            if isinstance(size, int) and size > 0 and name in self._inputs
        }
        """Input name to the first value that is too large."""

    @classmethod
    def load(cls, manifest: Manifest, folder: Path) -> "Tokenizing":
        """Read tokenizer.json and config.json of a verified artifact.

        Raises WorkerError (InvalidRequest) for a tokenizer.json that this version of tokenizers cannot read.
        """
        path = folder / "tokenizer.json"
        tokenizer = None
        if any(entry.name == path.name for entry in manifest.files):
            try:
                tokenizer = Tokenizer.from_file(str(path))
            except Exception as error:
                msg = f"tokenizer.json cannot be read by this worker's tokenizers: {error}"
                raise WorkerError(FailureReason.INVALID_REQUEST, msg) from error
        return cls(tokenizer, [tensor.name for tensor in manifest.inputs], read_config(manifest, folder))

    @property
    def available(self) -> bool:
        """Whether texts can be taken at all."""
        return self._tokenizer is not None and KNOWN_INPUTS.issuperset(self._inputs)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer itself, which neither cuts nor pads, for tasks that need pairs, offsets or decoding.

        Raises RuntimeError when there is none; see `available`.
        """
        if self._tokenizer is None:
            msg = "the artifact has no tokenizer"
            raise RuntimeError(msg)
        return self._tokenizer

    async def rows(
        self, texts: Sequence[str], executor: Executor | None = None, *, limit: int | None = None, want: Want = "answer"
    ) -> list[Row]:
        """Encode texts, in their order; long ones in the executor. Special tokens are added as in training.

        executor: None for the event loop's own.
        limit: tokens, special ones included, to which a longer text is cut at its end; None cuts nothing.
        """
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return self.encode(texts, limit, want)
        return await asyncio.get_running_loop().run_in_executor(executor, self.encode, texts, limit, want)

    def encode(self, texts: Sequence[str], limit: int | None = None, want: Want = "answer") -> list[Row]:
        """Encode texts, in their order."""
        if len(texts) == 1:
            encodings = [self.tokenizer.encode(texts[0])]
        else:
            encodings = self.tokenizer.encode_batch_fast(list(texts))
        if limit is not None:
            encodings = [
                self._cut(text, limit) if len(encoding.ids) > limit else encoding
                for text, encoding in zip(texts, encodings, strict=True)
            ]
        return [self._row(encoding, want) for encoding in encodings]

    def from_ids(self, ids: NDArray[np.int64]) -> Row:
        """A row of token ids that are taken as they are, special tokens included."""
        length = len(ids)
        made = {
            INPUT_IDS: ids,
            ATTENTION_MASK: np.ones(length, dtype=np.int64),
            TOKEN_TYPE_IDS: np.zeros(length, dtype=np.int64),
        }
        return Row({name: made[name] for name in self._inputs}, length)

    def _cut(self, text: str, limit: int) -> Encoding:
        # Not by enable_truncation, which would change the tokenizer under other threads.
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        encoding.truncate(max(0, limit - self.tokenizer.num_special_tokens_to_add(is_pair=False)))
        return self.tokenizer.post_process(encoding)

    def _row(self, encoding: Encoding, want: Want) -> Row:
        made = {
            INPUT_IDS: encoding.ids,
            ATTENTION_MASK: encoding.attention_mask,
            TOKEN_TYPE_IDS: encoding.type_ids,
        }
        return Row({name: np.array(made[name], dtype=np.int64) for name in self._inputs}, len(encoding.ids), want)


def read_config(manifest: Manifest, folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON object among the artifact's files; empty when the artifact has no such file."""
    if not any(entry.name == name for entry in manifest.files):
        return {}
    config = json.loads((folder / name).read_bytes())
    return config if isinstance(config, dict) else {}


def pad_token(manifest: Manifest, folder: Path) -> int:
    """The id that fills up rows: the tokenizer's, else the model's, else 0; the mask hides it either way."""
    for name, field in (("tokenizer_config.json", "padTokenId"), ("config.json", "pad_token_id")):
        found = read_config(manifest, folder, name).get(field)
        if isinstance(found, int) and found >= 0:
            return found
    return 0
