"""The artifact of a task that writes text: an encoder and a decoder, each compiled, and proven together."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.generation import Sizes, Tokens, strip, to_array
from torchscript_operator.artifact.golden import GoldenCase
from torchscript_operator.artifact.manifest import (
    Axis,
    CompilerReport,
    Generation,
    OutputParity,
    Parity,
    TensorSpec,
)
from torchscript_operator.artifact.manifest import (
    Part as ManifestPart,
)
from torchscript_operator.artifact.parity import Comparison, verdict
from torchscript_operator.artifact.request import Shape, Tolerances
from torchscript_operator.export import compare, fastest, package
from torchscript_operator.export.build import Builder
from torchscript_operator.export.compare import AxisKinds, Case
from torchscript_operator.export.evidence import Evidence
from torchscript_operator.export.fastest import Part
from torchscript_operator.export.generation_parts import DecoderMaker, Search
from torchscript_operator.export.inputs import SENTENCES, InputMaker
from torchscript_operator.export.loading import Loaded
from torchscript_operator.export.package import Compiled, ModelFile
from torchscript_operator.export.precision import Form, linear_layers, lower
from torchscript_operator.export.search import smallest_cosine
from torchscript_operator.export.tasks import Task
from torchscript_operator.export.tasks.generation import Text2TextGeneration, read_generation

ENCODER, DECODER = "encoder", "decoder"
DECODER_INPUTS = ("decoder_input_ids", "attention_mask", "encoder_hidden_states", "index")
PROVEN_LENGTH = 32
"""Tokens of the sequences that parity compares: without a cache, the cost of one grows with its square."""
PROVEN_TEXTS = 8
"""Texts of each bucket that sequences are written from, for the same reason."""
GOLDEN_TEXTS = 2
"""Texts of each bucket whose sequences every pod writes at its start."""
PROBED_TEXTS = 2
"""Texts that the sensitivity of layers to int8 is measured on: the decoder writes each with every beam."""


def builder_of(task: Task) -> type[Builder]:
    """What makes the artifact of a task."""
    return GenerationBuilder if task.encoder_decoder else Builder


class GenerationBuilder(Builder):
    """Compiles both parts, and compares their values and the sequences that they write with eager's."""

    _task: Text2TextGeneration

    def load(self, samples: Sequence[str]) -> Loaded:
        """The eager model. WorkerError TASK_MISMATCH for a generation config that is not understood."""
        loaded = super().load(samples)
        self._settings(loaded)
        return loaded

    def golden(self, loaded: Loaded) -> list[GoldenCase]:
        """Short sequences of each bucket, as Transformers' own search writes them."""
        settings = self._settings(loaded)
        cases = []
        for shape in self._shapes:
            batch = next(loaded.maker.of_texts(SENTENCES, shape))
            inputs = {name: array[:GOLDEN_TEXTS] for name, array in batch.inputs.items()}
            written = self._eager_sequences(loaded, inputs, settings.beams, settings.replay_length)
            array = to_array(written, settings.pad_token, settings.replay_length)
            cases.append(GoldenCase(shape.name, inputs, {self._task.sequences.name: array}))
        return cases

    def compile(self, loaded: Loaded, form: Form, folder: Path, provenance: Mapping[str, str]) -> Compiled:
        """A file for each part when all of their axes prove dynamic, else one for each part and bucket."""
        backend = self._backend_of(form)
        parts = {str(part.name): part for part in self._parts(loaded)}
        modules = {name: self._lowered(loaded, part, form) for name, part in parts.items()}
        reports: list[CompilerReport] = []
        kinds: list[AxisKinds] = [AxisKinds("fixed", "fixed")] if backend.fixed_shapes else []

        def trace(name: str, shape: Shape, file: Path) -> None:
            part = parts[name]
            example = part.maker.synthetic(shape, masked=True)
            found = backend.compile(modules[name], [example.inputs[one] for one in part.inputs], file, provenance)
            if found is not None:
                reports.append(found.model_copy(update={"part": name, "shape": shape.name}))

        if not backend.fixed_shapes:
            with self._progress.stage("trace", f"Compiling for {self._largest.name}"):
                for name in parts:
                    trace(name, self._largest, folder / package.model_name(None, name))
            with self._progress.stage("axes", "Finding out which axes are dynamic"):
                for name, part in parts.items():
                    file = folder / package.model_name(None, name)
                    kinds.append(self._detect_axes(part, modules[name], form, file))
        axes = AxisKinds(
            batch="dynamic" if all(kind.batch == "dynamic" for kind in kinds) else "fixed",
            sequence="dynamic" if all(kind.sequence == "dynamic" for kind in kinds) else "fixed",
        )
        self._progress.say(f"The batch axis is {axes.batch}, the sequence axis is {axes.sequence}")
        if axes.all_dynamic:
            models = [ModelFile(package.model_name(None, name), None, name) for name in parts]
            return Compiled(form, folder, tuple(models), axes, tuple(reports), self._quantized(parts.values(), form))
        with self._progress.stage("trace", f"Compiling for {len(self._shapes)} shapes"):
            models = []
            for name in parts:
                (folder / package.model_name(None, name)).unlink(missing_ok=True)
                for shape in self._shapes:
                    file = folder / package.model_name(shape, name)
                    trace(name, shape, file)
                    models.append(ModelFile(file.name, shape, name))
        return Compiled(form, folder, tuple(models), axes, tuple(reports), self._quantized(parts.values(), form))

    def _lowered(self, loaded: Loaded, part: Part, form: Form) -> Any:
        """A part in a form; layers that are kept are named with their part."""
        if not self._lowers:
            return part.module
        prefix = f"{part.name}."
        kept = tuple(name[len(prefix) :] for name in form.kept_layers if name.startswith(prefix))
        return lower(part.module, loaded.model.module, replace(form, kept_layers=kept))

    @staticmethod
    def _quantized(parts: Iterable[Part], form: Form) -> int:
        if form.precision != "int8":
            return 0
        return sum(len(linear_layers(part.module)) for part in parts) - len(form.kept_layers)

    def _sides(self, loaded: Loaded) -> fastest.Sides:
        """Both parts as one module, and a pass of both: every token written costs one of the decoder's."""
        from torch import nn  # noqa: PLC0415

        parts, bounds = self._parts(loaded), self._tolerances(Form("int8"))
        longest = max(shape.sequence for shape in self._shapes)
        shape = Shape(batch=PROBED_TEXTS, sequence=min(fastest.PROBE.sequence, longest))

        def similarity(module: Any) -> float:
            found = []
            for part in parts:
                probe = Case("texts", next(part.maker.of_texts(SENTENCES[:PROBED_TEXTS], shape)))
                found += part.pair(part.run_of(module[str(part.name)])).measure([probe], shape, bounds)
            return smallest_cosine(found)

        return fastest.Sides(
            nn.ModuleDict({str(part.name): part.module for part in parts}),
            similarity,
            lambda built: fastest.open_pass(parts, self._shapes, built),
            self._shapes,
            bounds,
        )

    def _prove(
        self,
        loaded: Loaded,
        compiled: Compiled,
        cases: Sequence[GoldenCase],
        samples: Sequence[str],
    ) -> tuple[Parity, Evidence]:
        """Compare each part's values, then whole sequences, greedy and by beams."""
        bounds = self._tolerances(compiled.form)
        texts = (*SENTENCES, *samples)
        with self._progress.stage("parity", "Comparing with eager"):
            evidence = Evidence(loaded.tokenizer.tokenizer.decode)
            outputs: list[OutputParity] = []
            backend = self._backend_of(compiled.form)
            runs = {(file.part, file.shape): backend.load(compiled.folder / file.name) for file in compiled.models}
            for shape in self._shapes:
                file = None if (ENCODER, None) in runs else shape
                for part in self._parts(loaded):
                    pair = part.pair(runs[part.name, file])
                    outputs += pair.measure(self._cases(part.maker, texts, shape), shape, bounds, evidence)
                sizes = self._sizes(loaded, compiled, shape, file)
                search = Search(self._settings(loaded), runs[ENCODER, file], runs[DECODER, file], sizes)
                outputs.append(self._sequences(loaded, search, texts, shape, bounds))
                golden = (case for case in cases if case.name == shape.name)
                outputs += [self._replay(search, case, loaded.maker, shape, bounds) for case in golden]
            expected = [(output.name, shape.name) for shape in self._shapes for output in self._task.outputs]
            parity = verdict(outputs, expected, bounds)
            self._progress.say(f"Parity: {parity.verdict} over {sum(output.rows for output in outputs)} rows")
        return parity, evidence

    def _sequences(
        self, loaded: Loaded, search: Search, texts: Sequence[str], shape: Shape, bounds: Tolerances
    ) -> OutputParity:
        settings = search.settings
        longest = min(settings.maximum_length, PROVEN_LENGTH)
        comparison = Comparison(self._task.sequences.name, shape.name, bounds, agreement="token")
        done = 0
        for batch in loaded.maker.of_texts(texts, shape):
            count = min(shape.batch, PROVEN_TEXTS - done)
            done += count
            kept = {name: array[:count] for name, array in batch.inputs.items()}
            for beams in sorted({1, settings.beams}):
                expected = self._eager_sequences(loaded, kept, beams, longest)
                actual = compare.run_at(
                    shape,
                    "The compiled model",
                    lambda: {"": to_array(search.run(batch.inputs, count, beams, longest), -1)},  # noqa: B023
                )[""]
                comparison.add(to_array(expected, -1), actual)
            if done == PROVEN_TEXTS:
                break
        return comparison.result()

    def _replay(
        self, search: Search, case: GoldenCase, maker: InputMaker, shape: Shape, bounds: Tolerances
    ) -> OutputParity:
        """A golden case by itself, as a pod compares it: what does not pass there must not be published."""
        settings, expected = search.settings, case.outputs[self._task.sequences.name]
        comparison = Comparison(self._task.sequences.name, f"golden:{case.name}", bounds, agreement="token")
        batch, longest = next(maker.of_texts(SENTENCES, shape)), settings.replay_length
        written = compare.run_at(
            shape,
            "The compiled model",
            lambda: {
                "": to_array(
                    search.run(batch.inputs, len(expected), settings.beams, longest), settings.pad_token, longest
                )
            },
        )[""]
        comparison.add(expected, written)
        return comparison.result()

    def _eager_sequences(
        self, loaded: Loaded, inputs: Mapping[str, NDArray[Any]], beams: int, longest: int
    ) -> list[Tokens]:
        """What Transformers' own `generate` writes."""
        import torch  # noqa: PLC0415

        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model: Any = loaded.model.module
            written = model.generate(**tensors, num_beams=beams, max_length=longest, do_sample=False)
        return strip(written.numpy(), self._settings(loaded))

    def _specs(self, loaded: Loaded, compiled: Compiled, example: Mapping[str, Any]) -> dict[str, Any]:
        """The whole's tensors, both parts' and the settings of generation."""
        task, axes, shapes = self._task, compiled.axes, self._shapes
        inputs = package.input_specs(loaded.maker.input_names, axes, shapes)
        encoded = package.output_specs(task.encoder_outputs, example, axes, shapes)
        scores = package.output_specs(task.decoder_outputs, example, axes, shapes)
        # Every bucket writes to the same length: a short text can have a long answer.
        free = axes.sequence == "dynamic"
        target = Axis(name="target", kind=axes.sequence, size=None if free else self._settings(loaded).maximum_length)
        ids = TensorSpec(name=DECODER_INPUTS[0], dtype="INT64", axes=(inputs[0].axes[0], target))
        mask = next(spec for spec in inputs if spec.name == DECODER_INPUTS[1])
        states = encoded[0].model_copy(update={"name": DECODER_INPUTS[2]})
        index = TensorSpec(name=DECODER_INPUTS[3], dtype="INT64", axes=(Axis(name="feature", kind="fixed", size=1),))
        sequences = ids.model_copy(update={"name": task.sequences.name, "agreement": task.sequences.agreement})
        return {
            "inputs": inputs,
            "outputs": (sequences,),
            "parts": (
                ManifestPart(name=ENCODER, inputs=inputs, outputs=encoded),
                ManifestPart(name=DECODER, inputs=(ids, mask, states, index), outputs=scores),
            ),
            "generation": self._settings(loaded),
        }

    def _settings(self, loaded: Loaded) -> Generation:
        return read_generation(loaded.model.module, max(shape.sequence for shape in self._shapes))

    def _sizes(self, loaded: Loaded, compiled: Compiled, shape: Shape, file: Shape | None) -> Sizes:
        """What a bucket's decoder runs at, as a server reads it off the manifest's axes."""
        if file is None:
            return Sizes(None, None)
        return Sizes(
            None if compiled.axes.batch == "dynamic" else shape.batch * self._settings(loaded).beams,
            None if compiled.axes.sequence == "dynamic" else self._settings(loaded).maximum_length,
        )

    def _parts(self, loaded: Loaded) -> tuple[Part, Part]:
        """The encoder and the decoder."""
        model, maker, task = loaded.model.module, loaded.maker, self._task
        decoder_maker = DecoderMaker(
            maker.loaded,
            maker.input_names,
            maker.vocabulary_size,
            maker.style,
            maker.segments,
            loaded.reference,
            self._settings(loaded),
            self._shapes,
        )
        encoder = task.wrap(model, maker.input_names)
        decoder = task.wrap_decoder(model)
        return (
            Part(encoder, loaded.reference, maker, maker.input_names, task.encoder_outputs, ENCODER),
            Part(decoder, loaded.reference, decoder_maker, DECODER_INPUTS, task.decoder_outputs, DECODER),
        )
