"""MarianMT's tokenizer as one for the tokenizers library: Transformers has no fast form of it.

The source's SentencePiece model splits, and vocab.json numbers the pieces. Pieces that only the target's model has must
never be found in a text: they are there under names that no text holds, since the number of a piece is its place.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from torchscript_operator.artifact.failures import FailureReason, WorkerError

SPACE = "\u2581"
"""What SentencePiece writes for a space."""
HIDDEN = "\ue000"
"""Of a private use area: begins the names of pieces that are not to be found."""
UNIGRAM = 1
"""The kind of SentencePiece model that OPUS-MT's are."""
NORMAL, USER_DEFINED = 1, 4
"""Kinds of pieces that a text can be split into."""
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5
"""Wire types of protocol buffers."""


def convert(own: Any) -> Tokenizer:
    """A tokenizer with the ids of Transformers' MarianTokenizer.

    Characters that the source's model does not know become the unknown token, also where the vocabulary has them for
    the target. WorkerError SOURCE_INVALID for two vocabularies and for other kinds of SentencePiece models.
    """
    if getattr(own, "separate_vocabs", False):
        message = "The source's tokenizer has two vocabularies, which is not implemented."
        raise WorkerError(FailureReason.SOURCE_INVALID, message)
    model = _Model(own.spm_source.serialized_model_proto())
    if model.kind != UNIGRAM:
        message = "The source's SentencePiece model is no unigram model, and no other kind is implemented."
        raise WorkerError(FailureReason.SOURCE_INVALID, message)
    scores = model.scores
    worst = min(scores.values())
    special = set(own.all_special_tokens) | set(own.supported_language_codes)
    vocabulary = [
        (piece, scores.get(piece, worst)) if piece in scores or piece in special else (f"{HIDDEN}{place}", worst)
        for place, piece in enumerate(_by_id(own))
    ]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=own.encoder[own.unk_token]))
    steps: list[Any] = [normalizers.Precompiled(model.characters)] if model.characters else []
    if model.trims:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE, prepend_scheme="always" if model.prefixes else "never", split=False
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False) for token in own.all_special_tokens if token in own.encoder]
    )
    tokenizer.add_tokens([AddedToken(code, normalized=False) for code in own.supported_language_codes])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {own.eos_token}", special_tokens=[(own.eos_token, own.eos_token_id)]
    )
    return tokenizer


def target_facts(own: Any) -> dict[str, Any]:
    """What a server writes texts with: the piece of each id, and the ids that are no text."""
    return {"targetPieces": _by_id(own), "targetSpecialIds": sorted(own.all_special_ids)}


def checkable(own: Any, texts: Iterable[str]) -> list[str]:
    """The texts on which both tokenizers have to agree: those of characters that the source's model knows.

    One of them is there with the code of a target language before it as well, where the model has any.
    """
    model = own.spm_source
    known = [text for text in texts if model.unk_id() not in model.encode(text, out_type=int)]
    return known + [f"{code} {text}" for code in own.supported_language_codes[:1] for text in known[:1]]


def _by_id(own: Any) -> list[str]:
    return [own.decoder[place] for place in range(len(own.encoder))]


class _Model:
    """The parts of a serialised SentencePiece model that splitting depends on."""

    def __init__(self, data: bytes) -> None:
        self.scores: dict[str, float] = {}
        self.kind = UNIGRAM
        self.characters = b""
        """A map of characters to what they are normalised to, in SentencePiece's own form."""
        self.prefixes = self.trims = True
        for number, value in _fields(data):
            if number == 1:
                self._piece(dict(_fields(value)))
            elif number == 2:  # noqa: PLR2004 - the trainer's settings
                self.kind = dict(_fields(value)).get(3, UNIGRAM)
            elif number == 3:  # noqa: PLR2004 - the normaliser's
                settings = dict(_fields(value))
                self.characters = settings.get(2, b"")
                self.prefixes = bool(settings.get(3, True))
                self.trims = bool(settings.get(4, True))

    def _piece(self, fields: dict[int, Any]) -> None:
        if fields.get(3, NORMAL) in {NORMAL, USER_DEFINED}:
            (score,) = struct.unpack("<f", fields.get(2, bytes(4)))
            self.scores[fields[1].decode()] = score


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a protocol buffer's fields: integers, or bytes for all else."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == VARINT:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        size = {EIGHT_BYTES: 8, FOUR_BYTES: 4}.get(kind)
        if size is None:
            size, place = _varint(data, place)
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:  # noqa: PLR2004 - the last byte of a number has no high bit
            return value, place
