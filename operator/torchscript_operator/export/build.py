"""The stages that need torch: load, trace, axes, parity, and the files of the artifact."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchscript_operator.artifact import digest
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.golden import GoldenCase
from torchscript_operator.artifact.manifest import Manifest, OutputParity
from torchscript_operator.artifact.parity import verdict
from torchscript_operator.artifact.request import ExportRequest, Shape
from torchscript_operator.export import architectures, package, tokenizer
from torchscript_operator.export.backends import Backend
from torchscript_operator.export.compare import Pair, detect_axes, run_at
from torchscript_operator.export.inputs import SENTENCES, Batch, InputMaker
from torchscript_operator.export.logs import Progress
from torchscript_operator.export.model import Forward, LoadedModel, eager, load
from torchscript_operator.export.package import ModelFile
from torchscript_operator.export.source import ResolvedSource
from torchscript_operator.export.tasks import Task
from torchscript_operator.export.untie import untie

PROVENANCE_NAME = "torchscript-operator.json"
"""Extra file inside each compiled model that says where it came from."""


@dataclass(frozen=True)
class Loaded:
    """The eager side, ready to compare with."""

    model: LoadedModel
    reference: Forward
    maker: InputMaker
    untied: int


class Builder:
    """Makes the files of one artifact in a folder, and its manifest with the verdict."""

    def __init__(
        self,
        request: ExportRequest,
        shapes: Sequence[Shape],
        resolved: ResolvedSource,
        config: Mapping[str, Any],
        task: Task,
        backend: Backend,
        progress: Progress,
    ) -> None:
        """Take what the stages before found; nothing is loaded yet."""
        self._request = request
        self._shapes = tuple(shapes)
        self._resolved = resolved
        self._config = config
        self._task = task
        self._backend = backend
        self._progress = progress

    def build(self, folder: Path, key: str, samples: Sequence[str], versions: Mapping[str, str]) -> Manifest:
        """Fill the folder. WorkerError with the class of whatever fails; a failed verdict is in the manifest."""
        with self._progress.stage("load", "Loading the eager model"):
            loaded_tokenizer = tokenizer.load(self._resolved.folder, (*SENTENCES, *samples))
            loaded = self._load(loaded_tokenizer)
        provenance = {PROVENANCE_NAME: digest.canonical_json({"key": key, "versions": dict(versions)}).decode()}
        with self._progress.stage("trace", f"Compiling for {self._largest.name}"):
            module = self._task.wrap(loaded.model.module, loaded.maker.input_names)
            first = folder / package.model_name(None)
            self._compile(loaded, module, self._largest, first, provenance)
        with self._progress.stage("axes", "Finding out which axes are dynamic"):
            limit = architectures.maximum_positions(self._config)
            axes = detect_axes(self._pair(loaded, first), loaded.maker, self._largest, limit)
            self._progress.say(f"The batch axis is {axes.batch}, the sequence axis is {axes.sequence}")
        models = [ModelFile(first.name, None)]
        if not axes.all_dynamic:
            with self._progress.stage("trace", f"Compiling for {len(self._shapes)} shapes"):
                models = self._compile_each(loaded, module, folder, provenance)
        with self._progress.stage("parity", "Comparing with eager"):
            cases = self._golden(loaded)
            outputs = self._compare(loaded, folder, models, cases, (*SENTENCES, *samples))
            expected = [(output.name, shape.name) for shape in self._shapes for output in self._task.outputs]
            parity = verdict(outputs, expected, self._request.parity)
            self._progress.say(f"Parity: {parity.verdict} over {sum(output.rows for output in outputs)} rows")
        with self._progress.stage("package", "Writing the files"):
            package.write_small_files(folder, self._resolved.folder, loaded_tokenizer, cases)
            example = self._reference_at(loaded, loaded.maker.synthetic(Shape(batch=1, sequence=1), masked=False))
            return Manifest(
                key=key,
                source=self._resolved.identity,
                task=self._request.task,
                architecture=loaded.model.architecture,
                compilation=self._request.compilation,
                precision=self._request.compilation.precision,
                shapes=self._shapes,
                inputs=package.input_specs(loaded.maker.input_names, axes, self._shapes),
                outputs=package.output_specs(self._task.outputs, example, axes, self._shapes),
                pooling=self._task.pooling,
                maximum_sequence=max(shape.sequence for shape in self._shapes),
                untied_weights=loaded.untied,
                files=package.entries(folder, models),
                versions=dict(versions),
                parity=parity,
            )

    @property
    def _largest(self) -> Shape:
        """The bucket with the most tokens: a trace is made at least as large as what will be fed."""
        return max(self._shapes, key=lambda shape: (shape.batch * shape.sequence, shape.sequence))

    def _load(self, loaded_tokenizer: tokenizer.LoadedTokenizer) -> Loaded:
        known = architectures.ARCHITECTURES.get(str(self._config["model_type"]))
        attention = known.attention if known else None
        loaded = load(self._resolved.folder, self._config, self._task, attention)
        architecture = architectures.of_model(loaded.module, loaded_tokenizer)
        maker = InputMaker(loaded_tokenizer, architecture.inputs, loaded.vocabulary_size)
        found = Loaded(loaded, eager(loaded, self._task), maker, untied=0)
        probe = maker.synthetic(Shape(batch=2, sequence=min(8, self._largest.sequence)), masked=True)
        before = self._reference_at(found, probe)
        untied = untie(loaded.module)
        if untied:
            after = self._reference_at(found, probe)
            if any(not np.array_equal(before[name], after[name], equal_nan=True) for name in before):
                message = f"Untying {untied} shared weights changed the model's outputs."
                raise WorkerError(FailureReason.COMPILATION_FAILED, message)
            self._progress.say(f"Untied {untied} shared weights")
        return Loaded(loaded, found.reference, maker, untied)

    def _compile(self, loaded: Loaded, module: Any, shape: Shape, file: Path, provenance: Mapping[str, str]) -> None:
        """Trace with masks that hold zeros, so that no branch for full masks is recorded."""
        example = loaded.maker.synthetic(shape, masked=True)
        arrays = [example.inputs[name] for name in loaded.maker.input_names]
        self._backend.compile(module, arrays, file, provenance)

    def _compile_each(
        self, loaded: Loaded, module: Any, folder: Path, provenance: Mapping[str, str]
    ) -> list[ModelFile]:
        """One file for each bucket; the one traced already becomes that of its bucket."""
        for shape in self._shapes:
            file = folder / package.model_name(shape)
            if shape == self._largest:
                (folder / package.model_name(None)).replace(file)
            else:
                self._compile(loaded, module, shape, file, provenance)
        return [ModelFile(package.model_name(shape), shape) for shape in self._shapes]

    def _golden(self, loaded: Loaded) -> list[GoldenCase]:
        budget = package.MAXIMUM_GOLDEN_BYTES // len(self._shapes)
        batches = [loaded.maker.mixed(SENTENCES, shape) for shape in self._shapes]
        return [package.golden_case(batch, loaded.reference, self._task.outputs, budget) for batch in batches]

    def _compare(
        self,
        loaded: Loaded,
        folder: Path,
        models: Sequence[ModelFile],
        cases: Sequence[GoldenCase],
        texts: Sequence[str],
    ) -> list[OutputParity]:
        figures: list[OutputParity] = []
        for file in models:
            pair = self._pair(loaded, folder / file.name)
            for shape in (file.shape,) if file.shape else self._shapes:
                golden = [Batch(shape, case.inputs) for case in cases if case.name == shape.name]
                batches = self._batches(loaded.maker, texts, shape)
                figures += pair.measure((*golden, *batches), shape, self._request.parity)
        return figures

    @staticmethod
    def _batches(maker: InputMaker, texts: Sequence[str], shape: Shape) -> Iterator[Batch]:
        yield from maker.of_texts(texts, shape)
        yield maker.synthetic(shape, masked=True)
        yield maker.synthetic(shape, masked=False)

    def _pair(self, loaded: Loaded, file: Path) -> Pair:
        return Pair(loaded.reference, self._backend.load(file), loaded.maker.input_names, self._task.outputs)

    @staticmethod
    def _reference_at(loaded: Loaded, batch: Batch) -> Mapping[str, Any]:
        return run_at(batch.shape, "The eager model", lambda: loaded.reference(batch.inputs))
