"""Identity and lifetime of the embedded cluster's processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.processes import ClusterError, Component, Identity, Record, Supervisor, end, marked

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path, bound=True)
    yield supervisor
    for name in supervisor.records():
        supervisor.stop(name, grace=0)


def test_a_process_is_equal_to_itself() -> None:
    assert Identity.of(os.getpid()) == Identity.of(os.getpid())


def test_a_pid_that_changed_hands_is_another_process() -> None:
    mine = Identity.of(os.getpid())
    assert mine is not None
    assert not replace(mine, started=mine.started - 1).alive()
    assert not replace(mine, boot="an earlier one").alive()


def test_a_signal_to_an_earlier_holder_of_the_pid_reaches_nobody() -> None:
    child = subprocess.Popen(SLEEP)
    try:
        identity = Identity.of(child.pid)
        assert identity is not None
        replace(identity, started=identity.started - 1).signal(signal.SIGKILL)
        assert identity.alive()
        identity.signal(signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()


def test_a_zombie_is_no_process() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Identity.of(child.pid) is None
    child.wait()


def test_a_name_with_a_parenthesis_does_not_hide_the_start_time(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 1"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(program), "600"])
    try:
        identity = Identity.of(child.pid)
        assert identity is not None
        assert identity.started > 1
    finally:
        child.kill()
        child.wait()


def test_a_record_survives_its_file() -> None:
    record = Record(Identity(1, 2, "boot"), "abc", 3.5)
    assert Record.from_json(record.to_json()) == record


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"identity": {"pid": 1}}'])
def test_a_record_that_was_cut_short_is_none(text: str) -> None:
    assert Record.from_json(text) is None


def test_a_component_is_started_once(supervisor: Supervisor) -> None:
    component = Component("sleeper", SLEEP)
    assert supervisor.ensure(component)
    first = supervisor.record("sleeper")
    assert not supervisor.ensure(component)
    assert supervisor.record("sleeper") == first


def test_a_changed_file_restarts_the_component(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.ensure(Component("sleeper", SLEEP, files={tmp_path / "config": "a"}))
    first = supervisor.record("sleeper")
    assert supervisor.ensure(Component("sleeper", SLEEP, files={tmp_path / "config": "b"}))
    second = supervisor.record("sleeper")
    assert first is not None
    assert second is not None
    assert not first.identity.alive()
    assert second.identity.alive()
    assert (tmp_path / "config").read_text() == "b"


def test_a_killed_component_is_started_again(supervisor: Supervisor) -> None:
    component = Component("sleeper", SLEEP)
    supervisor.ensure(component)
    record = supervisor.record("sleeper")
    assert record is not None
    os.kill(record.identity.pid, signal.SIGKILL)
    supervisor.wait("its end", lambda: not supervisor.alive("sleeper"), seconds=10)
    assert supervisor.ensure(component)
    assert supervisor.alive("sleeper")


def test_what_ignores_sigterm_is_killed(supervisor: Supervisor) -> None:
    supervisor.ensure(Component("stubborn", STUBBORN))
    supervisor.wait("its start", lambda: "up" in supervisor.tail("stubborn"), seconds=10)
    record = supervisor.record("stubborn")
    assert record is not None
    supervisor.stop("stubborn", grace=0.1)
    assert not record.identity.alive()
    assert supervisor.records() == {}


def test_waiting_ends_with_the_component_and_shows_its_last_words(supervisor: Supervisor) -> None:
    supervisor.ensure(Component("brief", ["sh", "-c", "echo flag unknown; exit 1"]))
    with pytest.raises(ClusterError, match="brief ended") as error:
        supervisor.wait("readiness", lambda: False, seconds=30, needs=["brief"])
    assert "flag unknown" in str(error.value)


def test_waiting_ends_at_its_deadline(supervisor: Supervisor) -> None:
    supervisor.ensure(Component("sleeper", SLEEP))
    with pytest.raises(ClusterError, match="not so after"):
        supervisor.wait("readiness", lambda: False, seconds=0.1, needs=["sleeper"])


def test_a_process_without_a_record_is_found_by_its_mark(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.ensure(Component("sleeper", SLEEP))
    record = supervisor.record("sleeper")
    assert record is not None
    # Its environment shows once it has become the component.
    supervisor.wait("the mark", lambda: record.identity in marked(tmp_path), seconds=10)
    assert list(marked(tmp_path / "another")) == []
    end([record.identity], grace=5)


def test_bound_children_die_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys\n"
        "from tests.cluster.processes import Component, Supervisor\n"
        f"supervisor = Supervisor(pathlib.Path({str(tmp_path)!r}), bound=True)\n"
        f"supervisor.ensure(Component('sleeper', {SLEEP!r}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=False, timeout=60)
    observer = Supervisor(tmp_path)
    assert observer.record("sleeper") is not None
    observer.wait("the child's end", lambda: not observer.alive("sleeper"), seconds=10)
