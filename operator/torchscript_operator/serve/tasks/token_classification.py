"""token-classification: classes of tokens, of words, or of groups of words that name one thing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tokenizers import Encoding, Tokenizer

from torchscript_operator.serve.tasks.base import Options, Prepared, TextTask, softmax, text


class TokenOptions(Options):
    """Parameters of token-classification."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "none"
    """none: each token. simple: neighbours of one class together. The others first give every word one class: that of
    its first token, that of the averaged scores, or that of the token with the highest score."""
    ignore_labels: list[str] = Field(default_factory=lambda: ["O"])
    """Classes left out of the answer."""


@dataclass(frozen=True)
class _Text:
    tokenizer: Tokenizer
    text: str
    encoding: Encoding


@dataclass(frozen=True)
class _Token:
    """A token, or several that became one word, with scores of classes."""

    word: str
    scores: NDArray[Any]
    start: int
    end: int
    index: int
    continues: bool
    """Whether the word before goes on."""


@dataclass(frozen=True)
class _Found:
    """What has a class."""

    label: str
    score: float
    word: str
    start: int
    end: int


class TokenClassification(TextTask):
    """Entities with their places in the text."""

    options = TokenOptions

    def encode(self, given: Any, options: Any, tokenizer: Tokenizer) -> Prepared:
        """A text."""
        encoding = self.tokens(tokenizer, options, text(given))
        return Prepared((self.row(encoding),), _Text(tokenizer, given, encoding))

    def decode(self, prepared: Prepared, results: Sequence[Mapping[str, NDArray[Any]]], options: Any) -> Any:
        """Entities in the order of the text."""
        context: _Text = prepared.context
        strategy, ignored = options.aggregation_strategy, frozenset(options.ignore_labels)
        tokens = self._tokens(context, softmax(results[0]["logits"]))
        if strategy in {"none", "simple"}:
            found = [self._classify(token) for token in tokens]
        else:
            found = [self._word(word, strategy, context.tokenizer) for word in _words(tokens)]
        if strategy == "none":
            return [
                {
                    "entity": one.label,
                    "score": one.score,
                    "index": token.index,
                    "word": one.word,
                    "start": one.start,
                    "end": one.end,
                }
                for one, token in zip(found, tokens, strict=True)
                if one.label not in ignored
            ]
        groups = [_join(group, context.tokenizer) for group in _groups(found)]
        return [group for group in groups if group["entity_group"] not in ignored]

    def _tokens(self, context: _Text, scores: NDArray[Any]) -> list[_Token]:
        encoding, unknown = context.encoding, self.facts.get("unkTokenId")
        marks_pieces = bool(getattr(context.tokenizer.model, "continuing_subword_prefix", None))
        tokens = []
        for index, special in enumerate(encoding.special_tokens_mask):
            if special:
                continue
            start, end = encoding.offsets[index]
            word, written = encoding.tokens[index], context.text[start:end]
            if marks_pieces:
                # The mark of a piece that goes on makes it longer than what it stands for.
                continues = len(word) != len(written)
            else:
                continues = start > 0 and " " not in context.text[start - 1 : start + 1]
            if encoding.ids[index] == unknown:
                word, continues = written, False
            tokens.append(_Token(word, scores[index], start, end, index, continues))
        return tokens

    def _classify(self, token: _Token) -> _Found:
        best = int(token.scores.argmax())
        return _Found(self.label(best), float(token.scores[best]), token.word, token.start, token.end)

    def _word(self, word: Sequence[_Token], strategy: str, tokenizer: Tokenizer) -> _Found:
        if strategy == "first":
            scores = word[0].scores
        elif strategy == "max":
            scores = max(word, key=lambda token: float(token.scores.max())).scores
        else:
            scores = np.stack([token.scores for token in word]).mean(axis=0)
        best = int(scores.argmax())
        spelled = spell(tokenizer, [token.word for token in word])
        return _Found(self.label(best), float(scores[best]), spelled, word[0].start, word[-1].end)


def spell(tokenizer: Tokenizer, tokens: Sequence[str]) -> str:
    """The text of tokens."""
    decoder = tokenizer.decoder
    return str(decoder.decode(list(tokens))) if decoder is not None else " ".join(tokens)


def _words(tokens: Iterable[_Token]) -> list[list[_Token]]:
    words: list[list[_Token]] = []
    for token in tokens:
        if words and token.continues:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _tag(label: str) -> tuple[bool, str]:
    """Whether a label begins a thing, and the thing's class: B-PER begins, I-PER and PER do not."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _groups(found: Iterable[_Found]) -> list[list[_Found]]:
    groups: list[list[_Found]] = []
    for one in found:
        begins, kind = _tag(one.label)
        if groups and not begins and _tag(groups[-1][-1].label)[1] == kind:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _join(group: Sequence[_Found], tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "entity_group": group[0].label.split("-", 1)[-1],
        "score": float(np.mean([one.score for one in group])),
        "word": spell(tokenizer, [one.word for one in group]),
        "start": group[0].start,
        "end": group[-1].end,
    }
