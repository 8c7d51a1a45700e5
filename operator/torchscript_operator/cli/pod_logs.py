"""tsm logs: the log of the Job or the pods that a question about a model is about, without knowing their names."""

import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from rich.console import Console
from rich.markup import escape

from torchscript_operator.cli.cluster.access import ApiError, Cluster, Json
from torchscript_operator.cli.cluster.read import ModelView, read
from torchscript_operator.cli.errors import CliError
from torchscript_operator.controller.model import COMPONENT_LABEL, EXPORT, SERVING, TARGET_LABEL, VERIFY
from torchscript_operator.controller.observed import is_true, label

COMPONENTS = (EXPORT, VERIFY, SERVING)
SHOWN_FIELDS = frozenset({"time", "level", "logger", "message", "stage", "exception", "model", "target", "outcome"})
"""Fields of a line that have a place of their own, or that all lines of a pod share."""
STYLES = {"warning": "yellow", "error": "bold red", "critical": "bold red", "debug": "dim"}
POLL_SECONDS = 1.0
APPEARS_SECONDS = 300
"""How long -f waits for a pod to start."""
CLOCK = slice(11, 23)
"""Hours to milliseconds of a line's time."""


@dataclass(frozen=True)
class Wish:
    """Which log."""

    target: str | None = None
    component: str | None = None
    """export, verify or serving; what is going on now when absent."""
    follow: bool = False
    previous: bool = False
    tail: int | None = None
    since_seconds: int | None = None
    raw: bool = False


@dataclass(frozen=True)
class Choice:
    """The pods whose logs are shown, and why these."""

    pods: tuple[Json, ...]
    why: str


def choose(view: ModelView, wish: Wish) -> Choice:
    """The pods that a question is about.

    Without --component: a Job that runs, else one that failed, else the pods that serve, else the newest Job.
    CliError for a target that is not there.
    """
    targets = [target for target in view.targets if wish.target in {None, target.name}]
    if not targets:
        names = ", ".join(target.name for target in view.targets)
        raise CliError(f"{view.model.name} has no target {wish.target!r}.", advice=f"Its targets: {names}.")
    if wish.component is None:
        for states, why in ((("Exporting", "Verifying"), "is running"), (("Failed",), "has failed")):
            jobs = [target.job for target in targets if target.state in states and target.job]
            pods = tuple(pod for job in jobs for pod in view.job_pods(job)[-1:])
            if pods or (jobs and wish.follow):
                return Choice(pods, f"Job {', '.join(jobs)} {why}")
    if wish.component in {None, SERVING}:
        pods = tuple(pod for target in targets for pod in view.pods(target.name, serving=True))
        if wish.previous:
            pods = tuple(pod for pod in pods if _restarted(pod)) or pods
        if pods or wish.component == SERVING:
            return Choice(pods, "pods that serve")
    component = wish.component or EXPORT
    mine = {target.name for target in targets}
    found = [
        pod
        for pod in view.pods(serving=False)
        if label(pod, COMPONENT_LABEL) == component and label(pod, TARGET_LABEL) in mine
    ]
    newest = {label(pod, TARGET_LABEL): pod for pod in found}
    return Choice(tuple(newest.values()), f"the newest {component} Job")


def _restarted(pod: Json) -> bool:
    return any(status.get("restartCount", 0) for status in pod.get("status", {}).get("containerStatuses") or [])


