"""What every task has.

A front end for texts runs a task in three steps: `encode` makes rows of a client's inputs, an engine computes the rows
among those of all other requests, and `decode` makes the answer that Transformers' pipeline of the task gives.
`predict` is the three in one.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from tokenizers import Encoding, Tokenizer

from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.serve.buckets import Buckets
from torchscript_operator.serve.rows import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS, Result, Row
from torchscript_operator.serve.tokenizing import INLINE_CHARACTERS, readable, unreadable

if TYPE_CHECKING:
    from torchscript_operator.serve.tokenizing import Tokenizing

Arrays = Mapping[str, NDArray[np.float32]]
"""Output name to array; its first axis is the batch."""
Run = Callable[[Sequence[Row]], Awaitable[Sequence[Result]]]
"""Computes rows among those of all other requests and gives their results in the same order; may be called again."""
INLINE_TOKENS = 2048
"""Answers to up to this many tokens are made on the event loop: a thread's hand-over would cost more."""
PUNCTUATION = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""Where decoded word pieces have a space too many, in the order in which Transformers looks for them."""


class InputError(ValueError):
    """What a client's `inputs` or `parameters` have wrong, in one sentence that the client reads: answered with 400."""


class Options(BaseModel):
    """A task's `parameters`. One that nothing acts on is refused, so that none is ignored silently."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)

    truncation: bool = False
    """Cut texts that are longer than the model takes at their end, which are errors otherwise."""


@dataclass(frozen=True)
class Prepared:
    """One of a client's inputs, ready to be computed."""

    rows: tuple[Row, ...]
    """One or, for tasks that read an input in pieces, several."""
    context: Any = None
    """What `decode` needs to know of the input."""
    spelled: int = 0
    """Tokens that the answer spells, where these may be many more than were read."""

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return sum(row.length for row in self.rows)


@dataclass(frozen=True)
class Bounds:
    """What one request may take. It is made sure of while rows are made: a small body can ask for gigabytes of them."""

    rows: int = 2048
    tokens: int = 524288
    """Read, and as many written."""

    def check(self, rows: int, tokens: int, spelled: int = 0) -> None:
        """Raise InputError for more."""
        if rows > self.rows:
            raise InputError(f"the inputs are more than {self.rows} rows: one request may hold no more")
        if tokens > self.tokens:
            raise InputError(f"the inputs are more than {self.tokens} tokens: one request may hold no more")
        if spelled > self.tokens:
            raise InputError(
                f"the answers would spell more than {self.tokens} tokens: ask for fewer, by parameters.top_k"
            )


