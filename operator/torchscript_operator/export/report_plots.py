"""Plots of the report as inline SVG: they take their colours from the page, so that they follow light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from torchscript_operator.artifact.manifest import Candidate
from torchscript_operator.export.evidence import EXPONENTS, Distribution

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 44
LEAST_ERROR = 1e-9
"""Errors below are drawn here: an exact result has no place on a logarithmic axis."""
LABEL_GAP = 13
"""Pixels between two labels."""


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        span = (self.high - self.low) or 1.0
        return round(self.start + (value - self.low) / span * (self.end - self.start), 1)


def histogram(found: Sequence[Distribution], bound: float | None) -> str:
    """How many values of one output differ by how much, all shapes together; `bound` is drawn where it lies."""
    counts = np.sum([distribution.counts for distribution in found], axis=0)
    equal = sum(distribution.equal for distribution in found)
    total = int(counts.sum()) + equal
    if not total:
        return ""
    filled = np.flatnonzero(counts)
    bound_exponent = math.log10(bound) if bound else None
    shown = [*EXPONENTS[filled], *EXPONENTS[filled + 1], *([bound_exponent] if bound_exponent is not None else [])]
    if not shown:
        return f"<p>All {total:,} values are the same bit for bit.</p>"
    low, high = math.floor(min(shown)), math.ceil(max(shown) + 0.01)
    x = Scale(low, high, LEFT, WIDTH - RIGHT)
    top = max(float(counts.max()) / total, 0.01)
    y = Scale(0, top, HEIGHT - BOTTOM, TOP)
    parts = [_axes(), *_decades(x, low, high)]
    parts += [_text(LEFT - 6, y(share) + 4, f"{share:.0%}", "end") for share in (0, top / 2, top)]
    for index in filled:
        left, right, up = x(EXPONENTS[index]), x(EXPONENTS[index + 1]), y(counts[index] / total)
        height = max(round(HEIGHT - BOTTOM - up, 1), 1.0)
        title = f"{counts[index]:,} values differ by 10^{EXPONENTS[index]:g} to 10^{EXPONENTS[index + 1]:g}"
        parts.append(_rectangle("bar", left + 0.5, HEIGHT - BOTTOM - height, right - left - 1, height, title))
    if bound_exponent is not None and low <= bound_exponent <= high:
        parts.append(
            f'<line class="bound" x1="{x(bound_exponent)}" x2="{x(bound_exponent)}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
        side = "end" if x(bound_exponent) > WIDTH / 2 else "start"
        offset = -5 if side == "end" else 5
        parts.append(_text(x(bound_exponent) + offset, TOP + 8, "bound", side, "boundtext"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "absolute difference from eager", "middle"))
    same = f"{equal:,} of {total:,} values are the same bit for bit."
    return _svg(parts, f"Distribution of the differences of {found[0].output}") + f'<p class="soft">{same}</p>'


def speed_against_error(candidates: Sequence[Candidate], minimum_cosine: float) -> str:
    """Each measured form: to the right is faster, up is closer to eager; the line is what the gate asks for."""
    points = [
        (float(row.texts_per_second), max(1 - float(row.minimum_cosine_similarity), LEAST_ERROR), row)
        for row in candidates
        if row.texts_per_second and row.minimum_cosine_similarity and row.minimum_cosine_similarity != "nan"
    ]
    if not points:
        return ""
    errors = [math.log10(error) for _, error, _ in points]
    limit = math.log10(max(1 - minimum_cosine, LEAST_ERROR))
    high, low = math.ceil(max(*errors, limit) + 0.01), math.floor(min(*errors, limit) - 0.01)
    fastest = max(speed for speed, _, _ in points)
    x, y = Scale(0, fastest * 1.35, LEFT, WIDTH - RIGHT), Scale(low, high, TOP, HEIGHT - BOTTOM)
    parts = [
        _rectangle("refused", LEFT, y(limit), WIDTH - RIGHT - LEFT, HEIGHT - BOTTOM - y(limit)),
        _axes(),
    ]
    step = max(1, math.ceil((high - low) / 6))
    parts += [
        _text(LEFT - 6, y(exponent) + 4, _power(exponent), "end", raw=True) for exponent in range(low, high + 1, step)
    ]
    parts += [_text(x(value), HEIGHT - BOTTOM + 16, f"{value:g}", "middle") for value in _ticks(fastest * 1.2)]
    parts.append(f'<line class="bound" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(limit)}" y2="{y(limit)}"/>')
    parts.append(_text(LEFT + 6, y(limit) + 13, "refused below this line", "start", "boundtext"))
    taken: list[float] = []
    for speed, error, row in sorted(points, key=lambda point: point[1]):
        cx, cy = x(speed), y(math.log10(error))
        kind = "good" if row.verdict == "Passed" else "bad"
        ring = f'<circle class="ring" cx="{cx}" cy="{cy}" r="8"/>' if row.chosen and row.verdict == "Passed" else ""
        label_y = cy + 4
        while any(abs(label_y - other) < LABEL_GAP for other in taken):
            label_y += LABEL_GAP
        taken.append(label_y)
        name = _name(row) + (" (taken)" if row.chosen and row.verdict == "Passed" else "")
        parts.append(f'{ring}<circle class="dot {kind}" cx="{cx}" cy="{cy}" r="4.5"/>{_text(cx + 12, label_y, name)}')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "texts a second (faster →)", "middle"))
    caption = (
        '<p class="soft">Vertical: 1 − smallest cosine similarity of a row, so that higher is closer to eager.</p>'  # noqa: RUF001
    )
    return _svg(parts, "Speed against error of the forms that were measured") + caption


def _name(row: Candidate) -> str:
    kept = f", {len(row.kept_layers)} layers kept" if row.kept_layers else ""
    return f"{row.precision}{', frozen' if row.frozen else ''}{', packed' if row.packed else ''}{kept}"


def _ticks(highest: float) -> list[float]:
    step = 10 ** math.floor(math.log10(highest))
    step = next(candidate for candidate in (step / 5, step / 2, step, 2 * step) if highest / candidate <= 6)  # noqa: PLR2004
    return [step * index for index in range(int(highest / step) + 1)]


def _decades(x: Scale, low: int, high: int) -> list[str]:
    return [
        _text(x(exponent), HEIGHT - BOTTOM + 16, _power(exponent), "middle", raw=True)
        for exponent in range(low, high + 1)
    ]


def _power(exponent: int) -> str:
    if exponent in {0, 1}:
        return str(10**exponent)
    return f'10<tspan dy="-5" font-size="9">{str(exponent).replace("-", "−")}</tspan>'  # noqa: RUF001


def _rectangle(kind: str, x: float, y: float, width: float, height: float, title: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    content = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect class="{kind}" {place}>{content}</rect>'


def _axes() -> str:
    return f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "", *, raw: bool = False) -> str:
    content = text if raw else escape(text)
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{content}</text>'


def _svg(parts: Sequence[str], title: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
    return f"{head}{''.join(parts)}</svg>"
