"""Operators as processes that start in a blink: forked from a server that has imported everything once.

They run what `python -m torchscript_operator.controller` runs, and can be killed like it. So tests can afford to start
hundreds. Constants (of time, mostly) may be replaced before one starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pkgutil
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from tests.integration.harness import Operator, eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STARTED = multiprocessing.get_context("forkserver")
STARTED.set_forkserver_preload(["torchscript_operator.controller.__main__", __name__])
ONE_AT_A_TIME = threading.Lock()
"""A start looks at all other processes too, and only the first look at one that has ended learns its code."""
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: which signal a process gets when its parent ends."""
CONTROLLER = "torchscript_operator.controller."


def run(log: str, environment: Mapping[str, str], constants: Mapping[str, Any]) -> None:
    """What a forked process does."""
    from kubernetes.aio.config import kube_config

    from torchscript_operator.controller.__main__ import main

    # A test session that dies takes its operators along.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in (1, 2):
        os.dup2(output, number)
    os.environ.update(environment)
    # Read from the environment when it is imported, which was before the fork.
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = environment["KUBECONFIG"]
    for name, value in constants.items():
        place, _, last = name.rpartition(".")
        holder = pkgutil.resolve_name(CONTROLLER + place)
        assert hasattr(holder, last), f"there is no {name}"
        setattr(holder, last, value)
    sys.exit(main())


class Forked(Operator):
    """An operator that starts at once; its health port is unknown unless asked for."""

    def __init__(self, kubeconfig: Path, settings: Path, log: Path, constants: Mapping[str, Any] | None = None) -> None:
        super().__init__(kubeconfig, settings, log)
        self.constants = dict(constants or {})
        self.forked: Any = None
        self.handle = -1
        self.lock = threading.Lock()
        self.stopped = False

    @property
    def alive(self) -> bool:
        with ONE_AT_A_TIME:
            return self.forked is not None and self.forked.is_alive()

    def start(self) -> None:
        environment = {
            "KUBECONFIG": str(self.kubeconfig),
            "TSM_SETTINGS": str(self.settings),
            "TSM_HEALTH_PORT": str(self.port),
        }
        self.forked = STARTED.Process(target=run, args=(str(self.log), environment, self.constants), daemon=True)
        with ONE_AT_A_TIME:
            self.forked.start()
        # Not its number, which another process may have by the time that this one is to be killed.
        self.handle = os.pidfd_open(self.forked.pid)

    def ended(self) -> bool:
        with ONE_AT_A_TIME:
            return self.forked.exitcode is not None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.forked is not None
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, number)
        os.close(self.handle)
        eventually(self.ended, "the operator to end")
        with ONE_AT_A_TIME:
            code: int = self.forked.exitcode
            self.forked.close()
            self.forked = None
        return code

    def again(self) -> None:
        """Die and come back, unless the test is over."""
        with self.lock:
            if not self.stopped:
                self.kill()
                self.start()

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            if self.forked is not None:
                self.kill()
