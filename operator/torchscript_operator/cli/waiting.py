"""tsm wait: until models are Ready, with what is happening meanwhile; ends at once where a person has to act."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from torchscript_operator.api import conditions
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.cli import failures, status
from torchscript_operator.cli.ages import duration
from torchscript_operator.cli.cluster import progress
from torchscript_operator.cli.cluster.access import ApiError, Cluster
from torchscript_operator.cli.cluster.progress import Earlier, Estimate, Run
from torchscript_operator.cli.cluster.read import ModelView, read
from torchscript_operator.cli.errors import CliError
from torchscript_operator.controller.model import EXPORT, VERIFY
from torchscript_operator.controller.observed import ended

SETTLED = "settled"
"""What is waited for when nothing else is asked: the present spec is proven, rolled out and answering."""
INTERVAL_SECONDS = 1.0
"""Between two looks."""
STALLED_EXIT = 3
"""Exit code where nothing more will happen by itself, and no failure's class has a code of its own."""
TIMEOUT_EXIT = 124
"""As timeout(1) has it."""
BAR_COLUMNS = 24
COMPONENTS = {"Exporting": EXPORT, "Verifying": VERIFY}


@dataclass(frozen=True)
class Wanted:
    """What is waited for."""

    condition: str = SETTLED
    value: str = "True"
    after: str | None = None
    """A resourceVersion: a stall that was written before the model got it is not what is waited for."""

    @classmethod
    def parse(cls, text: str) -> "Wanted":
        """From `settled`, `CONDITION` or `CONDITION=VALUE`. CliError for another condition."""
        if text.lower() == SETTLED:
            return cls()
        name, _, value = text.partition("=")
        known = {kind.lower(): kind for kind in conditions.ALL}
        if name.lower() not in known:
            names = ", ".join(conditions.ALL)
            raise CliError(f"There is no condition {name}.", advice=f"Wait for {SETTLED}, or for one of {names}.")
        return cls(known[name.lower()], (value or "True").capitalize())


def is_done(view: ModelView, wanted: Wanted) -> bool:
    """Whether what is waited for holds, for the present spec."""
    if not view.is_current:
        return False
    if wanted.condition == SETTLED:
        return view.holds(conditions.READY) and not view.holds(conditions.RECONCILING) and not is_stuck(view, wanted)
    found = view.condition(wanted.condition)
    return found is not None and found.status == wanted.value


def is_stuck(view: ModelView, wanted: Wanted) -> bool:
    """Whether nothing more happens by itself."""
    if not view.is_current or view.body["metadata"].get("resourceVersion") == wanted.after:
        return False
    return view.holds(conditions.STALLED) or is_held(view)


def is_held(view: ModelView) -> bool:
    """Whether nothing happens since the model is suspended."""
    return view.state == "Suspended" and not view.holds(conditions.RECONCILING)


def passes_by_itself(error: ApiError) -> bool:
    """Whether an API server that is asked again may answer: it restarts, or has too much to do."""
    return error.status in {0, HTTPStatus.TOO_MANY_REQUESTS} or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR


@dataclass(frozen=True)
class Step:
    """What happens to one target."""

    model: str
    target: str
    doing: str
    """exporting: trace, rolling out, Ready, …"""
    message: str = ""
    estimate: Estimate | None = None

    @property
    def news(self) -> tuple[str, str]:
        """What is worth a line of its own."""
        return self.doing, self.message if self.estimate is None else ""


