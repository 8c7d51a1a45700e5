"""Texts to rows with the artifact's tokenizer.json: nothing is cut, nothing is padded here."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.serve.buckets import Buckets, TooLongError
from torchscript_operator.serve.rows import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS, Row, Want

INLINE_CHARACTERS = 4096
"""Texts up to this many characters together are encoded on the event loop: a thread's hand-over would cost more."""
PIECE_CHARACTERS = 65536
"""Of texts that are encoded at one time: a tokenizer takes some 300 bytes a character while it works."""
CHARACTERS_PER_TOKEN = 64
"""Beyond this many for each token that the model takes a text is not even tokenised; languages have from 1 to 6."""
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
        self,
        texts: Sequence[str],
        buckets: Buckets,
        executor: Executor | None = None,
        *,
        truncate: bool = False,
        want: Want = "answer",
    ) -> list[Row]:
        """Encode texts, in their order; long ones in the executor. Special tokens are added as in training.

        executor: None for the event loop's own. truncate: cut a text that is longer than every bucket at its end.
        Raises TooLongError at the first text that no bucket takes, before the next ones are encoded.
        """
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return self.encode(texts, buckets, truncate=truncate, want=want)
        work = partial(self.encode, texts, buckets, truncate=truncate, want=want)
        return await asyncio.get_running_loop().run_in_executor(executor, work)

    def encode(
        self, texts: Sequence[str], buckets: Buckets | None = None, *, truncate: bool = False, want: Want = "answer"
    ) -> list[Row]:
        """Encode texts, in their order; without buckets whatever their lengths are."""
        rows: list[Row] = []
        for piece in _pieces(texts):
            read = piece if buckets is None else [readable(text, buckets.longest, cut=truncate) for text in piece]
            alone = len(read) == 1
            encodings = [self.tokenizer.encode(read[0])] if alone else self.tokenizer.encode_batch_fast(read)
            for text, part, encoding in zip(piece, read, encodings, strict=True):
                found = encoding
                if buckets is not None:
                    if truncate and len(found.ids) > buckets.longest:
                        found = self._cut(part, buckets.longest)
                    elif len(part) < len(text):
                        raise unreadable(text, buckets.longest)
                    buckets.check(len(found.ids))
                rows.append(self._row(found, want))
        return rows

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


def readable(text: str, longest: int, *, cut: bool) -> str:
    """What of a text is worth tokenising for a model of `longest` tokens: all, or with `cut` its beginning.

    Raises TooLongError for one that is out of proportion and may not be cut. One that was cut has to give more than
    `longest` tokens: else what is left of it is not known to be its first ones, and it is `unreadable`.
    """
    most = CHARACTERS_PER_TOKEN * longest
    if len(text) > most and not cut:
        raise unreadable(text, longest)
    return text[:most]


def unreadable(text: str, longest: int) -> TooLongError:
    """The error of a text that is too long to be tokenised."""
    return TooLongError(
        f"{len(text)} characters are too many for a model that takes {longest} tokens: shorten the text"
    )


def _pieces(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts in their order, a few thousand characters or one text at a time."""
    piece: list[str] = []
    size = 0
    for text in texts:
        if piece and size + len(text) > PIECE_CHARACTERS:
            yield piece
            piece, size = [], 0
        piece.append(text)
        size += len(text)
    if piece:
        yield piece


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
