"""Which forms of a model are looked at for a precision, in which order, and which layers int8 has to leave alone."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from torchscript_operator.export.logs import Progress
from torchscript_operator.export.precision import (
    PLAIN,
    Form,
    fewest_kept,
    linear_layers,
    lower,
    missing_for,
    rank_layers,
)
from torchscript_operator.export.search import Clock, Unavailable

if TYPE_CHECKING:
    from torch import nn

WHOLE_INT8 = Form("int8", frozen=True)
AUTO = (PLAIN, Form("bfloat16", packed=True), Form("bfloat16", frozen=True), Form(packed=True))
"""What auto looks at before int8: first the plain form, so that there always is something to fall back on, then what
gains most, so that a busy node, too, comes to it within the budget. bfloat16 as traced and float32 frozen are left out:
on all-MiniLM-L6-v2 they are as fast as bfloat16 frozen and float32 as traced, each within 4 %."""
MOST_KEPT = 0.75
"""Share of linear layers that int8 may leave in float32; with more there is nothing left to gain."""
REPAIRS = 3
"""Attempts with more layers kept, after the gate refused what the probe let pass."""
RANKING_SHARE = 0.5
"""Part of the time left that ranking layers may take; bisecting and compiling need the rest."""


class Forms:
    """The forms of one model."""

    def __init__(
        self,
        module: "nn.Module",
        similarity: Callable[["nn.Module"], float],
        required_cosine: float,
        clock: Clock,
        progress: Progress,
    ) -> None:
        """Take the module that is traced, and what gives the smallest cosine similarity to eager of such a module."""
        self._module = module
        self._similarity = similarity
        self._required = required_cosine
        self._clock = clock
        self._progress = progress

    def of(self, precision: str, refused: Callable[[Form], float | None]) -> Iterator[Form | Unavailable]:
        """The forms of `auto` or `int8`, made as they are asked for.

        refused: the similarity with which the gate refused a form that was given before; None for others.
        """
        if precision == "auto":
            for form in AUTO:
                missing = missing_for(form)
                yield form if missing is None else Unavailable(form, "NotAvailable", missing)
        missing = missing_for(WHOLE_INT8)
        if missing is not None:
            yield Unavailable(WHOLE_INT8, "NotAvailable", missing)
            return
        yield WHOLE_INT8
        if refused(WHOLE_INT8) is not None:
            yield from self._mixed(refused)

    def _mixed(self, refused: Callable[[Form], float | None]) -> Iterator[Form | Unavailable]:
        """int8 with as few layers in float32 as parity allows."""
        layers = len(linear_layers(self._module))
        most = int(layers * MOST_KEPT)
        if most == 0 or self._clock.left() <= 0:
            return
        with self._progress.stage("precision", f"Ranking {layers} layers by what int8 does to them"):
            end = self._clock.left() * (1 - RANKING_SHARE)
            ranked = rank_layers(self._module, self._similarity, lambda: self._clock.left() > end)
            names = tuple(name for name, _ in ranked)
            found: dict[int, float] = {}

            def holds(kept: tuple[str, ...]) -> bool:
                form = Form("int8", kept_layers=kept)
                found[len(kept)] = self._similarity(lower(self._module, self._module, form))
                return found[len(kept)] >= self._required

            count = fewest_kept(ranked, holds, most)
        if count is None:
            reason = f"not even with {most} of {layers} layers in float32 does parity hold; more would leave no gain"
            form = Form("int8", frozen=True, kept_layers=names[:most])
            yield Unavailable(form, "Failed", reason, found.get(most))
            return
        step = max(1, (most - count) // REPAIRS)
        for kept in sorted({min(most, count + step * repair) for repair in range(REPAIRS + 1)}):
            form = Form("int8", frozen=True, kept_layers=names[:kept])
            yield form
            if refused(form) is None:
                return
