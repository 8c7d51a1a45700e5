"""The eager side of an export: the model, untied, with its tokenizer and the inputs that it is asked with."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import Shape, Trust
from torchscript_operator.export import architectures, model, tokenizer
from torchscript_operator.export.compare import Remembered, run_at
from torchscript_operator.export.inputs import SENTENCES, InputMaker
from torchscript_operator.export.model import Forward, LoadedModel
from torchscript_operator.export.tasks import Task
from torchscript_operator.export.untie import untie


@dataclass(frozen=True)
class Loaded:
    """The eager side, ready to compare with."""

    model: LoadedModel
    tokenizer: tokenizer.LoadedTokenizer
    reference: Forward
    maker: InputMaker
    untied: int


def load(
    folder: Path,
    config: Mapping[str, Any],
    task: Task,
    samples: Sequence[str],
    trust: Collection[Trust],
    largest: Shape,
    room: int,
    say: Callable[[str], None],
) -> Loaded:
    """Load and untie a model. WorkerError as the model's and the tokenizer's own; COMPILATION_FAILED as _untied.

    samples: the user's texts. largest: the bucket with the most tokens. room: bytes of eager answers that are kept.
    """
    loaded_tokenizer = tokenizer.load(folder, (*SENTENCES, *samples), remote_code="RemoteCode" in trust)
    known = architectures.ARCHITECTURES.get(str(config["model_type"]))
    found = model.load(folder, config, task, known.attention if known else None, trust)
    architecture = architectures.of_model(found.module, loaded_tokenizer)
    maker = InputMaker(loaded_tokenizer, architecture.inputs, found.vocabulary_size, task.texts, architecture.segments)
    reference = model.eager(found, task)
    untied = _untied(found, reference, maker, min(8, largest.sequence))
    if untied:
        say(f"Untied {untied} shared weights")
    return Loaded(found, loaded_tokenizer, Remembered(reference, room), maker, untied)


def _untied(loaded: LoadedModel, reference: Forward, maker: InputMaker, sequence: int) -> int:
    """Untie, and prove that it changed nothing. WorkerError COMPILATION_FAILED when it did."""
    probe = maker.synthetic(Shape(batch=2, sequence=sequence), masked=True)
    before = run_at(probe.shape, "The eager model", lambda: reference(probe.inputs))
    untied = untie(loaded.module)
    if untied:
        after = run_at(probe.shape, "The eager model", lambda: reference(probe.inputs))
        if any(not np.array_equal(before[name], after[name], equal_nan=True) for name in before):
            message = f"Untying {untied} shared weights changed the model's outputs."
            raise WorkerError(FailureReason.COMPILATION_FAILED, message)
    return untied