def steps(view: ModelView, runs: "dict[str, Run]", earlier: "dict[str, Earlier | None]", now: datetime) -> list[Step]:
    """What happens to each target of a model. `runs` and `earlier` are by Job."""
    found = []
    for target in view.targets:
        name, serving = view.model.name, view.serving(target.name)
        job = view.children.job(target.job or "")
        if target.state in COMPONENTS and job is not None and not ended(job):
            run = runs.get(job["metadata"]["name"])
            elapsed = (now - progress.started(job)).total_seconds()
            known = progress.estimate(elapsed, run, earlier.get(job["metadata"]["name"]), now)
            stage = f": {run.stage}" if run and run.stage else ""
            said = run.message if run and run.message else ""
            found.append(Step(name, target.name, f"{target.state.lower()}{stage}", said, known))
        elif serving is not None and serving.rolling_to is not None:
            said = "its pods are being made"
            if serving.replicas:
                said = f"{serving.ready_replicas} of {serving.replicas} pods are Ready"
            found.append(Step(name, target.name, f"rolling out {status.short_digest(serving.rolling_to)}", said))
        else:
            about = view.condition(conditions.READY)
            doing = target.state.lower() if target.state != "Proven" else view.state.lower()
            found.append(Step(name, target.name, doing, about.message if about else "the operator has not seen it yet"))
    return found


def time_of(estimate: Estimate | None) -> str:
    """1m12s of about 3m."""
    if estimate is None:
        return ""
    expected = f" of about {duration(estimate.expected)}" if estimate.expected else ""
    return f"{duration(estimate.elapsed)}{expected}"


def percentage(estimate: Estimate | None) -> str:
    """42 %, or nothing where nothing is known."""
    return f"{estimate.share:.0%}".replace("%", " %") if estimate and estimate.share is not None else ""


def drawing(shown: Iterable[Step]) -> Table:
    """A line with a bar for each target."""
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for _ in range(4):
        grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for step in shown:
        share = step.estimate.share if step.estimate else None
        bar = ProgressBar(total=1.0, completed=share or 0.0, width=BAR_COLUMNS) if share is not None else ""
        grid.add_row(
            escape(f"{step.model}/{step.target}"),
            escape(step.doing),
            bar,
            " ".join(part for part in (percentage(step.estimate), time_of(step.estimate)) if part),
            f"[dim]{escape(step.message)}[/]",
        )
    return grid


def line(step: Step) -> str:
    """The same where there is no terminal."""
    parts = (percentage(step.estimate), time_of(step.estimate), step.message)
    said = ", ".join(part for part in parts if part)
    return f"{step.model}/{step.target}: {step.doing}" + (f" ({said})" if said else "")


class Logs:
    """Logs of running Jobs, each followed by a thread that ends with its pod, or with this process."""

    def __init__(self, cluster: Cluster) -> None:
        """Take the cluster whose logs they are."""
        self._cluster = cluster
        self._pods: set[str] = set()
        self._asked: dict[str, Earlier | None] = {}
        self.runs: dict[str, Run] = {}

    def watch(self, view: ModelView) -> None:
        """Follow the newest pod of each running Job of a model, and look up what an earlier one took."""
        for target in view.targets:
            if target.state not in COMPONENTS or target.job is None:
                continue
            if target.job not in self._asked:
                self._asked[target.job] = self._earlier(view, target.name, COMPONENTS[target.state], target.job)
            pods = [pod for pod in view.job_pods(target.job) if pod.get("status", {}).get("phase") != "Pending"]
            if pods and pods[-1]["metadata"]["uid"] not in self._pods:
                self._pods.add(pods[-1]["metadata"]["uid"])
                run = self.runs[target.job] = Run()
                name = pods[-1]["metadata"]["name"]
                threading.Thread(target=self._follow, args=(view.model.namespace, name, run), daemon=True).start()

    @property
    def earlier(self) -> "dict[str, Earlier | None]":
        """What an earlier Job took, by the present one."""
        return self._asked

    def _follow(self, namespace: str, pod: str, run: Run) -> None:
        try:
            for text in self._cluster.log(namespace, pod, follow=True):
                run.see(text)
        except ApiError:
            # Without the log the time that has passed is all that is shown.
            return

    def _earlier(self, view: ModelView, target: str, component: str, but: str) -> Earlier | None:
        jobs = progress.earlier_jobs(view, target, component, but)
        job = progress.newest(view, jobs)
        if job is None:
            # The Job has gone; its time is still in the status. Of one that had a cache hit it would be no measure.
            seconds = None if jobs else view.model.target_status(target).duration_seconds
            return Earlier(float(seconds)) if seconds and component == EXPORT else None
        run = None
        pods = view.children.job_pods(job)
        if pods:
            try:
                run = progress.read(self._cluster.log(view.model.namespace, pods[-1]["metadata"]["name"]))
            except ApiError:
                run = None
        return Earlier(progress.took(job) or 0.0, run)


