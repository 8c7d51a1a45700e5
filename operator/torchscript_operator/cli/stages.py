"""Progress of a worker: on a terminal a bar for each stage, elsewhere a line when a stage has ended."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from torchscript_operator.cli.children import Line

DONE, FAILED, RUNNING = "[green]✓[/]", "[bold red]✗[/]", ""
BAR_COLUMNS = 16
SECONDS_COLUMNS = 8
NAME_COLUMNS = 8
"""Width of the stages' names; a longer one moves its line to the right."""


class _Seconds(ProgressColumn):
    """Seconds with a tenth: most stages take less than a minute."""

    max_refresh = 0.1

    def render(self, task: Task) -> Text:
        """What the worker measured, or what has passed so far."""
        seconds = task.fields.get("seconds")
        shown = (task.elapsed or 0.0) if seconds is None else float(seconds)
        return Text(f"{shown:6.1f} s", style="dim")


class _Mark(SpinnerColumn):
    """A spinner that becomes the stage's mark."""

    def render(self, task: Task) -> Text:
        """Spin while the stage runs."""
        mark: str = task.fields["mark"]
        return Text.from_markup(mark) if mark else Text.from_markup(str(super().render(task)))


class Stages:
    """Shows the stages of one worker in the order in which they begin; a stage entered twice keeps its line."""

    def __init__(self, console: Console) -> None:
        """Take the console, which decides between bars and lines."""
        self._console = console
        self._bars: Progress | None = None
        if console.is_terminal:
            fixed = Column(no_wrap=True)
            self._bars = Progress(
                _Mark(table_column=fixed),
                TextColumn(f"{{task.fields[stage]:<{NAME_COLUMNS}}}", table_column=fixed),
                BarColumn(bar_width=BAR_COLUMNS, table_column=Column(min_width=BAR_COLUMNS)),
                _Seconds(table_column=Column(min_width=SECONDS_COLUMNS)),
                TextColumn("[dim]{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
                console=console,
                expand=True,
            )
        self._tasks: dict[str, TaskID] = {}
        self._current: str | None = None
        self._doing = ""
        self._began = 0.0

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Mark a stage that an error has ended, and leave the lines where they are."""
        if kind is not None:
            self.fail()
        if self._bars is not None:
            self._bars.stop()

    def see(self, line: Line) -> None:
        """Follow a line of the worker's log."""
        if line.alarming:
            self.remark(line.message)
        elif line.stage is None or not line.message:
            return
        elif line.seconds is not None:
            self.enter(line.stage, "")
            self.done(line.seconds)
        elif line.stage != self._current:
            self.enter(line.stage, line.message.rstrip("…"))
        else:
            self.detail(line.message)

    def enter(self, stage: str, doing: str) -> None:
        """Begin a stage, or go on with it."""
        if stage == self._current:
            return
        if self._current is not None:
            self.done(time.monotonic() - self._began)
        self._current, self._doing, self._began = stage, doing, time.monotonic()
        if self._bars is None:
            return
        if stage in self._tasks:
            self._bars.update(self._tasks[stage], total=None, mark=RUNNING, seconds=None, description=escape(doing))
        else:
            self._tasks[stage] = self._bars.add_task(escape(doing), total=None, stage=stage, mark=RUNNING, seconds=None)

    def detail(self, text: str) -> None:
        """Say what the current stage has found."""
        self._doing = text
        if self._bars is not None and self._current is not None:
            self._bars.update(self._tasks[self._current], description=escape(text))

    def done(self, seconds: float | None = None) -> None:
        """End the current stage; `seconds` as the worker measured them."""
        self._end(DONE, time.monotonic() - self._began if seconds is None else seconds)

    def fail(self) -> None:
        """End the current stage, which did not come to its end."""
        self._end(FAILED, time.monotonic() - self._began)

    def remark(self, text: str) -> None:
        """Write a line above the bars."""
        target = self._bars.console if self._bars is not None else self._console
        target.print(f"[yellow]![/] {escape(text)}")

    def _end(self, mark: str, seconds: float) -> None:
        stage, self._current = self._current, None
        if stage is None:
            return
        if self._bars is None:
            self._console.print(f"{mark} {stage:<{NAME_COLUMNS}} {seconds:6.1f} s  {escape(self._doing)}")
        else:
            self._bars.update(self._tasks[stage], total=1, completed=mark == DONE, mark=mark, seconds=seconds)
