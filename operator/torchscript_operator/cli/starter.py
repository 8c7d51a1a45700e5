"""tsm init: a model.yaml for a repository, from what its config and its files say."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml

from torchscript_operator.api.v1alpha1.spec import Compiler, Task
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.artifact.request import HUB_TOKEN_VARIABLE
from torchscript_operator.cli import documents, validation
from torchscript_operator.cli.errors import USAGE, CliError
from torchscript_operator.export import architectures, files

TASKS: tuple[str, ...] = get_args(Task)
COMPILERS: tuple[str, ...] = get_args(Compiler)
PIPELINES = {
    "sentence-similarity": "feature-extraction",
    "translation": "text2text-generation",
    "zero-shot-classification": "text-classification",
}
"""Names that the Hub gives repositories, where they are not the task's own."""
TARGET_NAMES = {"torchscript": "cpu", "neuron": "inf1", "neuronx": "inf2"}
READ_FILES = ("config.json", "modules.json", "sentence_bert_config.json")
SHORT_SEQUENCE = 128
LONG_SEQUENCE = 512
"""Longer buckets cost compile time and memory; who needs one adds it."""
WORTH_A_BUCKET = 256
GIB = 2**30
EXPORT_DEFAULT, SERVING_DEFAULT = 4 * GIB, 2 * GIB
"""Memory limits that the chart's values give."""
EXPORT_FACTOR, SERVING_FACTOR = 3, 2
"""Times the weights: eager and traced model while they are compared; the loaded model, and a copy while it loads."""
BASE = GIB
"""Python and torch themselves."""
COMMIT = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True)
class Found:
    """What is known of a model before it is exported."""

    config: Mapping[str, Any] = field(default_factory=dict)
    modules: bool = False
    """It has sentence-transformers' modules.json."""
    maximum_tokens: int | None = None
    """What sentence-transformers cuts texts to."""
    commit: str | None = None
    pipeline: str | None = None
    """The Hub's own idea of the task."""
    weights_bytes: int | None = None
    names: tuple[str, ...] = ()
    """All files; empty where they could not be listed."""
    origin: str = "the Hub"
    """Where this was read."""

    @property
    def architecture(self) -> str | None:
        """The class that the weights are of."""
        listed = self.config.get("architectures") or [None]
        return str(listed[0]) if listed[0] else None

    @property
    def longest(self) -> int | None:
        """Tokens that a text may have."""
        limits = [architectures.maximum_positions(self.config) if self.config else None, self.maximum_tokens]
        return min((limit for limit in limits if limit), default=None)


@dataclass(frozen=True)
class Wish:
    """What the command line says of the file to write."""

    source: str
    """A repository, or s3://bucket/prefix."""
    name: str | None = None
    task: str | None = None
    revision: str = "main"
    endpoint: str | None = None
    sequence: int | None = None
    compilers: tuple[str, ...] = ("torchscript",)
    namespace: str | None = None


def task_of(found: Found) -> str | None:
    """The task that a model is made for; None where nothing says."""
    if found.modules:
        return "feature-extraction"
    name = found.architecture or ""
    if (by_head := _by_head(name)) is not None:
        return by_head
    pipeline = PIPELINES.get(found.pipeline or "", found.pipeline)
    if pipeline in TASKS:
        return pipeline
    return "feature-extraction" if name.endswith("Model") else None


def _by_head(architecture: str) -> str | None:
    """The task that the export has for a class of models."""
    try:
        from torchscript_operator.export import tasks  # noqa: PLC0415
    except ImportError:
        # Without numpy, which only the worker's rooms need, what the Hub says has to do.
        return None
    return tasks.of_architecture(architecture) if architecture else None


def name_of(source: str) -> str:
    """A name for the object from the repository's: all-MiniLM-L6-v2 becomes all-minilm-l6-v2, cut to 40 characters."""
    last = source.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:40].strip("-") or "model"


def shapes_of(longest: int | None, sequence: int | None) -> list[dict[str, int]]:
    """Buckets: one text and eight, short; and eight of the longest where texts may be much longer."""
    most = sequence or min(longest or SHORT_SEQUENCE, LONG_SEQUENCE)
    short = min(SHORT_SEQUENCE, most)
    found = [{"batch": 1, "sequence": short}, {"batch": 8, "sequence": short}]
    return [*found, {"batch": 8, "sequence": most}] if most >= WORTH_A_BUCKET or most > short else found


