"""Which files of a model repository are read, and the checks that need neither torch nor transformers."""

import fnmatch
import json
import struct
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import Trust

WEIGHTS = ("model.safetensors", "model-*.safetensors")
"""The names under which Transformers looks for safetensors; variants and adapters are not read."""
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.spm", "bpe.codes")
"""At least one has to be there: newer Transformers would make up an empty tokenizer."""
READ = (
    "config.json",
    WEIGHTS_INDEX,
    *WEIGHTS,
    *TOKENIZERS,
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "modules.json",
    "sentence_bert_config.json",
    "[0-9]*_*/config.json",
)
"""All that an export reads, and so all that the source's digest covers. No pickle: loading one can run code."""
CODE = ("*.py",)
"""Read where the source's code is trusted."""
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
"""Read where pickles are trusted and there are no safetensors."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
"""Weights in formats that are not read, named so that the message can say what was found instead."""
MAXIMUM_HEADER_BYTES = 100 * 1024 * 1024
"""The limit that safetensors itself sets for a header."""


def read_names(names: Iterable[str], trust: Collection[Trust] = ()) -> list[str]:
    """The names that are read, sorted. WorkerError SOURCE_INVALID when they are no model.

    Code and pickles are read where they are trusted, pickles only where there are no safetensors.
    """
    everything = sorted(names)
    trusted: tuple[str, ...] = CODE if "RemoteCode" in trust else ()
    if "PickleWeights" in trust and not any(matches(name, WEIGHTS) for name in everything):
        trusted += PICKLED_WEIGHTS
    chosen = [name for name in everything if matches(name, (*READ, *trusted))]
    if "config.json" not in chosen:
        raise _no_model(everything, lacks="no config.json, so it is not a Transformers model")
    if not any(matches(name, (*WEIGHTS, *PICKLED_WEIGHTS)) for name in chosen):
        pickles = [name for name in everything if matches(name, PICKLES)]
        if pickles:
            found = (
                f"has only pickle weights ({pickles[0]}), which can run code when loaded: convert them to safetensors"
            )
            raise WorkerError(FailureReason.SOURCE_INVALID, f"The source {found}.")
        raise _no_model(everything, lacks="no model.safetensors")
    if not any(matches(name, TOKENIZERS) for name in chosen):
        raise _no_model(everything, lacks="no tokenizer files")
    return chosen


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a path below the source is one of the patterns; a star does not reach over a slash."""
    return any(name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json. WorkerError SOURCE_INVALID when it is no JSON object with a model_type."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        message = "The source's config.json names no model_type, so it is not a Transformers model."
        raise WorkerError(FailureReason.SOURCE_INVALID, message)
    return config


def read_json(path: Path) -> Any:
    """A JSON file of the source. WorkerError SOURCE_INVALID when it is none."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise WorkerError(FailureReason.SOURCE_INVALID, f"The source's {path.name} is not valid JSON.") from error


def check_weights(folder: Path, names: Iterable[str]) -> None:
    """Check that every weight file is whole. WorkerError SOURCE_INVALID names the first that is not."""
    present = set(names)
    if WEIGHTS_INDEX in present:
        index = read_json(folder / WEIGHTS_INDEX)
        listed = index.get("weight_map", {}) if isinstance(index, dict) else {}
        for missing in sorted({str(name) for name in listed.values()} - present):
            message = f"The source's {WEIGHTS_INDEX} names {missing}, which is not there."
            raise WorkerError(FailureReason.SOURCE_INVALID, message)
    for name in sorted(name for name in present if matches(name, WEIGHTS)):
        problem = _header_problem(folder / name)
        if problem:
            message = f"The source's {name} is damaged: {problem}."
            raise WorkerError(FailureReason.SOURCE_INVALID, message)


def _header_problem(path: Path) -> str:
    """What is wrong with a safetensors file, by its header and length; empty when nothing is."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:  # noqa: PLR2004
            return f"it has only {size} bytes"
        (length,) = struct.unpack("<Q", start)
        if length > min(MAXIMUM_HEADER_BYTES, size - 8):
            return "its header is longer than the file"
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return "its header is not that of a safetensors file"
    return "" if size == expected else f"it has {size} bytes where its header promises {expected}"


def _no_model(names: list[str], lacks: str) -> WorkerError:
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")  # noqa: PLR2004
    return WorkerError(FailureReason.SOURCE_INVALID, f"The source has {lacks}. It holds: {listed or 'nothing'}.")
