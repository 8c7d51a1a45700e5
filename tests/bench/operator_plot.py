"""The benchmark's plot: cost against the number of models, both axes logarithmic, so that linear cost is a line."""

from __future__ import annotations

import math
from html import escape

WIDTH, HEIGHT = 360, 300
LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 56, 40, 280, 200
COLOURS = ("#0b6e99", "#c0504d", "#4f8a3d", "#8064a2")

Series = dict[str, dict[int, float]]
"""Values by number of models, by name."""


def _decades(values: list[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _text(x: float, y: float, text: str, **more: str) -> str:
    attributes = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(text)}</text>'


def panel(title: str, series: Series, offset: int) -> str:
    """One chart, moved to the right by a number of pixels."""
    shown = {name: {n: v for n, v in points.items() if v > 0} for name, points in series.items()}
    sizes = sorted({n for points in shown.values() for n in points})
    low, high = _decades([v for points in shown.values() for v in points.values()])
    first, last = math.log10(sizes[0]), math.log10(sizes[-1])
    span = (last - first) or 1

    def x(size: int) -> float:
        return LEFT + (math.log10(size) - first) / span * PLOT_WIDTH

    def y(value: float) -> float:
        return TOP + PLOT_HEIGHT - (math.log10(value) - low) / (high - low) * PLOT_HEIGHT

    parts = [f'<g transform="translate({offset},0)">', _text(LEFT, 22, title, font_weight="bold")]
    for power in range(low, high + 1):
        level = y(10**power)
        parts.append(f'<path d="M{LEFT} {level:.1f}h{PLOT_WIDTH}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 6, level + 4, f"{10.0**power:g}", text_anchor="end"))
    parts += [_text(x(size), TOP + PLOT_HEIGHT + 18, f"{size:,}", text_anchor="middle") for size in sizes]
    for number, (name, points) in enumerate(shown.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in sorted(points.items()))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(n):.1f}" cy="{y(v):.1f}" r="3" fill="{colour}"/>' for n, v in points.items()]
        parts.append(_text(LEFT + 6, TOP + 14 + 14 * number, name, fill=colour))
    return "".join([*parts, "</g>"])


def svg(panels: dict[str, Series]) -> str:
    """A whole picture, one chart beside the other."""
    drawn = "".join(panel(title, series, WIDTH * number) for number, (title, series) in enumerate(panels.items()))
    width = WIDTH * len(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>{drawn}</svg>\n'
    )