@dataclass
class Waiting:
    """One wait for some models."""

    cluster: Cluster
    names: Sequence[str]
    """Empty for all models of the namespace."""
    wanted: Wanted
    timeout: float
    """Seconds."""
    console: Console
    clock: Callable[[], datetime] = progress.now
    sleep: Callable[[float], None] = time.sleep
    _last: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def run(self) -> list[ModelView]:
        """Wait; returns the models as they were in the end.

        CliError with exit code TIMEOUT_EXIT when the time is over, with that of the failure's class where nothing more
        happens by itself; ApiError where the cluster does not answer or a model goes.
        """
        until = time.monotonic() + self.timeout
        logs = Logs(self.cluster)
        views: list[ModelView] = []
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            while True:
                try:
                    views = self._look()
                except ApiError as error:
                    # Whoever waits for minutes need not give up for a server that restarts.
                    if not views or not passes_by_itself(error) or time.monotonic() > until:
                        raise
                    self.sleep(INTERVAL_SECONDS)
                    continue
                open_ = [view for view in views if not is_done(view, self.wanted)]
                for view in open_:
                    logs.watch(view)
                shown = [step for view in open_ for step in steps(view, logs.runs, logs.earlier, self.clock())]
                if self.console.is_terminal:
                    live.update(drawing(shown), refresh=True)
                else:
                    self._tell(shown)
                stuck = [view for view in open_ if is_stuck(view, self.wanted)]
                # One that is stuck does not end the wait for others that still move.
                if len(stuck) == len(open_):
                    break
                if time.monotonic() > until:
                    live.update("", refresh=True)
                    raise self._late(open_)
                self.sleep(INTERVAL_SECONDS)
            live.update("", refresh=True)
        if stuck:
            raise self._stuck(stuck)
        return views

    def _look(self) -> list[ModelView]:
        if not self.names:
            return list(read(self.cluster, depth="children").models)
        return [view for name in self.names for view in read(self.cluster, name, "children").models]

    def _tell(self, shown: Iterable[Step]) -> None:
        for step in shown:
            key = (step.model, step.target)
            if self._last.get(key) != step.news:
                self._last[key] = step.news
                self.console.print(escape(line(step)))

    def _late(self, open_: Sequence[ModelView]) -> CliError:
        for view in open_:
            for step in steps(view, {}, {}, self.clock()):
                self.console.print(escape(line(step)))
        names = ", ".join(view.model.name for view in open_)
        advice = "Raise --timeout, or see what holds it up: tsm status NAME."
        if any(not view.is_current for view in open_):
            advice = "The operator has not seen the present spec: tsm doctor says whether it runs."
        return CliError(f"Not within {duration(self.timeout)}: {names}.", TIMEOUT_EXIT, advice)

    def _stuck(self, stuck: Sequence[ModelView]) -> CliError:
        now, code = self.clock(), STALLED_EXIT
        for view in stuck:
            for trouble in failures.of_model(view):
                status.show_trouble(trouble, now, self.console)
            stalled = view.condition(conditions.STALLED)
            code = exit_code(stalled.reason if stalled else "")
        names = ", ".join(view.model.name for view in stuck)
        advice = "tsm status NAME shows all of it."
        if any(is_held(view) for view in stuck):
            advice = "It is suspended: tsm resume NAME lets it go on."
        return CliError(f"Nothing more happens by itself: {names}.", code, advice)


def exit_code(reason: str) -> int:
    """Of a stall: that of the failure's class, as the operator's Jobs exit with."""
    try:
        return CLASSES[FailureReason(reason)].exit_code
    except ValueError:
        return STALLED_EXIT
