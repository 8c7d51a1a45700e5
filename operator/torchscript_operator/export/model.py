"""Loading the eager model: all of its weights and nothing made up."""

import logging
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import Trust
from torchscript_operator.export.memory import is_out_of_memory
from torchscript_operator.export.tasks import Arrays, Task, forward_options, of_architecture

if TYPE_CHECKING:
    from torch import nn

Forward = Callable[[Arrays], Mapping[str, NDArray[Any]]]
"""Input name to array in, output name to array out."""
LISTED = 3
"""Weights named in a message; there can be thousands."""


@dataclass(frozen=True)
class LoadedModel:
    """An eager model in float32, in eval mode, without gradients."""

    module: "nn.Module"
    architecture: str
    """The model class, such as BertModel."""
    vocabulary_size: int


def load(
    folder: Path, config: Mapping[str, Any], task: Task, attention: str | None, trust: Collection[Trust] = ()
) -> LoadedModel:
    """Load the model for a task, by Transformers' class or, where that is trusted, by the source's own.

    WorkerError SOURCE_INVALID for what Transformers cannot load, TASK_MISMATCH when weights of the task's head are
    missing, since Transformers would fill them with random numbers.
    """
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    _quieten()
    remote = "RemoteCode" in trust and "auto_map" in config
    if remote:
        _check_own_code(config)
    loaded_config = _load_config(folder, config, remote=remote)
    auto_class = getattr(transformers, task.auto_class)
    own = config["auto_map"].get(task.auto_class) if remote else None
    model_class = _model_class(auto_class, loaded_config, task) if own is None else _own_class(folder, own)
    _check_declared(loaded_config, task, model_class)
    options: dict[str, Any] = dict(task.load_options(model_class))
    if attention is not None:
        options["attn_implementation"] = attention
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module, report = model_class.from_pretrained(
                folder,
                config=loaded_config,
                local_files_only=True,
                output_loading_info=True,
                **loading_options(
                    transformers.__version__, torch.float32, safetensors=any(folder.glob("*.safetensors"))
                ),
                **options,
            )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # Transformers lets errors of every library below it through, and all of them mean this here.
        message = f"Transformers cannot load the model ({type(error).__name__}: {first_line(error)})."
        raise WorkerError(FailureReason.SOURCE_INVALID, message) from error
    _check_complete(report, task, type(module).__name__)
    if remote:
        _rename_own_classes(module)
    module.eval()
    module.requires_grad_(requires_grad=False)
    return LoadedModel(module, type(module).__name__, _vocabulary_size(module))


def eager(model: LoadedModel, task: Task) -> Forward:
    """The reference: the model called by keywords as Transformers documents it, past the module that is traced."""
    import torch  # noqa: PLC0415

    options = forward_options(model.module)

    def forward(inputs: Arrays) -> Mapping[str, NDArray[Any]]:
        arranged = task.arrange(inputs)
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arranged.items()}
        with torch.no_grad():
            answer = model.module(**tensors, **options, return_dict=True)
        return task.reference(answer, inputs)

    return forward


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to a length that fits a message."""
    return next(iter(str(error).strip().splitlines()), "")[:300].rstrip(".")


def _check_own_code(config: Mapping[str, Any]) -> None:
    """WorkerError SOURCE_INVALID for code of another repository: the source's digest would not cover it."""
    elsewhere = sorted(str(name) for name in config["auto_map"].values() if "--" in str(name))
    if elsewhere:
        message = f"The model's code lies in another repository ({elsewhere[0]}): copy it to the source."
        raise WorkerError(FailureReason.SOURCE_INVALID, message)


