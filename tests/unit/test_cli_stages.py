"""Progress: a line for each stage where nobody watches, a bar on a terminal."""

import io
import re

from rich.console import Console

from torchscript_operator.cli.children import Line
from torchscript_operator.cli.stages import Stages

LOG = (
    {"level": "info", "stage": "load", "message": "Loading the eager model…"},
    {"level": "info", "stage": "load", "message": "Untied 2 shared weights"},
    {"level": "info", "stage": "load", "message": "Loading the eager model: done", "elapsedSeconds": 1.26},
    {"level": "info", "stage": "parity", "message": "Comparing with eager…"},
)


def shown(*, terminal: bool, error: Exception | None = None) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, color_system=None, width=100)
    try:
        with Stages(console) as stages:
            for fields in LOG:
                stages.see(Line(fields))
            if error is not None:
                raise error
            stages.done(2.0)
    except ValueError:
        pass
    return stream.getvalue()


def last_screen(text: str) -> list[str]:
    """The lines that a terminal is left with."""
    plain = re.sub(r"\x1b\[[0-9?]*[a-zA-Z]", "", text.rsplit("\x1b[2K", 1)[-1])
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_piped_progress_is_one_line_for_each_stage() -> None:
    assert shown(terminal=False).splitlines() == [
        "✓ load        1.3 s  Untied 2 shared weights",
        "✓ parity      2.0 s  Comparing with eager",
    ]


def test_piped_progress_has_no_control_characters() -> None:
    assert "\x1b" not in shown(terminal=False)


def test_an_error_marks_the_stage_that_it_ended() -> None:
    assert re.match(
        r"✗ parity +0\.\d s  Comparing with eager", shown(terminal=False, error=ValueError()).splitlines()[1]
    )


def test_a_terminal_shows_a_bar_for_each_stage() -> None:
    text = shown(terminal=True)
    assert "━" in text
    assert any("parity" in line and "2.0 s" in line for line in last_screen(text))


def test_a_stage_entered_twice_keeps_its_line() -> None:
    stream = io.StringIO()
    with Stages(Console(file=stream, force_terminal=True, width=100)) as stages:
        for stage in ("trace", "axes", "trace"):
            stages.see(Line({"stage": stage, "message": "Working…"}))
            stages.see(Line({"stage": stage, "message": "Working: done", "elapsedSeconds": 1.0}))
        assert list(stages._tasks) == ["trace", "axes"]


def test_a_stage_that_begins_ends_the_one_before() -> None:
    stream = io.StringIO()
    with Stages(Console(file=stream, width=100)) as stages:
        stages.enter("fetch", "Fetching")
        stages.enter("load", "Loading")
        assert "✓ fetch" in stream.getvalue()


def test_a_warning_is_shown_as_it_is() -> None:
    stream = io.StringIO()
    with Stages(Console(file=stream, width=100)) as stages:
        stages.see(Line({"level": "warning", "stage": "load", "message": "The list [1, 2] is odd"}))
    assert stream.getvalue() == "! The list [1, 2] is odd\n"


def test_lines_of_no_stage_are_no_progress() -> None:
    stream = io.StringIO()
    with Stages(Console(file=stream, width=100)) as stages:
        stages.see(Line({"level": "info", "message": "hello"}))
    assert stream.getvalue() == ""
