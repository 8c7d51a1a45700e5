"""What the cluster leaves on the machine outside its state folder: mounts, cgroups, folders with fixed names."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster import paths
from tests.cluster.processes import ClusterError, Identity

if TYPE_CHECKING:
    from collections.abc import Iterator

CGROUP = "torchscript-cluster"
"""Above the kubelet's own `kubepods`, in every hierarchy: all that is in it is ours."""

_CGROUPS = Path("/sys/fs/cgroup")

_FIXED = (
    Path("/run/containerd"),
    Path("/run/netns"),
    Path("/var/lib/cni"),
    Path("/var/lib/kubelet"),
    Path("/var/log/containers"),
    Path("/var/log/pods"),
)
"""Folders that containerd, CNI and the kubelet make at places which no setting moves."""


def claim(folder: Path) -> None:
    """Makes the state folder ours, remembering which fixed places were there before.

    `down` deletes the folder, so that one which holds something else is refused.
    """
    memory = _memory(folder)
    if memory.exists():
        return
    if folder.exists() and any(folder.iterdir()):
        msg = f"{folder} is not empty and not a cluster's: set TSM_CLUSTER_DIR to another folder"
        raise ClusterError(msg)
    folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    scratch = memory.with_suffix(".part")
    scratch.write_text(json.dumps([str(place) for place in _FIXED if not place.exists()]))
    scratch.rename(memory)


def ours(folder: Path) -> bool:
    """Whether the state folder was claimed, so that it may be deleted."""
    return _memory(folder).exists()


def disclaim(folder: Path) -> None:
    """Deletes the state folder; its memory last, so that a deletion which was cut short can be resumed."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != _memory(folder):
            entry.unlink()
    _memory(folder).unlink()
    folder.rmdir()


def tidy_places(folder: Path) -> None:
    """Removes what is ours from the fixed places, and those that were not there before and are empty now.

    Another containerd or kubelet may have come to use them meanwhile: what it has there stays.
    """
    for leftover in leftovers(folder):
        leftover.unlink(missing_ok=True)
    for place in json.loads(_memory(folder).read_text()):
        for root, _, _ in os.walk(place, topdown=False):
            with contextlib.suppress(OSError):  # not empty
                Path(root).rmdir()


def leftovers(folder: Path) -> list[Path]:
    """Links to our pods' logs, and sockets on which no shim and no kubelet listens any more."""
    links = Path("/var/log/containers").glob("*.log")
    sockets = [*Path("/run/containerd/s").glob("*"), *Path("/var/lib/kubelet/device-plugins").glob("*.sock")]
    dead = [path for path in sockets if path.is_socket() and not _listening(path)]
    return [link for link in links if link.is_symlink() and link.readlink().is_relative_to(folder)] + dead


def _listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _memory(folder: Path) -> Path:
    return folder / "machine.json"


def mounts(folder: Path) -> list[str]:
    """Mount points at or below a folder, the deepest first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")  # blanks are written as \040
        if Path(point).is_relative_to(folder):
            points.append(point)
    return sorted(points, key=len, reverse=True)


def unmount(folder: Path) -> None:
    """Unmounts all below a folder; more than once, because mounts can lie on top of each other."""
    for _ in range(3):
        for point in mounts(folder):
            subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)
        if not mounts(folder):
            return
    msg = f"still mounted: {', '.join(mounts(folder))}. Unmount them, then run `down` again"
    raise ClusterError(msg)


def make_cgroup() -> None:
    """The kubelet wants its root cgroup to exist in every hierarchy."""
    for hierarchy in _hierarchies():
        (hierarchy / CGROUP).mkdir(exist_ok=True)


def cgroups() -> list[Path]:
    """Our cgroups, the deepest first."""
    found = [Path(root) for hierarchy in _hierarchies() for root, _, _ in os.walk(hierarchy / CGROUP)]
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def contained() -> set[Identity]:
    """Every process in our cgroups: the pods'."""
    found = set()
    for group in cgroups():
        for pid in _members(group):
            if identity := Identity.of(pid):
                found.add(identity)
    return found


def kill_contained(seconds: float = 20) -> None:
    """Ends the pods' processes. At once: what a graceful end would save is deleted next."""
    deadline = time.monotonic() + seconds
    while left := contained():
        if time.monotonic() > deadline:
            msg = f"pods' processes do not end: {sorted(i.pid for i in left)}"
            raise ClusterError(msg)
        for identity in left:
            identity.signal(signal.SIGKILL)
        time.sleep(0.03)


def remove_cgroups(seconds: float = 10) -> None:
    """Removes our cgroups; a group stays busy for a moment after its last process."""
    deadline = time.monotonic() + seconds
    while groups := cgroups():
        for group in groups:
            try:
                group.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
        time.sleep(0.03)


@contextmanager
def exclusive(folder: Path, seconds: float = 300) -> Iterator[None]:
    """One `up` or `down` at a time. An abstract socket: the kernel frees it however the holder ends, no file stays."""
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX) as lock:
        while True:
            try:
                lock.bind(f"\0torchscript-cluster:{folder}")
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    msg = f"another `up` or `down` has been at work for {seconds:.0f} s"
                    raise ClusterError(msg) from error
            time.sleep(0.2)
        yield


def require_root() -> None:
    """Network, mounts and cgroups need it."""
    if os.geteuid() != 0:
        raise ClusterError("the cluster needs root: run the command with sudo")


def parent_of(folder: Path) -> Path | None:
    """The folder above the default state folder, when it is empty: ours to delete as well."""
    parent = folder.parent
    default = "TSM_CLUSTER_DIR" not in os.environ and folder == paths.state()
    return parent if default and parent.exists() and not any(parent.iterdir()) else None


def _hierarchies() -> list[Path]:
    """Version 2's only one, or each of version 1's; beside these, version 2's own where both are mounted."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return sorted({path.resolve() for path in _CGROUPS.iterdir() if (path / "cgroup.procs").exists()})


def _members(group: Path) -> list[int]:
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []  # removed meanwhile
