"""The artifact of a task that writes text: an encoder and a decoder, each compiled, and proven together."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact import digest
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.generation import Sizes, Tokens, strip, to_array, write
from torchscript_operator.artifact.golden import GoldenCase
from torchscript_operator.artifact.manifest import (
    Axis,
    CompilerReport,
    Generation,
    OutputParity,
    Parity,
    Part,
    TensorSpec,
)
from torchscript_operator.artifact.parity import Comparison, verdict
from torchscript_operator.artifact.request import Shape, Tolerances
from torchscript_operator.export import architectures, compare, package
from torchscript_operator.export.build import Builder, Loaded
from torchscript_operator.export.compare import AxisKinds, Pair
from torchscript_operator.export.evidence import Evidence
from torchscript_operator.export.inputs import SENTENCES, Batch, InputMaker
from torchscript_operator.export.package import Compiled, ModelFile
from torchscript_operator.export.precision import Form
from torchscript_operator.export.tasks import Output, Task
from torchscript_operator.export.tasks.generation import Text2TextGeneration, read_generation

if TYPE_CHECKING:
    from torchscript_operator.export.backends import Compiled as Run

ENCODER, DECODER = "encoder", "decoder"
DECODER_INPUTS = ("decoder_input_ids", "attention_mask", "encoder_hidden_states", "index")
PROVEN_LENGTH = 32
"""Tokens of the sequences that parity compares: without a cache, the cost of one grows with its square."""
PROVEN_TEXTS = 8
"""Texts of each bucket that sequences are written from, for the same reason."""
GOLDEN_TEXTS = 2
"""Texts of each bucket whose sequences every pod writes at its start."""
OTHER_LENGTH = 3
"""Tokens by which what is written is shorter where other sizes are tried out: not those by which what is read differs,
so that no file passes that takes both lengths for one."""


def builder_of(task: Task) -> type[Builder]:
    """What makes the artifact of a task."""
    return GenerationBuilder if task.encoder_decoder else Builder


@dataclass(frozen=True)
class DecoderMaker(InputMaker):
    """Makes batches for the decoder: what the encoder makes of a text, and tokens that were written so far."""

    encode: Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]] = dict
    """Eager's answer to a text."""
    settings: Generation | None = None
    shapes: tuple[Shape, ...] = ()
    """The declared buckets."""

    def of_texts(self, texts: Sequence[str], shape: Shape) -> Iterator[Batch]:
        """Batches that hold every text once; the last token written is the last, the first or the middle one."""
        for number, batch in enumerate(super().of_texts(texts, shape)):
            yield self._after(batch, number)

    def synthetic(self, shape: Shape, *, masked: bool) -> Batch:
        """A batch of random text and random written tokens, the same in every run."""
        return self._after(super().synthetic(shape, masked=masked), int(masked))

    def _after(self, batch: Batch, number: int) -> Batch:
        if self.settings is None:
            raise RuntimeError
        read = {name: np.repeat(array, self.settings.beams, axis=0) for name, array in batch.inputs.items()}
        rows, length = len(read["attention_mask"]), self.settings.maximum_length
        if batch.shape not in self.shapes:
            length = max(1, length - OTHER_LENGTH)
        generator = np.random.default_rng(int(digest.of_value([rows, length, number])[:8], 16))
        ids = generator.integers(0, self.vocabulary_size, size=(rows, length))
        index = (length - 1, 0, length // 2)[number % 3]
        ids[:, 0] = self.settings.start_token
        ids[:, index + 1 :] = self.settings.pad_token
        written = {
            "decoder_input_ids": ids,
            "encoder_hidden_states": self.encode(read)["encoder_hidden_states"],
            "index": np.array([index]),
        }
        return Batch(batch.shape, {**read, **written})


class GenerationBuilder(Builder):
    """Compiles both parts, and compares their values and the sequences that they write with eager's."""

    _task: Text2TextGeneration

    @property
    def _searches(self) -> bool:
        """No search: without a cache, what is fast for a pass says little about a sequence."""
        return False

    @property
    def _form(self) -> Form:
        """float32 on the CPU, also for auto. WorkerError INVALID_REQUEST for other precisions."""
        precision = self._request.compilation.precision
        if self._lowers and precision not in {"float32", "auto"}:
            message = f"Precision {precision!r} is not implemented for task {self._task.name!r}; use float32."
            raise WorkerError(FailureReason.INVALID_REQUEST, message)
        return Form("float32") if precision == "auto" else super()._form

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
        parts = self._parts(loaded)
        reports: list[CompilerReport] = []
        kinds: list[AxisKinds] = [AxisKinds("fixed", "fixed")] if backend.fixed_shapes else []

        def trace(name: str, shape: Shape, file: Path) -> None:
            part = parts[name]
            example = part.maker.synthetic(shape, masked=True)
            found = backend.compile(part.module, [example.inputs[one] for one in part.inputs], file, provenance)
            if found is not None:
                reports.append(found)

        if not backend.fixed_shapes:
            with self._progress.stage("trace", f"Compiling for {self._largest.name}"):
                for name in parts:
                    trace(name, self._largest, folder / package.model_name(None, name))
            with self._progress.stage("axes", "Finding out which axes are dynamic"):
                for name, part in parts.items():
                    pair = part.pair(loaded, backend.load(folder / package.model_name(None, name)))
                    limit = architectures.maximum_positions(self._config)
                    kinds.append(compare.detect_axes(pair, part.maker, self._largest, limit))
        axes = AxisKinds(
            batch="dynamic" if all(kind.batch == "dynamic" for kind in kinds) else "fixed",
            sequence="dynamic" if all(kind.sequence == "dynamic" for kind in kinds) else "fixed",
        )
        self._progress.say(f"The batch axis is {axes.batch}, the sequence axis is {axes.sequence}")
        if axes.all_dynamic:
            models = [ModelFile(package.model_name(None, name), None, name) for name in parts]
            return Compiled(form, folder, tuple(models), axes, tuple(reports))
        with self._progress.stage("trace", f"Compiling for {len(self._shapes)} shapes"):
            models = []
            for name in parts:
                (folder / package.model_name(None, name)).unlink(missing_ok=True)
                for shape in self._shapes:
                    file = folder / package.model_name(shape, name)
                    trace(name, shape, file)
                    models.append(ModelFile(file.name, shape, name))
        return Compiled(form, folder, tuple(models), axes, tuple(reports))

    def _prove(
        self,
        loaded: Loaded,
        compiled: Compiled,
        cases: Sequence[GoldenCase],  # noqa: ARG002 - written from texts that are compared anyway
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
                for name, part in self._parts(loaded).items():
                    pair = part.pair(loaded, runs[name, file])
                    outputs += pair.measure(self._cases(part.maker, (), texts, shape), shape, bounds, evidence)
                sizes = self._sizes(loaded, compiled, shape, file)
                search = _Search(self._settings(loaded), runs[ENCODER, file], runs[DECODER, file], sizes)
                outputs.append(self._sequences(loaded, search, texts, shape, bounds))
            expected = [(output.name, shape.name) for shape in self._shapes for output in self._task.outputs]
            parity = verdict(outputs, expected, bounds)
            self._progress.say(f"Parity: {parity.verdict} over {sum(output.rows for output in outputs)} rows")
        return parity, evidence

    def _sequences(
        self, loaded: Loaded, search: "_Search", texts: Sequence[str], shape: Shape, bounds: Tolerances
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
                Part(name=ENCODER, inputs=inputs, outputs=encoded),
                Part(name=DECODER, inputs=(ids, mask, states, index), outputs=scores),
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

    def _parts(self, loaded: Loaded) -> dict[str, "_Part"]:
        model, maker = loaded.model.module, loaded.maker
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
        task = self._task
        return {
            ENCODER: _Part(task.wrap(model, maker.input_names), maker, maker.input_names, task.encoder_outputs),
            DECODER: _Part(task.wrap_decoder(model), decoder_maker, DECODER_INPUTS, task.decoder_outputs),
        }


@dataclass(frozen=True)
class _Part:
    module: Any
    maker: InputMaker
    inputs: tuple[str, ...]
    outputs: tuple[Output, ...]

    def pair(self, loaded: Loaded, run: "Run") -> Pair:
        """Eager beside a compiled file of this part."""
        return Pair(loaded.reference, run, self.inputs, self.outputs)


@dataclass(frozen=True)
class _Search:
    """Writes with the compiled parts, by the code that a server writes with."""

    settings: Generation
    encoder: "Run"
    decoder: "Run"
    sizes: Sizes

    def run(self, inputs: Mapping[str, NDArray[Any]], count: int, beams: int, longest: int) -> list[Tokens]:
        """Sequences of the first `count` rows; the encoder reads the whole bucket."""
        hidden = self.encoder([inputs[name] for name in inputs])[0]
        return write(
            self.settings,
            count,
            inputs["attention_mask"],
            hidden,
            lambda *arrays: self.decoder(arrays)[0],
            self.sizes,
            beams=beams,
            maximum_length=longest,
        )
