"""The stages that need torch: load, trace, axes, parity, and the files of the artifact."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torchscript_operator.artifact import digest, tolerances
from torchscript_operator.artifact.golden import GoldenCase
from torchscript_operator.artifact.manifest import Candidate, CompilerReport, Manifest, OutputParity, Parity
from torchscript_operator.artifact.parity import Bounds, verdict
from torchscript_operator.artifact.pending import unproven
from torchscript_operator.artifact.request import ExportRequest, Shape, Tolerances
from torchscript_operator.artifact.threads import available_threads
from torchscript_operator.export import architectures, compare, fastest, package
from torchscript_operator.export.backends import Backend
from torchscript_operator.export.backends.torchscript import TorchScript
from torchscript_operator.export.compare import AxisKinds, Case, Pair, run_at
from torchscript_operator.export.evidence import Evidence
from torchscript_operator.export.fastest import Part
from torchscript_operator.export.inputs import SENTENCES, Batch, InputMaker
from torchscript_operator.export.loading import Loaded, load
from torchscript_operator.export.logs import Progress
from torchscript_operator.export.package import Built, Compiled, ModelFile
from torchscript_operator.export.precision import FIXED_FORMS, Form, fixed_form, linear_layers, lower
from torchscript_operator.export.source import ResolvedSource
from torchscript_operator.export.tasks import Task

PROVENANCE_NAME = "torchscript-operator.json"
"""Extra file inside each compiled model that says where it came from."""
REMEMBERED_BYTES = 32_000_000
"""Eager answers kept in memory: the golden ones are needed twice."""
REMEMBERED_SEARCH_BYTES = 512_000_000
"""The same for a search, where every form is compared with all of them."""


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
        self._lowers = request.compilation.compiler == "torchscript"
        self.evidence: Evidence | None = None
        """What the report shows beside the figures; there once parity was measured."""

    def build(self, folder: Path, key: str, samples: Sequence[str], versions: Mapping[str, str]) -> Manifest:
        """Fill the folder. WorkerError with the class of whatever fails; a failed verdict is in the manifest."""
        loaded = self.load(samples)
        cases = self.golden(loaded)
        provenance = {PROVENANCE_NAME: digest.canonical_json({"key": key, "versions": dict(versions)}).decode()}
        if self._searches:
            make = partial(self._make, loaded, cases, samples, provenance)
            sides = self._sides(loaded)
            found = fastest.find(sides, self._request.compilation, make, folder, self._progress)
            self.evidence = found.built.evidence
            return self._manifest(
                loaded, found.built, cases, key, versions, found.built.parity, found.threads, found.candidates
            )
        compiled = self.compile(loaded, self._form, folder, provenance)
        if self._request.proof == "Deferred":
            parity = unproven(self._tolerances(compiled.form))
        else:
            parity, self.evidence = self._prove(loaded, compiled, cases, samples)
        return self._manifest(loaded, compiled, cases, key, versions, parity)

    def _make(
        self,
        loaded: Loaded,
        cases: Sequence[GoldenCase],
        samples: Sequence[str],
        provenance: Mapping[str, str],
        form: Form,
        folder: Path,
    ) -> Built:
        """A form with its proof."""
        compiled = self.compile(loaded, form, folder, provenance)
        parity, evidence = self._prove(loaded, compiled, cases, samples)
        return Built(**vars(compiled), parity=parity, evidence=evidence)

    def prove(self, folder: Path, manifest: Manifest, samples: Sequence[str]) -> Parity:
        """Compare the files of an artifact that was compiled elsewhere with the eager model of the same source."""
        loaded = self.load(samples)
        models = tuple(
            ModelFile(entry.name, entry.shape, entry.part) for entry in manifest.files if entry.role == "model"
        )
        compiled = Compiled(self._form, folder, models, AxisKinds("fixed", "fixed"))
        parity, self.evidence = self._prove(loaded, compiled, self.golden(loaded), samples)
        return parity

    def load(self, samples: Sequence[str]) -> Loaded:
        """The eager model, untied, with its tokenizer, computing with as many threads as the container may use."""
        import torch  # noqa: PLC0415

        with self._progress.stage("load", "Loading the eager model"):
            torch.set_num_threads(available_threads())
            return load(
                self._resolved.folder,
                self._config,
                self._task,
                samples,
                self._request.trust or (),
                self._largest,
                REMEMBERED_SEARCH_BYTES if self._searches else REMEMBERED_BYTES,
                self._progress.say,
            )

    def golden(self, loaded: Loaded) -> list[GoldenCase]:
        """Eager's answers that every serving pod replays."""
        budget = package.MAXIMUM_GOLDEN_BYTES // len(self._shapes)
        with self._progress.stage("golden", "Recording eager's answers"):
            batches = [loaded.maker.mixed(SENTENCES, shape) for shape in self._shapes]
            return [package.golden_case(batch, loaded.reference, self._task.outputs, budget) for batch in batches]

    def compile(self, loaded: Loaded, form: Form, folder: Path, provenance: Mapping[str, str]) -> Compiled:
        """One file when its axes prove dynamic, else one for each bucket."""
        part = self._part(loaded)
        module = lower(part.module, loaded.model.module, form) if self._lowers else part.module
        quantized = len(linear_layers(part.module)) - len(form.kept_layers) if form.precision == "int8" else 0
        backend = self._backend_of(form)
        reports: list[CompilerReport] = []
        trace = partial(self._trace, loaded, module, backend, provenance, reports)
        first = folder / package.model_name(None)
        if backend.fixed_shapes:
            axes = AxisKinds("fixed", "fixed")
        else:
            with self._progress.stage("trace", f"Compiling for {self._largest.name}"):
                trace(self._largest, first)
            with self._progress.stage("axes", "Finding out which axes are dynamic"):
                axes = self._detect_axes(part, module, form, first)
                self._progress.say(f"The batch axis is {axes.batch}, the sequence axis is {axes.sequence}")
        models = [ModelFile(first.name, None)]
        if not axes.all_dynamic:
            with self._progress.stage("trace", f"Compiling for {len(self._shapes)} shapes"):
                models = self._compile_each(trace, folder)
        return Compiled(form, folder, tuple(models), axes, tuple(reports), quantized)

    def _manifest(
        self,
        loaded: Loaded,
        compiled: Compiled,
        cases: list[GoldenCase],
        key: str,
        versions: Mapping[str, str],
        parity: Parity,
        threads: int | None = None,
        candidates: tuple[Candidate, ...] = (),
    ) -> Manifest:
        with self._progress.stage("package", "Writing the files"):
            package.write_small_files(compiled.folder, self._resolved.folder, loaded.tokenizer, cases)
            least = loaded.maker.synthetic(Shape(batch=1, sequence=1), masked=False)
            example = run_at(least.shape, "The eager model", lambda: loaded.reference(least.inputs))
            return Manifest(
                key=key,
                source=self._resolved.identity,
                task=self._request.task,
                architecture=loaded.model.architecture,
                compilation=self._request.compilation,
                precision=compiled.form.precision,
                frozen=compiled.form.frozen,
                packed=compiled.form.packed,
                kept_layers=compiled.form.kept_layers,
                threads=threads,
                candidates=candidates,
                shapes=self._shapes,
                **self._specs(loaded, compiled, example),
                pooling=self._task.pooling,
                maximum_sequence=max(shape.sequence for shape in self._shapes),
                untied_weights=loaded.untied,
                compiler_reports=compiled.reports or None,
                files=package.entries(compiled.folder, compiled.models),
                versions=dict(versions),
                parity=parity,
            )

    def _specs(self, loaded: Loaded, compiled: Compiled, example: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest's fields on tensors."""
        return {
            "inputs": package.input_specs(loaded.maker.input_names, compiled.axes, self._shapes),
            "outputs": package.output_specs(self._task.outputs, example, compiled.axes, self._shapes),
        }

    @property
    def _searches(self) -> bool:
        """Whether the form is found by measuring."""
        return self._lowers and self._request.compilation.precision not in FIXED_FORMS

    @property
    def _form(self) -> Form:
        """The form of a fixed precision; other compilers than TorchScript lower by themselves."""
        precision = self._request.compilation.precision
        tolerances.default_of(self._request.compilation.compiler, precision)
        return fixed_form(precision) if self._lowers else Form(FIXED_FORMS[precision][-1].precision)

    @property
    def _largest(self) -> Shape:
        """The bucket with the most tokens: a trace is made at least as large as what will be fed."""
        return max(self._shapes, key=lambda shape: (shape.batch * shape.sequence, shape.sequence))

    def _tolerances(self, form: Form) -> Tolerances:
        return tolerances.resolve(self._request.parity, self._request.compilation.compiler, form.precision)

    def _backend_of(self, form: Form) -> Backend:
        return TorchScript(frozen=form.frozen) if self._lowers else self._backend

    @staticmethod
    def _trace(
        loaded: Loaded,
        module: Any,
        backend: Backend,
        provenance: Mapping[str, str],
        reports: list[CompilerReport],
        shape: Shape,
        file: Path,
    ) -> None:
        """Trace with masks that hold zeros, so that no branch for full masks is recorded."""
        example = loaded.maker.synthetic(shape, masked=True)
        report = backend.compile(module, [example.inputs[name] for name in loaded.maker.input_names], file, provenance)
        if report is not None:
            reports.append(report)

    def _compile_each(self, trace: Callable[[Shape, Path], None], folder: Path) -> list[ModelFile]:
        """One file for each bucket; the one traced already becomes that of its bucket."""
        for shape in self._shapes:
            file = folder / package.model_name(shape)
            traced = folder / package.model_name(None)
            if shape == self._largest and traced.exists():
                traced.replace(file)
            else:
                trace(shape, file)
        return [ModelFile(package.model_name(shape), shape) for shape in self._shapes]

    def _sides(self, loaded: Loaded) -> fastest.Sides:
        """What a search for the fastest form needs of the model."""
        part, bounds = self._part(loaded), self._tolerances(Form("int8"))
        return fastest.Sides(
            part.module,
            lambda module: fastest.similarity(part, module, self._shapes, bounds),
            lambda built: fastest.open_pass([part], self._shapes, built),
            self._shapes,
            bounds,
        )

    def _part(self, loaded: Loaded) -> Part:
        """The one module that is compiled."""
        names = loaded.maker.input_names
        module = self._task.wrap(loaded.model.module, names)
        return Part(module, loaded.reference, loaded.maker, names, self._task.outputs)

    def _detect_axes(self, part: Part, module: Any, form: Form, file: Path) -> AxisKinds:
        """Against eager, or against the lowered module before its trace where rounding would blur what a size does."""
        plain = form.precision == "float32"
        reference = part.reference if plain else fastest.forward_of(module, part.inputs, part.outputs)
        pair = Pair(reference, self._backend_of(form).load(file), part.inputs, part.outputs)
        bounds = compare.AXIS_TOLERANCES if plain else compare.LOWER_AXIS_TOLERANCES
        limit = architectures.maximum_positions(self._config)
        return compare.detect_axes(pair, part.maker, self._largest, limit, bounds)

    def _prove(
        self, loaded: Loaded, compiled: Compiled, cases: Sequence[GoldenCase], samples: Sequence[str]
    ) -> tuple[Parity, Evidence]:
        """Compare the files with eager at every bucket."""
        bounds = self._tolerances(compiled.form)
        with self._progress.stage("parity", "Comparing with eager"):
            evidence = Evidence(loaded.tokenizer.tokenizer.decode)
            outputs: list[OutputParity] = []
            for file in compiled.models:
                run = self._backend_of(compiled.form).load(compiled.folder / file.name)
                pair = Pair(loaded.reference, run, loaded.maker.input_names, self._task.outputs)
                for shape in (file.shape,) if file.shape else self._shapes:
                    mixed = loaded.maker.mixed(SENTENCES, shape)
                    batches = self._cases(loaded.maker, (*SENTENCES, *samples), shape, mixed)
                    outputs += pair.measure(batches, shape, bounds, evidence)
                    if Bounds.parse(bounds).agreement < 1:
                        # A share of all rows may be wrong: those that every pod replays must not be more of them.
                        for case in (case for case in cases if case.name == shape.name):
                            outputs += pair.replay(case, mixed, bounds)
            expected = [(output.name, shape.name) for shape in self._shapes for output in self._task.outputs]
            parity = verdict(outputs, expected, bounds)
            self._progress.say(f"Parity: {parity.verdict} over {sum(output.rows for output in outputs)} rows")
        return parity, evidence

    @staticmethod
    def _cases(maker: InputMaker, texts: Sequence[str], shape: Shape, mixed: Batch | None = None) -> Iterator[Case]:
        if mixed is not None:
            yield Case("texts and random tokens", mixed)
        yield from (Case("texts", batch) for batch in maker.of_texts(texts, shape))
        yield from (Case("random tokens", maker.synthetic(shape, masked=masked)) for masked in (True, False))
