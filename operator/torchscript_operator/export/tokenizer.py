"""The tokenizer of the artifact: one file for the tokenizers library, proven to give Transformers' own ids."""

import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.export import marian

TOKENIZER_NAME = "tokenizer.json"
FACTS_NAME = "tokenizer_config.json"
MASK_ID = "maskTokenId"
"""Name of the mask token's id among the facts."""
UNLIMITED = 10**9
"""Transformers writes a huge number where a tokenizer has no maximum."""


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer that neither pads nor truncates by itself."""

    tokenizer: Tokenizer
    model_input_names: tuple[str, ...]
    pad_id: int
    special_ids: frozenset[int]
    facts: dict[str, Any]
    """What a server has to know beside tokenizer.json: padToken, padTokenId, paddingSide, modelMaxLength, the ids of
    the mask, unknown and class tokens, whether decoding takes out the spaces before punctuation, and for MarianMT the
    pieces that texts are written with."""


def load(folder: Path, check_texts: Iterable[str], *, remote_code: bool = False) -> LoadedTokenizer:
    """Load a model folder's tokenizer, converting a slow one. WorkerError SOURCE_INVALID when that is not possible.

    The fast tokenizer has to give the ids of Transformers' tokenizer for every text of `check_texts`.
    """
    own = _own(folder, remote_code=remote_code)
    texts = list(check_texts)
    if type(own).__name__ == "MarianTokenizer":
        backend: Any = marian.convert(own)
        extra = marian.target_facts(own)
        texts = marian.checkable(own, texts)
    else:
        backend, extra = getattr(own, "backend_tokenizer", None), {}
    if backend is None:
        message = f"The source's {type(own).__name__} has no fast form (tokenizer.json), which serving needs."
        raise WorkerError(FailureReason.SOURCE_INVALID, message)
    tokenizer = Tokenizer.from_str(backend.to_str())
    # A model's file may pad and cut to a length of its own; shapes decide that here.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for text in texts:
        if tokenizer.encode(text).ids != own(text, truncation=False, padding=False)["input_ids"]:
            message = f"The fast tokenizer gives other ids than {type(own).__name__} for {text[:40]!r}."
            raise WorkerError(FailureReason.SOURCE_INVALID, message)
    facts = _facts(own, backend) | extra
    return LoadedTokenizer(
        tokenizer, tuple(own.model_input_names), facts["padTokenId"], frozenset(own.all_special_ids), facts
    )


def _own(folder: Path, *, remote_code: bool) -> Any:
    """Transformers' tokenizer of a folder, or with `remote_code` its own."""
    from transformers import AutoTokenizer  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            # MarianMT's recommends a package that its own tokens do not need.
            warnings.simplefilter("ignore")
            return AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=remote_code, use_fast=True
            )
    except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError, RuntimeError) as error:
        message = f"The source's tokenizer cannot be loaded: {_first_line(error)}"
        raise WorkerError(FailureReason.SOURCE_INVALID, message) from error


def _facts(own: Any, backend: Tokenizer) -> dict[str, Any]:
    pad_id = own.pad_token_id
    facts: dict[str, Any] = {"padTokenId": 0 if pad_id is None else int(pad_id), "paddingSide": "right"}
    if pad_id is not None:
        facts["padToken"] = str(own.pad_token)
    for name in ("mask", "unk", "cls"):
        token_id = getattr(own, f"{name}_token_id", None)
        if token_id is not None:
            facts[f"{name}TokenId"] = int(token_id)
    facts["cleanUpSpaces"] = _cleans_up(own, backend)
    if 0 < own.model_max_length < UNLIMITED:
        facts["modelMaxLength"] = int(own.model_max_length)
    return facts


def save(loaded: LoadedTokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, and read the former back to see that it is the same."""
    loaded.tokenizer.save(str(folder / TOKENIZER_NAME), pretty=False)
    (folder / FACTS_NAME).write_text(json.dumps(loaded.facts, sort_keys=True), encoding="utf-8")
    if Tokenizer.from_file(str(folder / TOKENIZER_NAME)).to_str() != loaded.tokenizer.to_str():
        message = "The tokenizer does not survive being saved as tokenizer.json."
        raise WorkerError(FailureReason.SOURCE_INVALID, message)


def _cleans_up(own: Any, backend: Tokenizer) -> bool:
    """Whether decoding takes out the spaces that word pieces leave before punctuation; newer ones spare BPE."""
    spared = getattr(own, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", True)
    # Old versions know no such attribute, and clean up.
    cleans = bool(getattr(own, "clean_up_tokenization_spaces", True))
    return cleans and (spared or type(backend.model).__name__ != "BPE")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
