"""The search for the fastest form of a model that passes parity, on this node and within a time budget."""

import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Candidate, OutputParity
from torchscript_operator.artifact.parity import describe, worst_first
from torchscript_operator.export.logs import Progress
from torchscript_operator.export.package import Built
from torchscript_operator.export.precision import Form

Pass = Callable[[], None]
"""One forward pass at every declared shape."""
WARM_UPS = 3
"""TorchScript's profiling executor compiles on the second pass, the third runs that."""
ROUNDS = 7
"""Passes that a speed is the median of."""
LEAST_ROUNDS = 3
"""The same once the budget is spent."""
FINALISTS = 2
"""Forms that are measured again in turns, so that what else the node does slows all of them alike."""
REFUSALS = frozenset(
    {
        FailureReason.COMPILATION_FAILED,
        FailureReason.UNSUPPORTED_OPERATOR,
        FailureReason.SHAPE_ERROR,
    }
)
"""What only says that this form is not to be had; other failures end the export."""


@dataclass(frozen=True)
class Unavailable:
    """A form that is not made, and why."""

    form: Form
    verdict: str
    """Failed or NotAvailable, as in Candidate."""
    reason: str
    similarity: float | None = None
    """Smallest cosine found on a probe, where there was one."""


@dataclass(frozen=True)
class Found:
    """How a search ended."""

    built: Built
    threads: int
    candidates: tuple[Candidate, ...]
    """The chosen one first, then by speed, then what was refused or not measured."""

    def moved_to(self, folder: Path) -> "Found":
        """The same after the files were moved."""
        return replace(self, built=replace(self.built, folder=folder))


@dataclass
class _Entry:
    form: Form
    built: Built
    speed: float
    threads: int
    reason: str | None = None