def show(cluster: Cluster, name: str, wish: Wish, console: Console, remarks: Console) -> None:
    """Print logs. CliError where there is none to show; ApiError."""
    choice = _awaited(cluster, name, wish)
    if not choice.pods:
        advice = "tsm status NAME says how far it is; a Job's pods go with it, a day after its end by default."
        raise CliError(f"{name} has no pod to read a log of ({choice.why}).", 1, advice)
    remarks.print(f"[dim]{escape(choice.why)}: {', '.join(pod['metadata']['name'] for pod in choice.pods)}[/]")
    several, empty = len(choice.pods) > 1, True
    for pod, text in _lines(cluster, choice.pods, wish):
        empty = False
        prefix = f"{pod['metadata']['name']}  " if several else ""
        if wish.raw:
            console.print(f"{prefix}{text}", markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(f"[dim]{escape(prefix)}[/]{pretty(text)}", soft_wrap=True)
    if empty:
        remarks.print("The log is empty.")


def _awaited(cluster: Cluster, name: str, wish: Wish) -> Choice:
    """What to show; with -f after waiting for a pod that has started."""
    until = time.monotonic() + APPEARS_SECONDS
    while True:
        (view, *_) = read(cluster, name, "children").models
        choice = choose(view, wish)
        ready = choice.pods and all(pod.get("status", {}).get("phase") != "Pending" for pod in choice.pods)
        if ready or not wish.follow or time.monotonic() > until:
            return choice
        time.sleep(POLL_SECONDS)


def _options(wish: Wish) -> dict[str, object]:
    return {
        "follow": wish.follow or None,
        "previous": wish.previous or None,
        "tailLines": wish.tail,
        "sinceSeconds": wish.since_seconds,
    }


def _lines(cluster: Cluster, pods: Sequence[Json], wish: Wish) -> Iterator[tuple[Json, str]]:
    """Lines of all pods: one after the other, or with -f as they come."""
    if len(pods) > 1 and wish.follow:
        yield from _together(cluster, pods, wish)
        return
    for pod in pods:
        for text in _read(cluster, pod, wish):
            yield pod, text


def _together(cluster: Cluster, pods: Sequence[Json], wish: Wish) -> Iterator[tuple[Json, str]]:
    """Lines of several pods as they come, until the last log ends. ApiError where the last one breaks off."""
    heard: queue.Queue[tuple[Json, str | ApiError | None]] = queue.Queue()

    def listen(pod: Json) -> None:
        try:
            for text in _read(cluster, pod, wish):
                heard.put((pod, text))
            heard.put((pod, None))
        except ApiError as error:
            heard.put((pod, error))

    for pod in pods:
        threading.Thread(target=listen, args=(pod,), daemon=True).start()
    running = len(pods)
    while running:
        pod, told = heard.get()
        if isinstance(told, str):
            yield pod, told
            continue
        running -= 1
        if told is not None and not running:
            raise told


def _read(cluster: Cluster, pod: Json, wish: Wish) -> Iterator[str]:
    metadata = pod["metadata"]
    try:
        yield from cluster.log(metadata["namespace"], metadata["name"], **_options(wish))
    except ApiError as error:
        if wish.previous and error.status == HTTPStatus.BAD_REQUEST:
            message = f"Pod {metadata['name']} has not been restarted, so it has no previous log."
            raise ApiError(error.status, message, "Leave --previous out.") from error
        if error.status == HTTPStatus.BAD_REQUEST and not is_true(pod, "Ready"):
            message = f"Pod {metadata['name']} has not started: {error.message}"
            raise ApiError(
                error.status, message, "tsm status NAME says what it waits for; -f waits with it."
            ) from error
        raise


def pretty(text: str) -> str:
    """A worker's line for people, as markup; any other line as it is."""
    try:
        found = json.loads(text)
    except ValueError:
        return escape(text)
    if not isinstance(found, dict) or "message" not in found:
        return escape(text)
    clock = str(found.get("time", ""))[CLOCK]
    level, stage = str(found.get("level", "info")), str(found.get("stage", ""))
    more = "  ".join(f"{key}={value}" for key, value in found.items() if key not in SHOWN_FIELDS)
    style = STYLES.get(level, "")
    said = escape(str(found["message"]))
    parts = [f"[dim]{clock}[/]", f"{stage:<9}" if stage else "", f"[{style}]{said}[/]" if style else said]
    shown = "  ".join(part for part in parts if part) + (f"  [dim]{escape(more)}[/]" if more else "")
    trace = found.get("exception")
    return shown + _ending(found.get("outcome")) + (f"\n[dim]{escape(str(trace))}[/]" if trace else "")


def _ending(outcome: Any) -> str:
    """What the last line of an export is about, as markup: its failure, or where the artifact lies."""
    if not isinstance(outcome, dict):
        return ""
    failure = outcome.get("failure")
    if failure:
        said = f"{failure.get('reason')}: {failure.get('message')}"
        return f"  [bold red]{escape(said)}[/]"
    made = outcome.get("artifact") or outcome.get("pending") or {}
    return f"  [dim]{escape(str(made.get('uri', '')))}[/]"
