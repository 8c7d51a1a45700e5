"""How many threads to compute with: the container's CPU limit, which torch itself does not see."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUP_ROOT = Path("/sys/fs/cgroup")
"""Where both versions of the cgroup file system are mounted."""
PROC_CGROUP = Path("/proc/self/cgroup")
"""This process's groups, one a line."""


def cpu_limit(root: Path = CGROUP_ROOT, membership: Path = PROC_CGROUP) -> float | None:
    """The smallest CPU quota, in cores, of this process's cgroup and the groups above it; None when unlimited.

    Reads cgroup v2 (cpu.max) and v1 (cpu.cfs_quota_us over cpu.cfs_period_us). What cannot be read limits nothing.
    """
    quotas = [quota for folder in _folders(root, membership) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def compute_threads(limit: float | None, available: int) -> int:
    """Whole threads that fit under a limit in cores, at least 1: a part of a core more would only be throttled."""
    return available if limit is None else max(1, min(available, int(limit)))


def available_threads() -> int:
    """Compute threads for this process: its CPU affinity under its cgroup's quota."""
    return compute_threads(cpu_limit(), len(os.sched_getaffinity(0)))


def _folders(root: Path, membership: Path) -> Iterator[Path]:
    for line in _read(membership).splitlines():
        _, controllers, group = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        mounts = [root] if not controllers else [root / controllers, root / "cpu"]
        for mount in mounts:
            # In a cgroup namespace the group reads "/" and only the mount itself exists.
            for part in (PurePosixPath(group), *PurePosixPath(group).parents):
                yield mount / str(part).lstrip("/")


def _quota(folder: Path) -> float | None:
    fields = _read(folder / "cpu.max").split() or [
        _read(folder / "cpu.cfs_quota_us").strip(),
        _read(folder / "cpu.cfs_period_us").strip(),
    ]
    try:
        quota, period = int(fields[0]), int(fields[1])
    except (ValueError, IndexError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