class Clock:
    """The budget."""

    def __init__(self, seconds: float) -> None:
        """Start now."""
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left; negative when it is overspent."""
        return self._end - time.monotonic()


class Search:
    """Makes forms one after another, measures those that pass, and keeps the fastest."""

    def __init__(
        self,
        make: Callable[[Form, Path], Built],
        open_pass: Callable[[Built], Pass],
        texts: int,
        threads: int,
        set_threads: Callable[[int], None],
        clock: Clock,
        progress: Progress,
    ) -> None:
        """Take what makes a form's files in a folder and proves them, and what loads them into a pass of `texts` texts.

        threads: what this process may use. Parity of all forms is measured with as many.
        """
        self._make = make
        self._open = open_pass
        self._texts = texts
        self._threads = threads
        self._set_threads = set_threads
        self._clock = clock
        self._progress = progress
        self._passed: list[_Entry] = []
        self._failed: list[_Entry] = []
        self._rows: list[Candidate] = []
        self._slowest = 0.0

    def run(self, forms: Iterable[Form | Unavailable], folder: Path) -> Found:
        """Look at forms in order; each is asked for when its turn comes, so that it can depend on what came before.

        The first form is always made, all others while the budget lasts. Where none passes, what is found is the one
        with the highest cosine similarity, with its failed parity. WorkerError of the first form, if it cannot be made.
        """
        for index, form in enumerate(forms):
            if isinstance(form, Unavailable):
                self._refuse(form)
            elif (self._passed or self._failed) and self._clock.left() < self._slowest:
                self._rows.append(_row(form, "NotMeasured", reason="the time budget was spent"))
            else:
                self._try(form, folder / str(index))
        if not self._passed:
            return self._least_wrong()
        winner = self._final()
        rows = [
            _row_of(entry, chosen=entry is winner) for entry in sorted(self._passed, key=lambda entry: -entry.speed)
        ]
        rows.sort(key=lambda row: not row.chosen)
        refused = [_row_of(entry, chosen=False) for entry in self._failed]
        return Found(winner.built, winner.threads, (*rows, *refused, *self._rows))

    def similarity_of(self, form: Form) -> float | None:
        """Smallest cosine similarity of a form that was refused by the gate; None for one that was not."""
        return next((smallest_cosine(entry.built.parity.outputs) for entry in self._failed if entry.form == form), None)

    def _try(self, form: Form, folder: Path) -> None:
        started = time.monotonic()
        folder.mkdir(parents=True)
        self._progress.say(f"Trying {form.label}")
        try:
            built = self._make(form, folder)
        except WorkerError as error:
            shutil.rmtree(folder)
            if error.reason not in REFUSALS or not (self._passed or self._failed or self._rows):
                raise
            self._refuse(Unavailable(form, "Failed", error.message))
            return
        with self._progress.stage("precision", f"Measuring {form.label}"):
            speed = self._speed(built)
        entry = _Entry(form, built, speed, self._threads)
        self._slowest = max(self._slowest, time.monotonic() - started)
        if built.parity.verdict == "Passed":
            self._passed.append(entry)
            self._forget(self._passed, lambda found: -found.speed)
        else:
            entry.reason = describe(worst_first(built.parity.outputs)[0])
            self._failed.append(entry)
            self._forget(self._failed, lambda found: -smallest_cosine(found.built.parity.outputs))
        self._progress.say(f"{form.label}: {speed:.1f} texts/s, parity {built.parity.verdict.lower()}")

    def _speed(self, built: Built) -> float:
        """Texts a second, on the scale of the fastest so far, with which it takes turns.

        Measured at different times, a form three times as fast can look slower on a node that does other things.
        """
        champion = max(self._passed, key=lambda entry: entry.speed, default=None)
        if champion is None:
            return self._measure([(self._open(built), self._threads)])[0]
        of_champion, found = self._measure(
            [(self._open(champion.built), self._threads), (self._open(built), self._threads)]
        )
        return champion.speed * found / of_champion

    def _forget(self, entries: Sequence[_Entry], order: Callable[[_Entry], float]) -> None:
        """Delete the files of what can no longer be chosen: scratch space is not for every form at once."""
        for entry in sorted(entries, key=order)[FINALISTS:]:
            shutil.rmtree(entry.built.folder, ignore_errors=True)

    def _refuse(self, found: Unavailable) -> None:
        cosine = None if found.similarity is None else f"{found.similarity:.3g}"
        row = _row(found.form, found.verdict, reason=found.reason).model_copy(
            update={"minimum_cosine_similarity": cosine}
        )
        self._rows.append(row)
        self._progress.say(f"{found.form.label}: {found.reason}")

    def _final(self) -> _Entry:
        """Measure the fastest forms again, in turns and with fewer threads, too, while the budget lasts."""
        finalists = sorted(self._passed, key=lambda entry: -entry.speed)[:FINALISTS]
        counts = thread_counts(self._threads)
        contenders_count = len(finalists) * len(counts)
        passes_needed = WARM_UPS * len(finalists) + 2 * LEAST_ROUNDS * contenders_count
        expected = passes_needed * self._texts / finalists[-1].speed
        if contenders_count > 1 and expected < self._clock.left():
            with self._progress.stage(
                "precision", f"Comparing {len(finalists)} forms with {len(counts)} thread counts"
            ):
                passes = [self._open(entry.built) for entry in finalists]
                contenders = [(run, count) for run in passes for count in counts]
                found = self._measure(contenders)
            # On the scale of all others: the fastest with all threads, the last of the counts, is what it was.
            scale = finalists[0].speed / found[len(counts) - 1]
            for index, entry in enumerate(finalists):
                measured = [speed * scale for speed in found[index * len(counts) : (index + 1) * len(counts)]]
                entry.speed, entry.threads = max(zip(measured, counts, strict=True))
        winner = max(finalists, key=lambda entry: entry.speed)
        self._progress.say(f"Taken: {winner.form.label} with {winner.threads} threads, {winner.speed:.1f} texts/s")
        return winner

    def _measure(self, contenders: Sequence[tuple[Pass, int]]) -> list[float]:
        """Texts a second of each, over rounds in which all have a turn."""
        seconds: list[list[float]] = [[] for _ in contenders]
        try:
            for run, _ in contenders:
                for _ in range(WARM_UPS):
                    run()
            counts = {threads for _, threads in contenders}
            taken = 0.0
            for done in range(ROUNDS):
                if done >= LEAST_ROUNDS and self._clock.left() < taken:
                    break
                began = time.monotonic()
                for index, (run, threads) in enumerate(contenders):
                    if len(counts) > 1:
                        self._set_threads(threads)
                        # The first pass after a change starts the threads.
                        run()
                    started = time.perf_counter()
                    run()
                    seconds[index].append(time.perf_counter() - started)
                taken = time.monotonic() - began
        finally:
            self._set_threads(self._threads)
        return speeds(self._texts, seconds)

    def _least_wrong(self) -> Found:
        best = max(self._failed, key=lambda entry: smallest_cosine(entry.built.parity.outputs))
        rows = sorted((_row_of(entry, chosen=entry is best) for entry in self._failed), key=lambda row: not row.chosen)
        return Found(best.built, best.threads, (*rows, *self._rows))


def speeds(texts: int, seconds: Sequence[Sequence[float]]) -> list[float]:
    """Texts a second of each contender, from its seconds in each round.

    Contenders are compared within rounds, where they ran one after another, and only then is the median taken: what
    else the node does changes from round to round, by far more than contenders differ.
    """
    first = seconds[0]
    speed = texts / statistics.median(first)
    ratios = (statistics.median(one / other for one, other in zip(first, found, strict=True)) for found in seconds)
    return [speed * ratio for ratio in ratios]


def thread_counts(available: int) -> tuple[int, ...]:
    """Powers of two below the threads there are, and these."""
    counts = {available}
    count = 1
    while count < available:
        counts.add(count)
        count *= 2
    return tuple(sorted(counts))


def smallest_cosine(outputs: Sequence[OutputParity]) -> float:
    """The smallest cosine similarity; what could not be compared counts as the worst."""
    found = [float(output.minimum_cosine_similarity) for output in outputs]
    return min((value if value == value else -1.0 for value in found), default=-1.0)  # noqa: PLR0124 - only NaN differs


def _row(form: Form, verdict: str, reason: str | None = None) -> Candidate:
    return Candidate.model_validate(
        {
            "precision": form.precision,
            "frozen": form.frozen,
            "packed": form.packed,
            "keptLayers": form.kept_layers,
            "verdict": verdict,
            "reason": reason,
        }
    )


def _row_of(entry: _Entry, *, chosen: bool) -> Candidate:
    outputs = worst_first(entry.built.parity.outputs)
    agreements = [float(output.agreement) for output in outputs if output.agreement is not None]
    reason = entry.reason
    if reason is None and not chosen:
        reason = "it passes, but another form is faster"
    return _row(entry.form, entry.built.parity.verdict, reason).model_copy(
        update={
            "quantized_layers": entry.built.quantized_layers,
            "threads": entry.threads,
            "texts_per_second": f"{entry.speed:.1f}",
            "maximum_absolute_difference": outputs[0].maximum_absolute_difference,
            "minimum_cosine_similarity": min(
                (output.minimum_cosine_similarity for output in outputs), key=lambda text: (text != "nan", float(text))
            ),
            "agreement": f"{min(agreements):.6g}" if agreements else None,
            "chosen": chosen,
        }
    )