def from_folder(folder: Path) -> Found:
    """Read a model folder. WorkerError SOURCE_INVALID for one that is no model."""
    names = tuple(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    read = {name: folder / name for name in READ_FILES if (folder / name).is_file()}
    sizes = {name: (folder / name).stat().st_size for name in names}
    return _found(read, names, sizes, origin=str(folder))


def _found(read: Mapping[str, Path], names: Iterable[str], sizes: Mapping[str, int], **more: Any) -> Found:
    parsed = {name: _json(path) for name, path in read.items()}
    weights = [size for name, size in sizes.items() if files.matches(name, files.WEIGHTS)]
    cut = parsed.get("sentence_bert_config.json", {}).get("max_seq_length")
    return Found(
        config=parsed.get("config.json", {}),
        modules="modules.json" in read,
        maximum_tokens=cut if isinstance(cut, int) else None,
        weights_bytes=sum(weights) or None,
        names=tuple(names),
        **more,
    )


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def from_hub(repository: str, revision: str, endpoint: str | None, *, offline: bool) -> Found:
    """Ask the Hub, or where it cannot be reached the cache that Hugging Face's libraries share.

    CliError for a repository that is not there or may not be read. What nothing is known of comes back empty.
    """
    try:
        import huggingface_hub  # noqa: PLC0415
    except ImportError:
        return Found(origin="nowhere: huggingface_hub is not installed")
    from huggingface_hub import errors  # noqa: PLC0415
    from huggingface_hub.utils import validate_repo_id  # noqa: PLC0415

    try:
        validate_repo_id(repository)
    except errors.HFValidationError as error:
        message = f"{repository} is no name of a repository."
        raise CliError(message, USAGE, "Give it as OWNER/NAME, or as s3://bucket/prefix with --from.") from error
    if not offline:
        token = os.environ.get(HUB_TOKEN_VARIABLE)
        api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
        try:
            info = api.model_info(repository, revision=revision, files_metadata=True, timeout=15)
            sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
            read = {
                name: Path(api.hf_hub_download(repository, name, revision=info.sha))
                for name in READ_FILES
                if name in sizes
            }
        except errors.GatedRepoError as error:
            raise _refused(
                FailureReason.SOURCE_ACCESS_DENIED, f"{repository} is gated", "Accept its terms, then "
            ) from error
        except errors.RepositoryNotFoundError as error:
            said = f"There is no repository {repository}, or only for those who may read it"
            raise _refused(FailureReason.SOURCE_NOT_FOUND, said, "Correct its name, or ") from error
        except errors.RevisionNotFoundError as error:
            message = f"{repository} has no revision {revision}."
            code = CLASSES[FailureReason.SOURCE_NOT_FOUND].exit_code
            raise CliError(message, code, "Name a branch, a tag or a commit with --revision.") from error
        except Exception as error:  # noqa: BLE001 - which library speaks HTTP, and its errors, differ between releases
            return _cached(repository, revision, type(error).__name__)
        return _found(read, sizes, sizes, commit=info.sha, pipeline=info.pipeline_tag, origin="the Hub")
    return _cached(repository, revision, "--offline")


def _refused(reason: FailureReason, said: str, before: str) -> CliError:
    step = f"{before}set {HUB_TOKEN_VARIABLE} to a token that may read it."
    return CliError(f"{said}.", CLASSES[reason].exit_code, step)


def _cached(repository: str, revision: str, why: str) -> Found:
    """What this machine has of a repository already."""
    import huggingface_hub  # noqa: PLC0415

    read: dict[str, Path] = {}
    for name in READ_FILES:
        path = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(path, str):
            read[name] = Path(path)
    if not read:
        return Found(origin=f"nowhere ({why}, and no copy in this machine's cache)")
    commit = next(iter(read.values())).parent.name
    folder = next(iter(read.values())).parent
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    known = commit if COMMIT.match(commit) else None
    # The cache need not have all files, so their list proves nothing.
    return _found(read, (), sizes, commit=known, origin=f"this machine's cache ({why})")


def write(wish: Wish, found: Found) -> str:
    """The file's text. CliError where the task is not known; WorkerError for files that no export can read."""
    if found.names:
        files.read_names(found.names)
    task = wish.task or task_of(found)
    if task is None:
        known = found.architecture or f"nothing is known of {wish.source}: read from {found.origin}"
        raise CliError(f"What task is it for? ({known})", advice=f"Give --task, one of {', '.join(TASKS)}.")
    text = _text(wish, found, task)
    # What this writes is checked as any file is.
    validation.to_model(documents.read(text, "the new file")[0])
    return text


def _text(wish: Wish, found: Found, task: str) -> str:
    metadata = {"name": wish.name or name_of(wish.source)}
    metadata |= {"namespace": wish.namespace} if wish.namespace else {}
    parts = [
        f"# {_about(wish, found)}",
        "#",
        "#   tsm plan FILE && kubectl apply -f FILE && tsm wait " + metadata["name"],
        "apiVersion: torchscript.dev/v1alpha1",
        "kind: TorchScriptModel",
        _dump({"metadata": metadata}),
        "spec:",
        *_source(wish, found),
        "",
        *_task(wish, found, task),
        "",
        *_inputs(wish, found),
        "",
        *_targets(wish, found),
        "",
        *_serving(found),
    ]
    return "\n".join(parts) + "\n"


def _dump(value: Any, indent: int = 0) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False).rstrip()
    return "\n".join(f"{' ' * indent}{line}" for line in text.splitlines())