class Task(ABC):
    """Turns inputs into rows and a batch's outputs into answers."""

    bounds = Bounds()

    def __init__(
        self, manifest: Manifest, config: Mapping[str, Any] | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Take the artifact's manifest, the model's config.json and the artifact's tokenizer_config.json.

        Raises WorkerError (InvalidRequest) when the artifact has no output that the task needs.
        """
        self.manifest = manifest
        self.config = dict(config or {})
        self.facts = dict(facts or {})

    @property
    def width(self) -> int | None:
        """Length of the vector that an answer is, or None when answers are no embeddings."""
        return None

    def finish(self, outputs: Arrays, mask: NDArray[np.int64]) -> Sequence[Result]:
        """Answers of a batch, in the compute thread: each row's outputs where a task works on rows only.

        outputs: as computed, (batch, sequence, …) or (batch, …). mask: (batch, sequence), 1 where a token counts.
        """
        return [{name: array[index] for name, array in outputs.items()} for index in range(len(mask))]

    @abstractmethod
    async def predict(self, inputs: Any, parameters: Mapping[str, Any], tokenizing: "Tokenizing", run: Run) -> Any:
        """What `POST /predict` answers: the JSON value that Transformers' pipeline of this task returns.

        inputs, parameters: JSON as the client sent it, unchecked. Arrays in the answer may stay NumPy's.
        Raises InputError.
        """

    def describe(self) -> dict[str, Any]:
        """What a client may want to know about the answers; part of the model's metadata."""
        return {"task": self.manifest.task}


class TextTask(Task):
    """A task whose inputs are texts and whose answers are made from each row's outputs."""

    options: ClassVar[type[Options]] = Options

    @abstractmethod
    def encode(self, given: Any, options: Any, tokenizer: Tokenizer) -> Prepared:
        """Rows of one input. Raises InputError.

        tokenizer: neither cuts nor pads; it may be shared with other threads, so nothing in it is to be changed.
        """

    @abstractmethod
    def decode(self, prepared: Prepared, results: Sequence[Mapping[str, NDArray[Any]]], options: Any) -> Any:
        """The answer to one input, from the outputs of its rows: output name to array without the batch axis."""

    def shape_answers(self, inputs: Any, answers: list[Any], options: Any) -> Any:  # noqa: ARG002
        """Answers as the pipeline returns them: a list for a list, and one for one."""
        return answers if isinstance(inputs, list) else answers[0]

    def parse_options(self, parameters: Mapping[str, Any]) -> Any:
        """Checked parameters. Raises InputError."""
        try:
            return self.options.model_validate(parameters)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            names = ", ".join(self.options.model_fields) or "none"
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"parameters.{where}: {first['msg']}; this task takes: {names}") from None

    async def predict(self, inputs: Any, parameters: Mapping[str, Any], tokenizing: "Tokenizing", run: Run) -> Any:
        """Encode, compute, decode."""
        options = self.parse_options(parameters)
        if not tokenizing.available:
            raise InputError("this artifact has no tokenizer; use the Open Inference Protocol with tensors")
        if inputs == []:
            raise InputError("inputs is empty")
        items = inputs if isinstance(inputs, list) else [inputs]

        def prepare() -> list[Prepared]:
            found: list[Prepared] = []
            rows = tokens = spelled = 0
            for item in items:
                one = self.encode(item, options, tokenizing.tokenizer)
                rows, tokens, spelled = rows + len(one.rows), tokens + one.tokens, spelled + one.spelled
                self.bounds.check(rows, tokens, spelled)
                found.append(one)
            return found

        # Long texts would hold up the requests of all others.
        size = sum(map(len, texts_in([items, parameters])))
        prepared = prepare() if size <= INLINE_CHARACTERS else await asyncio.to_thread(prepare)
        results = iter(await run([row for one in prepared for row in one.rows]))

        def write() -> list[Any]:
            return [self.decode(one, [next(results) for _ in one.rows], options) for one in prepared]

        effort = sum(one.tokens + one.spelled for one in prepared)
        answers = write() if effort <= INLINE_TOKENS else await asyncio.to_thread(write)
        return self.shape_answers(inputs, answers, options)

    @cached_property
    def buckets(self) -> Buckets:
        """The artifact's sizes."""
        return Buckets.of(self.manifest)

    @property
    def longest(self) -> int:
        """Most tokens of a row."""
        return self.buckets.longest

    def tokens(self, tokenizer: Tokenizer, options: Any, first: str, second: str | None = None) -> Encoding:
        """A text or a pair with the model's special tokens; with `truncation` cut to what the model takes.

        Of a pair the longer text is cut, token by token, as Transformers cuts it.
        Raises TooLongError.
        """
        given = [part for part in (first, second) if part is not None]
        read = [readable(part, self.longest, cut=options.truncation) for part in given]
        encoding = tokenizer.encode(read[0], read[1] if second is not None else None)
        if not options.truncation:
            self.buckets.check(len(encoding.ids))
        if len(encoding.ids) <= self.longest:
            if read != given:
                raise unreadable(max(given, key=len), self.longest)
            return encoding
        parts = [tokenizer.encode(part, add_special_tokens=False) for part in read]
        for part, text, whole in zip(parts, read, given, strict=True):
            if len(text) < len(whole) and len(part.ids) <= self.longest:
                raise unreadable(whole, self.longest)
        room = max(0, self.longest - tokenizer.num_special_tokens_to_add(is_pair=second is not None))
        lengths = [len(part.ids) for part in parts]
        while sum(lengths) > room:
            lengths[-1 if lengths[-1] >= lengths[0] else 0] -= 1
        for part, length in zip(parts, lengths, strict=True):
            part.truncate(length)
        return tokenizer.post_process(parts[0], parts[1] if len(parts) > 1 else None)

    def row(self, encoding: Encoding) -> Row:
        """A row of a text or pair of texts as the tokenizer gave it, whose result is the model's outputs."""
        made = {
            INPUT_IDS: encoding.ids,
            ATTENTION_MASK: encoding.attention_mask,
            TOKEN_TYPE_IDS: encoding.type_ids,
        }
        names = [spec.name for spec in self.manifest.inputs]
        return Row({name: np.array(made[name], dtype=np.int64) for name in names}, len(encoding.ids), "outputs")

    def label(self, index: int) -> str:
        """The name of a class by the model's config, or Transformers' default one."""
        labels = self.config.get("id2label") or {}
        return str(labels.get(str(index), f"LABEL_{index}"))

    def text_of(self, tokenizer: Tokenizer, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Decode ids as the model's own tokenizer does."""
        text = str(tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))
        if self.facts.get("cleanUpSpaces"):
            for found in PUNCTUATION:
                text = text.replace(found, found.strip())
        return text


def texts_in(value: Any) -> Iterator[str]:
    """All texts anywhere in a JSON value, however deep: a client may nest deeper than Python recurses."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)


def text(given: Any, name: str = "inputs") -> str:
    """A text that a client has given. Raises InputError for anything else."""
    if not isinstance(given, str):
        raise InputError(f"{name} must be a text")
    if not given:
        raise InputError(f"{name} is an empty text")
    return given


def fields(given: Any, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """An object with these fields that a client has given. Raises InputError for other fields and for none."""
    wanted = ", ".join(names)
    if not isinstance(given, dict):
        raise InputError(f"each input must be an object with {wanted}")
    odd = [name for name in given if name not in {*names, *optional}] or [name for name in names if name not in given]
    if odd:
        raise InputError(
            f"each input must be an object with {wanted}; {odd[0]!r} is {'unknown' if odd[0] in given else 'missing'}"
        )
    return given


def softmax(scores: NDArray[Any]) -> NDArray[np.float32]:
    """Probabilities along the last axis."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float32] = raised / raised.sum(axis=-1, keepdims=True)
    return probabilities


def best_first(scores: NDArray[Any], count: int) -> list[int]:
    """Places of the highest scores of a vector, the highest first."""
    count = min(count, len(scores))
    found = np.argpartition(-scores, count - 1)[:count] if count < len(scores) else np.arange(len(scores))
    return [int(place) for place in found[np.argsort(-scores[found], kind="stable")]]
