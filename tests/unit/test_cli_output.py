"""Tables and figures for people."""

import io

import pytest
from rich.console import Console

from tests.unit import artifacts
from torchscript_operator.artifact.manifest import OutputParity
from torchscript_operator.cli import output


def shown(*figures: OutputParity) -> list[list[str]]:
    stream = io.StringIO()
    Console(file=stream, width=80).print(output.figures(figures))
    return [line.split() for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (90_500_000, "90.5 MB"), (3_000_000_000_000_000, "3000.0 TB")],
)
def test_sizes(number: int, expected: str) -> None:
    assert output.size(number) == expected


def test_the_worst_figure_is_first() -> None:
    rows = shown(artifacts.figure("good"), artifacts.figure("bad", passed=False))
    assert [row[0] for row in rows] == ["output", "bad", "good"]


def test_columns_without_news_are_left_out() -> None:
    assert not {"agree", "nan/inf"} & set(shown(artifacts.figure())[0])
    scores = artifacts.figure().model_copy(update={"agreement": "1", "non_finite": 2})
    assert {"agree", "nan/inf"} <= set(shown(scores)[0])


@pytest.mark.parametrize(
    ("figure", "expected"),
    [("0.99999999999999689", "1-3.11e-15"), ("0.999923", "0.999923"), ("1", "1"), ("nan", "nan"), ("-0.5", "-0.5")],
)
def test_similarities_near_one_keep_their_digits(figure: str, expected: str) -> None:
    assert shown(artifacts.figure().model_copy(update={"minimum_cosine_similarity": figure}))[1][5] == expected


def test_what_came_from_outside_is_no_markup() -> None:
    assert shown(artifacts.figure("[red]x[/red]"))[1][0] == "[red]x[/red]"


@pytest.mark.parametrize(("uri", "expected"), [("file:///a%20b", "/a b"), ("s3://bucket/x", "s3://bucket/x")])
def test_a_folder_is_shown_as_its_path(uri: str, expected: str) -> None:
    assert output.place(uri) == expected
