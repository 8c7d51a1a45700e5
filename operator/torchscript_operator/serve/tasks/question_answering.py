"""question-answering: the span of a context that answers a question.

Transformers 5 has no pipeline for it any more; answers are those of version 4's. A context that is longer than the
model takes is read in overlapping windows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tokenizers import Encoding, Tokenizer

from torchscript_operator.serve.tasks.base import InputError, Options, Prepared, TextTask, fields, text
from torchscript_operator.serve.tokenizing import CHARACTERS_PER_TOKEN, readable

MAXIMUM_WINDOW = 384
"""Tokens of a window where a model takes more: what such models are trained with."""
MOST_CHARACTERS = 262144
"""Of a context: its tokens keep a processor busy for as long as a request may take."""
MAXIMUM_OVERLAP = 128
"""Tokens that a window shares with the one before."""
EXCLUDED = -10000.0
"""Score of positions that are no part of the context."""


class AnswerOptions(Options):
    """Parameters of question-answering."""

    top_k: int = Field(default=1, ge=1)
    """Answers; with one the answer stands alone, with more they are a list."""
    max_answer_len: int = Field(default=15, ge=1, le=512)
    """Tokens of an answer."""
    max_seq_len: int | None = Field(default=None, ge=1)
    """Tokens of a window, the question's included; 384 or what the model takes."""
    doc_stride: int | None = Field(default=None, ge=0)
    """Tokens of the context that two windows share; 128 or half a window."""
    handle_impossible_answer: bool = False
    """Whether "no answer" is one."""
    align_to_words: bool = True
    """Widen answers to whole words."""


@dataclass(frozen=True)
class _Windows:
    context: str
    encodings: tuple[Encoding, ...]


@dataclass(frozen=True)
class _Span:
    first: int
    last: int
    score: float


