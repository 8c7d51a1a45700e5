"""Child processes that survive their caller, known by more than a pid so that a recycled pid is never killed."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MARK = "TSM_CLUSTER_MEMBER"
"""Environment variable of everything we start (containerd's shims inherit it): its value is the state folder."""

_outliving: list[subprocess.Popen[bytes]] = []
"""Children that go on after their supervisor: Python warns of one that is forgotten while it runs."""

_PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a child gets when the thread that started it ends."""


class ClusterError(RuntimeError):
    """Something did not come up or go down; the message says what, and what to do."""


@dataclass(frozen=True)
class Identity:
    """One process, for all time: pids are reused, and start times begin anew at each boot."""

    pid: int
    started: int
    """Clock ticks between boot and the process's start (field 22 of /proc/<pid>/stat)."""
    boot: str
    """The kernel's random id of this boot."""

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has this pid now; None when there is none, or only its zombie."""
        fields = _stat(pid)
        if fields is None or fields[0] in "ZX":
            return None
        return cls(pid, int(fields[19]), boot_id())

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Identity.of(self.pid) == self

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, to this process or to none."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():  # checked after the pidfd is held: from here on the pid cannot change hands
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Component:
    """What should run: compared with what does, so that a changed flag or file restarts it."""

    name: str
    argv: Sequence[str]
    files: Mapping[Path, str] = field(default_factory=dict)
    """Configuration files, written before it starts."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the caller's."""
    generation: str = ""
    """Changes when something else that it read at its start did, such as the certificates."""

    def fingerprint(self) -> str:
        """Equal for two processes that were started alike."""
        parts = [list(self.argv), {str(k): v for k, v in self.files.items()}, dict(self.environment), self.generation]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """One line of the state: who was started as what."""

    identity: Identity
    fingerprint: str
    since: float
    """Seconds since the epoch."""

    def to_json(self) -> str:
        """The content of its file."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Record | None:
        """None for a file that a crash cut short: its process, if any, is found by its mark."""
        try:
            data = json.loads(text)
            return cls(Identity(**data["identity"]), data["fingerprint"], data["since"])
        except (ValueError, KeyError, TypeError):
            return None


class Supervisor:
    """Starts, finds and stops the components whose state, logs and records are in one folder."""

    def __init__(self, folder: Path, *, bound: bool = False) -> None:
        """`bound`: the children die with this process, however it ends."""
        self.folder = folder
        self.bound = bound
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def log(self, name: str) -> Path:
        """What the component wrote to its two outputs."""
        return self.folder / "logs" / f"{name}.log"

    def record(self, name: str) -> Record | None:
        """How the component was started last."""
        try:
            return Record.from_json(self._record_file(name).read_text())
        except FileNotFoundError:
            return None

    def records(self) -> dict[str, Record]:
        """Every component that was started and not stopped, by name."""
        names = sorted(file.stem for file in (self.folder / "run").glob("*.json"))
        return {name: record for name in names if (record := self.record(name))}

    def alive(self, name: str) -> bool:
        """Whether the component runs."""
        self._reap()
        record = self.record(name)
        return record is not None and record.identity.alive()

    def ensure(self, component: Component) -> bool:
        """Starts what does not run, restarts what runs with another configuration; true if it did either."""
        record = self.record(component.name)
        if record and record.identity.alive():
            if record.fingerprint == component.fingerprint():
                return False
            self.stop(component.name)
        self._start(component)
        return True

    def stop(self, name: str, grace: float = 8) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds; returns once the process is gone."""
        record = self.record(name)
        if record:
            end([record.identity], grace, self._reap)
            if child := self._children.pop(record.identity.pid, None):
                # A process of many threads is a zombie before the last one lets go of its port.
                child.wait(10)
        self._record_file(name).unlink(missing_ok=True)

    def tail(self, name: str, lines: int = 25) -> str:
        """The end of the component's log, for an error message."""
        try:
            return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def wait(self, what: str, condition: Callable[[], bool], *, seconds: float, needs: Sequence[str] = ()) -> None:
        """Polls a condition until it holds; fails at once when a component that it needs ends, else at the deadline."""
        deadline = time.monotonic() + seconds
        pause = 0.05
        while not condition():
            dead = [name for name in needs if not self.alive(name)]
            if dead or time.monotonic() > deadline:
                culprit = (dead or list(needs))[-1:]
                why = f"{dead[0]} ended" if dead else f"not so after {seconds:.0f} s"
                logs = "".join(f"\n--- end of {self.log(name)} ---\n{self.tail(name)}" for name in culprit)
                msg = f"waiting for {what}: {why}{logs}"
                raise ClusterError(msg)
            time.sleep(pause)
            pause = min(pause * 1.3, 0.5)

    def _start(self, component: Component) -> None:
        for file, content in component.files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        record_file = self._record_file(component.name)
        log = self.log(component.name)
        for parent in (record_file.parent, log.parent):
            parent.mkdir(parents=True, exist_ok=True)
        fingerprint = component.fingerprint()
        libc = ctypes.CDLL(None)

        def before_exec() -> None:
            # The child itself writes its record: were this process killed here, none would be left unknown.
            if self.bound:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if identity := Identity.of(os.getpid()):
                record_file.write_text(Record(identity, fingerprint, time.time()).to_json())

        with log.open("ab") as output:
            child = subprocess.Popen(
                list(component.argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {MARK: str(self.folder)} | dict(component.environment),
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=before_exec,  # noqa: PLW1509 - it takes no lock that another thread may hold
            )
        self._children[child.pid] = child
        if not self.bound:
            _outliving.append(child)

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[pid]

    def _record_file(self, name: str) -> Path:
        return self.folder / "run" / f"{name}.json"


def end(identities: Sequence[Identity], grace: float, reap: Callable[[], None] = lambda: None) -> None:
    """Ends processes, gently at first; ClusterError if one outlives SIGKILL by ten seconds."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        for identity in identities:
            identity.signal(number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            reap()
            if not any(identity.alive() for identity in identities):
                return
            time.sleep(0.03)
    left = [str(identity.pid) for identity in identities if identity.alive()]
    if left:
        msg = f"processes {', '.join(left)} do not end, even by SIGKILL: see /proc/PID/stack"
        raise ClusterError(msg)


def marked(folder: Path) -> Iterator[Identity]:
    """Every process that we started for this state folder, and their children that kept the environment."""
    wanted = f"{MARK}={folder}".encode()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        if wanted in environment and (identity := Identity.of(int(entry.name))):
            yield identity


def boot_id() -> str:
    """Differs from one boot to the next."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat after the name, which may itself hold blanks and parentheses."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