def _about(wish: Wish, found: Found) -> str:
    config = found.config
    facts = [
        found.architecture or config.get("model_type"),
        f"{config['num_hidden_layers']} layers" if config.get("num_hidden_layers") else None,
        f"width {config['hidden_size']}" if config.get("hidden_size") else None,
        f"{found.weights_bytes / 10**6:.0f} MB" if found.weights_bytes else None,
        f"texts of at most {found.longest} tokens" if found.longest else None,
    ]
    told = ", ".join(str(fact) for fact in facts if fact)
    return f"{wish.source}" + (f": {told}." if told else f": nothing could be read ({found.origin}); check every line.")


def _source(wish: Wish, found: Found) -> list[str]:
    if wish.source.startswith("s3://"):
        s3 = {"uri": wish.source} | ({"endpoint": wish.endpoint} if wish.endpoint else {})
        return [_dump({"source": {"s3": s3}}, 2)]
    hub: dict[str, str] = {"repository": wish.source}
    lines = []
    if found.commit:
        hub["revision"] = found.commit
        lines = [
            f"  # {wish.revision} when this was written: the same commit gives the same artifact.".replace("  #", "  #")
        ]
    elif wish.revision != "main":
        hub["revision"] = wish.revision
    if wish.endpoint:
        hub["endpoint"] = wish.endpoint
    return [*lines, _dump({"source": {"huggingFace": hub}}, 2)]


def _task(wish: Wish, found: Found, task: str) -> list[str]:
    why = "as asked for" if wish.task else "by its sentence-transformers files" if found.modules else None
    why = why or (f"by its class {found.architecture}" if found.architecture else f"by {found.origin}")
    return [f"  # {why[0].upper()}{why[1:]}.", f"  task: {task}"]


def _inputs(wish: Wish, found: Found) -> list[str]:
    shapes = shapes_of(found.longest, wish.sequence)
    return [
        "  inputs:",
        "    # Each is compiled, proven and warmed up; a request is padded to the smallest that holds it.",
        "    shapes:",
        *(f"    - {{batch: {shape['batch']}, sequence: {shape['sequence']}}}" for shape in shapes),
        "    # Parity is measured on these too: put texts here like those that the model will meet.",
        "    # samples:",
        "    #   texts: [How do I reset my password?]",
    ]


def _targets(wish: Wish, found: Found) -> list[str]:
    lines = ["  targets:"]
    for compiler in wish.compilers:
        name = TARGET_NAMES.get(compiler, compiler)
        lines += [f"  - name: {name}", f"    compiler: {compiler}"]
        if compiler == "torchscript":
            lines += ["    # float32, bfloat16, int8, or auto: the fastest measured that passes parity."]
        lines += ["    precision: float32"]
        if compiler != "torchscript":
            lines += ["    # Compile on a node without a device, prove on one with it.", "    verify: {}"]
        needs = _memory(found, EXPORT_FACTOR)
        if needs > EXPORT_DEFAULT and compiler == "torchscript":
            lines += ["    # Three times the weights, and Python.", *_resources(needs, 4, "job")]
    return lines


def _serving(found: Found) -> list[str]:
    lines = ["  serving:", "    replicas: 1"]
    needs = _memory(found, SERVING_FACTOR)
    if needs > SERVING_DEFAULT:
        lines += ["    # Twice the weights, and Python.", *_resources(needs, 4, None)]
    return lines


def _memory(found: Found, factor: int) -> int:
    return (found.weights_bytes or 0) * factor + BASE


def _resources(amount: int, indent: int, below: str | None) -> list[str]:
    gibibytes = f"{-(-amount // GIB)}Gi"
    value = {"resources": {"requests": {"cpu": "1", "memory": gibibytes}, "limits": {"memory": gibibytes}}}
    return [_dump({below: value} if below else value, indent)]