class QuestionAnswering(TextTask):
    """Answers with their places in the context."""

    options = AnswerOptions

    def encode(self, given: Any, options: Any, tokenizer: Tokenizer) -> Prepared:
        """An object with `question` and `context`."""
        asked = fields(given, ("question", "context"))
        question, context = text(asked["question"], "question"), text(asked["context"], "context")
        window = options.max_seq_len or min(
            self.facts.get("modelMaxLength", MAXIMUM_WINDOW), MAXIMUM_WINDOW, self.longest
        )
        overlap = min(window // 2, MAXIMUM_OVERLAP) if options.doc_stride is None else options.doc_stride
        most = max(MOST_CHARACTERS, CHARACTERS_PER_TOKEN * self.longest)
        if len(context) > most:
            raise InputError(f"a context may have {most} characters: ask of its parts")
        asking = tokenizer.encode(readable(question, self.longest, cut=False), add_special_tokens=False)
        reading = tokenizer.encode(context, add_special_tokens=False)
        room = window - len(asking.ids) - tokenizer.num_special_tokens_to_add(is_pair=True)
        if room <= overlap and len(reading.ids) > room:
            raise InputError(
                f"the question's {len(asking.ids)} tokens leave no room to read the context in windows of {window} "
                f"tokens that share {overlap}: shorten the question, or lower parameters.doc_stride"
            )
        if len(reading.ids) > room:
            # Before they are made: windows that share all but one token are as many as there are tokens.
            count = 1 - (len(reading.ids) - room) // (overlap - room)
            if count > self.bounds.rows or count * window > self.bounds.tokens:
                raise InputError(
                    f"the context takes {count} windows of {window} tokens, which is too much for one request: "
                    "ask of its parts, or lower parameters.doc_stride"
                )
            reading.truncate(room, stride=overlap)
        windows = tuple(tokenizer.post_process(asking, piece) for piece in (reading, *reading.overflowing))
        rows = tuple(self.row(encoding) for encoding in windows)
        return Prepared(rows, _Windows(context, windows), len(windows) * _candidates(options, window))

    def decode(self, prepared: Prepared, results: Sequence[Mapping[str, NDArray[Any]]], options: Any) -> Any:
        """The best answers of all windows."""
        windows: _Windows = prepared.context
        merged: dict[str, dict[str, Any]] = {}
        nothing = 1e6
        for encoding, result in zip(windows.encodings, results, strict=True):
            allowed = self._allowed(encoding)
            starts, ends = (_probabilities(result[name], allowed) for name in ("start_logits", "end_logits"))
            if options.handle_impossible_answer:
                nothing = min(nothing, float(starts[0] * ends[0]))
            starts[0] = ends[0] = 0.0
            count = _candidates(options, len(encoding.ids))
            for span in _spans(starts, ends, allowed, count, options.max_answer_len):
                begin, end = _characters(encoding, span, words=options.align_to_words)
                _merge(merged, windows.context, begin, end, span.score)
        answers = list(merged.values())
        if not answers:
            # The scores of all tokens are next to none beside that of the class token.
            answers.append({"score": 0.0, "start": 0, "end": 0, "answer": ""})
        if options.handle_impossible_answer:
            answers.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
        answers = sorted(answers, key=lambda answer: -float(answer["score"]))[: options.top_k]
        return answers[0] if len(answers) == 1 else answers

    def _allowed(self, encoding: Encoding) -> NDArray[np.bool_]:
        """Positions that take part in the probabilities: the context's and, for "no answer", the class token's."""
        inside = np.array([part == 1 for part in encoding.sequence_ids])
        first = np.array(encoding.ids) == self.facts.get("clsTokenId", -1)
        allowed: NDArray[np.bool_] = inside | first
        return allowed


def _candidates(options: Any, window: int) -> int:
    """Spans of a window of so many tokens that are looked at: they may fall together once they are widened to words."""
    wanted = options.top_k * 2 + 10 if options.align_to_words else options.top_k
    return int(min(wanted, window * min(window, options.max_answer_len)))


def _probabilities(scores: NDArray[Any], allowed: NDArray[np.bool_]) -> NDArray[Any]:
    kept = np.where(allowed, scores, EXCLUDED)
    raised = np.exp(kept - kept.max())
    probabilities: NDArray[Any] = raised / raised.sum()
    return probabilities


def _spans(
    starts: NDArray[Any], ends: NDArray[Any], allowed: NDArray[np.bool_], count: int, longest: int
) -> list[_Span]:
    """The likeliest spans of at most `longest` tokens that are possible at all, of equals the first first."""
    widest = min(longest, len(ends))
    # One row for each first token, one column for each length; behind the end nothing is possible.
    beyond = np.concatenate([ends, np.zeros(widest - 1, dtype=ends.dtype)])
    products = (starts[:, None] * np.lib.stride_tricks.sliding_window_view(beyond, widest)).reshape(-1)
    found: list[_Span] = []
    for place in np.argsort(-products, kind="stable")[:count].tolist():
        first, length = divmod(place, widest)
        if products[place] > 0 and allowed[first] and allowed[first + length]:
            found.append(_Span(first, first + length, float(products[place])))
    return found


def _characters(encoding: Encoding, span: _Span, *, words: bool) -> tuple[int, int]:
    begin, end = encoding.offsets[span.first][0], encoding.offsets[span.last][1]
    if words:
        first, last = encoding.token_to_word(span.first), encoding.token_to_word(span.last)
        bounds = [
            encoding.word_to_chars(word, sequence_index=1) if word is not None else None for word in (first, last)
        ]
        if bounds[0] is not None and bounds[1] is not None:
            begin, end = bounds[0][0], bounds[1][1]
    return begin, end


def _merge(answers: dict[str, dict[str, Any]], context: str, begin: int, end: int, score: float) -> None:
    """Add a span; one that reads the same as an answer before adds to that one's score."""
    written = context[begin:end]
    known = answers.setdefault(written.lower(), {"score": 0.0, "start": begin, "end": end, "answer": written})
    known["score"] += score
