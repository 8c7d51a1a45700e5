"""What a person or a program reads: tables, or JSON and YAML, on standard output; everything else on standard error."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from torchscript_operator.artifact.manifest import OutputParity
from torchscript_operator.artifact.ordering import worst_first
from torchscript_operator.artifact.outcome import CandidateSummary
from torchscript_operator.cli.formats import Format

PIPED_WIDTH = 10_000
"""Columns where there is no terminal to ask, so that a line of a table stays a line, however long its cells."""
VERDICT_STYLES = {"Passed": "green", "Failed": "bold red"}
LONGEST_SHARE = 9
"""Characters of a similarity that is shown as it is."""
UNITS = ("B", "kB", "MB", "GB", "TB")
KILO = 1000


def console(*, error: bool = False) -> Console:
    """Standard output, or standard error; without colours where it is no terminal."""
    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(stderr=error, width=width, highlight=False, soft_wrap=not stream.isatty())


def remark(text: str) -> None:
    """Say on standard error what somebody should know of an answer."""
    console(error=True).print(f"[yellow]![/] {escape(text)}")


def write(value: Any, form: Format) -> None:
    """Print a value for programs."""
    if form is Format.JSON:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120))


def pairs(values: Mapping[str, object]) -> Table:
    """Names and values, one pair a line; values are text, not markup."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in values.items():
        grid.add_row(name, escape(str(value)))
    return grid


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[str] = frozenset()) -> Table:
    """Rows under a header; the columns in `right` are aligned for numbers. Cells are markup."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in header:
        number = name in right
        made.add_column(name, justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in rows:
        made.add_row(*row)
    return made


def figures(outputs: Iterable[OutputParity]) -> Table:
    """Compiled against eager for each output and shape, the worst first; columns without news are left out."""
    worst = worst_first(outputs)
    columns: dict[str, list[str]] = {
        "output": [escape(output.output) for output in worst],
        "shape": [escape(output.shape) for output in worst],
        "rows": [str(output.rows) for output in worst],
        "max abs": [output.maximum_absolute_difference for output in worst],
        "max rel": [output.maximum_relative_difference for output in worst],
        "min cosine": [_near_one(output.minimum_cosine_similarity) for output in worst],
        "agree": [output.agreement or "-" for output in worst if any(other.agreement for other in worst)],
        "nan/inf": [str(output.non_finite) for output in worst if any(other.non_finite for other in worst)],
        "verdict": [verdict("Passed" if output.passed else "Failed") for output in worst],
    }
    shown = {name: cells for name, cells in columns.items() if cells}
    numbers = frozenset(columns) - {"output", "shape", "verdict"}
    return table(tuple(shown), zip(*shown.values(), strict=True), numbers)


def candidates(found: Iterable[CandidateSummary]) -> Table:
    """The forms that the search for a precision looked at, the chosen one first."""
    rows = [
        (
            ("[green]✓[/] " if candidate.chosen else "  ") + escape(candidate.precision),
            "frozen" if candidate.frozen else "packed" if candidate.packed else "-",
            str(candidate.kept_layers) if candidate.kept_layers else "-",
            str(candidate.threads or "-"),
            candidate.texts_per_second or "-",
            _near_one(candidate.minimum_cosine_similarity or "-"),
            verdict(candidate.verdict),
        )
        for candidate in found
    ]
    numbers = ("kept layers", "threads", "texts/s", "min cosine")
    return table(("  precision", "graph", *numbers, "verdict"), rows, frozenset(numbers))


def _near_one(figure: str) -> str:
    """0.99999999999999689 as 1-3.11e-15: as exact, and fit for a table."""
    if len(figure) <= LONGEST_SHARE or not figure.startswith("0.9"):
        return figure
    return f"1-{float(1 - Decimal(figure)):.3g}"


def verdict(text: str) -> str:
    """A verdict in its colour."""
    return f"[{VERDICT_STYLES.get(text, 'dim')}]{text}[/]"


def place(uri: str) -> str:
    """A place for people: a folder as its path, which every command takes as well."""
    parts = urlsplit(uri)
    return unquote(parts.path) if parts.scheme == "file" else uri


def size(number: int) -> str:
    """Bytes for people: 90.9 MB."""
    value = float(number)
    for unit in UNITS:
        if value < KILO or unit == UNITS[-1]:
            break
        value /= KILO
    return f"{value:.0f} {unit}" if unit == UNITS[0] else f"{value:.1f} {unit}"
