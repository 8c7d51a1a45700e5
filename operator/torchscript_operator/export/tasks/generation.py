"""text2text-generation: an encoder and a decoder, compiled apart and run in turns."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Generation
from torchscript_operator.export.tasks.base import Arrays, Output, Task

if TYPE_CHECKING:
    from torch import nn

DEFAULT_MAXIMUM = 20
"""Transformers' maximum length where a generation config names none; short, since nobody chose it."""
REPLAY_LENGTH = 16
"""Tokens of a golden sequence: enough to leave the start behind, few enough for every pod to write at its start."""
IGNORED = frozenset(
    {
        "bos_token_id",
        "transformers_version",
        "use_cache",
        "return_dict_in_generate",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "max_new_tokens",
        "num_return_sequences",
        # Of sampling, which is off.
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "top_h",
    }
)
"""Settings that change nothing in how a sequence is searched for."""
UNDERSTOOD = frozenset(
    {
        "max_length",
        "num_beams",
        "length_penalty",
        "early_stopping",
        "decoder_start_token_id",
        "eos_token_id",
        "pad_token_id",
        "bad_words_ids",
        "suppress_tokens",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "renormalize_logits",
    }
)
EARLY_STOPPING: dict[Any, Literal["never", "always"]] = {"never": "never", True: "always"}
"""Transformers' values that are not its default."""


class Text2TextGeneration(Task):
    """Sequences written from a text, such as translations.

    There are two compiled modules. `encoder` takes input_ids and attention_mask. `decoder` takes the tokens written so
    far, padded, with the encoder's mask and states and the index of the last token, and gives the scores of the next
    one; it has no cache, so that all of its sizes are fixed (AWS's form, the only one that Inferentia runs).
    """

    name = "text2text-generation"
    auto_class = "AutoModelForSeq2SeqLM"
    heads = ("MTModel", "ForConditionalGeneration")
    encoder_decoder = True
    encoder_outputs = (Output("encoder_hidden_states", ("batch", "sequence", "feature")),)
    decoder_outputs = (Output("next_token_logits", ("batch", "feature"), "class"),)
    sequences = Output("sequences", ("batch", "target"), "token")

    @classmethod
    def of_folder(cls, folder: Path) -> "Text2TextGeneration":  # noqa: ARG003
        """All is in the model itself."""
        return cls()

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What parity compares: both modules' values and the sequences that they write together."""
        return (*self.encoder_outputs, *self.decoder_outputs, self.sequences)

    def wrap(self, model: "nn.Module", input_names: tuple[str, ...]) -> "nn.Module":
        """The encoder."""
        from torchscript_operator.export.wrapper import Encoder  # noqa: PLC0415

        return Encoder(model, input_names)

    def wrap_decoder(self, model: "nn.Module") -> "nn.Module":
        """The decoder with the model's head."""
        from torchscript_operator.export.wrapper import Decoder  # noqa: PLC0415

        return Decoder(model)

    def arrange(self, inputs: Arrays) -> Arrays:
        """What the whole model takes: the tokens up to the index and no padding, or where nothing is written the text.

        It encodes the text anew, so that neither the states that the compiled decoder is given nor its padding play a
        part in what is compared with.
        """
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        if "decoder_input_ids" not in inputs:
            return {**given, "decoder_input_ids": inputs["input_ids"]}
        return {**given, "decoder_input_ids": inputs["decoder_input_ids"][:, : int(inputs["index"][0]) + 1]}

    def reference(self, answer: Any, inputs: Arrays) -> dict[str, NDArray[Any]]:  # noqa: ARG002
        """Both parts of the whole model's answer."""
        return {
            "encoder_hidden_states": answer["encoder_last_hidden_state"].numpy(),
            "next_token_logits": answer["logits"][:, -1].numpy(),
        }


def read_generation(model: Any, longest: int) -> Generation:
    """The settings of a loaded model's generation config, its length cut to `longest` tokens.

    WorkerError TASK_MISMATCH for a setting that the search here does not know and that is not at its default.
    """
    config = model.generation_config
    given = config.to_diff_dict()
    unknown = sorted(
        name
        for name, value in given.items()
        if name not in UNDERSTOOD | IGNORED and not name.startswith("_") and value not in (None, False, 0, 1, 1.0)
    )
    if unknown:
        message = f"The model's generation config sets {unknown[0]}, which is not implemented."
        raise WorkerError(FailureReason.TASK_MISMATCH, message)
    if config.do_sample:
        message = "The model's generation config asks for sampling; only greedy and beam search are implemented."
        raise WorkerError(FailureReason.TASK_MISMATCH, message)
    start = config.decoder_start_token_id
    if start is None:
        start = getattr(model.config, "decoder_start_token_id", None)
    ends = _many(config.eos_token_id)
    if start is None or not ends:
        message = "The model's generation config names no decoder_start_token_id or no eos_token_id."
        raise WorkerError(FailureReason.SOURCE_INVALID, message)
    words = [list(word) for word in config.bad_words_ids or ()]
    if any(len(word) != 1 for word in words):
        message = "The model's generation config forbids words of several tokens, which is not implemented."
        raise WorkerError(FailureReason.TASK_MISMATCH, message)
    # Transformers never forbids the end itself.
    suppressed = {word[0] for word in words} - set(ends) | set(config.suppress_tokens or ())
    maximum = config.max_length if config.max_length is not None else DEFAULT_MAXIMUM
    pad = config.pad_token_id
    return Generation(
        start_token=int(start),
        end_tokens=ends,
        pad_token=ends[0] if pad is None else int(pad),
        beams=int(config.num_beams or 1),
        maximum_length=min(int(maximum), longest),
        length_penalty=str(float(1.0 if config.length_penalty is None else config.length_penalty)),
        early_stopping=EARLY_STOPPING.get(config.early_stopping, "heuristic"),
        suppressed_tokens=tuple(sorted(suppressed)),
        forced_first_token=config.forced_bos_token_id,
        forced_last_tokens=_many(config.forced_eos_token_id),
        renormalize=bool(config.renormalize_logits),
        replay_length=min(REPLAY_LENGTH, int(maximum), longest),
    )


def _many(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(one) for one in value) if isinstance(value, (list, tuple)) else (int(value),)