def _own_class(folder: Path, reference: str) -> Any:
    """A class of the source's own code, such as modeling.Model. WorkerError SOURCE_INVALID for code that fails."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module  # noqa: PLC0415

    try:
        return get_class_from_dynamic_module(reference, str(folder), local_files_only=True)
    except Exception as error:
        # It is somebody else's code, so that anything can come out of it.
        message = f"The source's own code has no {reference} ({type(error).__name__}: {first_line(error)})."
        raise WorkerError(FailureReason.SOURCE_INVALID, message) from error


def _rename_own_classes(module: "nn.Module") -> None:
    """Give classes of the source's own code a module's name that TorchScript can write and read.

    Transformers names it by a hash, which may begin with a digit.
    """
    for found in {type(part) for part in module.modules()}:
        if found.__module__.startswith("transformers_modules."):
            found.__module__ = f"transformers_modules.{found.__module__.rpartition('.')[2]}"


def _load_config(folder: Path, config: Mapping[str, Any], *, remote: bool = False) -> Any:
    import transformers  # noqa: PLC0415

    kind = config["model_type"]
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=remote)
    except Exception as error:
        if "auto_map" in config and not remote:
            found = f"Models of type {kind!r} bring code of their own, and custom code is off (spec.source.trust)."
        elif kind not in transformers.CONFIG_MAPPING:
            found = f"Model type {kind!r} is unknown to Transformers {transformers.__version__}."
        else:
            found = f"The source's config.json is not one of a {kind!r} model ({first_line(error)})."
        raise WorkerError(FailureReason.SOURCE_INVALID, found) from error


def _model_class(auto_class: Any, config: Any, task: Task) -> Any:
    """The class behind an auto class. WorkerError TASK_MISMATCH when the architecture has none for the task."""
    if config.is_encoder_decoder != task.encoder_decoder or type(config) not in auto_class._model_mapping:  # noqa: SLF001
        message = f"A {config.model_type!r} model has no head for task {task.name!r}."
        raise WorkerError(FailureReason.TASK_MISMATCH, message)
    found = auto_class._model_mapping[type(config)]  # noqa: SLF001
    if isinstance(found, (tuple, list)):
        named = [choice for choice in found if choice.__name__ in (config.architectures or ())]
        found = (named or found)[0]
    return found


def _check_declared(config: Any, task: Task, model_class: Any) -> None:
    """Compare the task with config.json, since some heads have the same weights' names and mean other things."""
    declared = tuple(config.architectures or ())
    if not task.heads or not declared or model_class.__name__ in declared or declared[0].endswith(task.heads):
        return
    of = of_architecture(declared[0])
    made_for = f", made for the task {of!r}" if of else ", which has no head"
    message = f"The source's config.json says {declared[0]}{made_for}: it has no trained head for task {task.name!r}."
    raise WorkerError(FailureReason.TASK_MISMATCH, message)


def _check_complete(report: Mapping[str, Any], task: Task, model_class: str) -> None:
    missing = sorted(report["missing_keys"])
    if missing:
        listed = ", ".join(missing[:LISTED]) + (f" and {len(missing) - LISTED} more" if len(missing) > LISTED else "")
        message = f"The source has no weights for {listed}, which {model_class} needs for task {task.name!r}."
        raise WorkerError(FailureReason.TASK_MISMATCH, message)
    broken = [*sorted(map(str, report.get("mismatched_keys") or ())), *(report.get("error_msgs") or ())]
    if broken:
        message = f"The source's weights do not fit {model_class}: {broken[0]}."
        raise WorkerError(FailureReason.SOURCE_INVALID, message)


def _vocabulary_size(module: Any) -> int:
    try:
        return int(module.get_input_embeddings().weight.shape[0])
    except (NotImplementedError, AttributeError) as error:
        message = f"{type(module).__name__} has no embeddings of tokens, so it is not a text model."
        raise WorkerError(FailureReason.SOURCE_INVALID, message) from error


def loading_options(version: str, dtype: Any, *, safetensors: bool = True) -> dict[str, Any]:
    """Keywords of from_pretrained that ask for a dtype and a kind of weights, in the words of a Transformers version.

    Pickles are read only where they are trusted, and by newer versions with torch's reader of weights alone.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    options = {"dtype" if (major, minor) >= (4, 56) else "torch_dtype": dtype}
    # Older ones hand an unknown keyword to the model; they take safetensors first, and a source without is refused.
    return options | ({"use_safetensors": safetensors} if (major, minor) >= (4, 28) else {})


def _quieten() -> None:
    """Leave the log to our own lines: Transformers reports loading in tables and bars."""
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").propagate = False
