"""The Debian packages that a node needs, installed when a command of theirs is missing."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

WHAT_NEEDS_WHAT: dict[str, str] = {
    "/usr/bin/containerd": "containerd",
    "/usr/sbin/runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "/usr/sbin/nft": "nftables",
    "/usr/sbin/conntrack": "conntrack",
    "/usr/bin/busybox": "busybox-static",
    "/usr/bin/openssl": "openssl",
    "/usr/bin/mount": "mount",
    "/usr/sbin/ip": "iproute2",
    "/usr/sbin/ethtool": "ethtool",
    "/usr/bin/buildah": "buildah",
    "/usr/bin/mmdebstrap": "mmdebstrap",
    "/usr/bin/skopeo": "skopeo",
}
"""A file, and the package that brings it. buildah, mmdebstrap and skopeo are for the images that `images.py` makes."""

_POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian asks it whether a package may start its service; 101 means no."""

_LOCK = Path(tempfile.gettempdir(), "torchscript-operator-packages.lock")
_REFUSAL = "#!/bin/sh\nexit 101\n"


def missing() -> list[str]:
    """Packages whose file is not there."""
    return sorted({package for file, package in WHAT_NEEDS_WHAT.items() if not _present(file)})


def require(package: str, file: str) -> None:
    """Installs a package that something other than a node needs, where its file is missing."""
    if not _present(file):
        with _alone():
            # Another process may have installed it meanwhile.
            if not _present(file):
                _install([package])
    if not _present(file):
        msg = f"installed, but {package} has not brought {file}"
        raise RuntimeError(msg)


def install() -> None:
    """Installs what is missing, without starting a containerd of Debian's beside ours."""
    if missing():
        with _alone():
            if wanted := missing():
                _install(wanted)
    if still := missing():
        msg = f"installed, but these packages' files are not where Debian puts them: {', '.join(still)}"
        raise RuntimeError(msg)


@contextmanager
def _alone() -> Iterator[None]:
    """Wait for other tests' processes that install: apt-get has no patience with itself, and the policy is shared."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(wanted: list[str]) -> None:
    if shutil.which("apt-get") is None:
        msg = f"this machine has no apt-get: install {', '.join(wanted)} (Debian's names) by hand"
        raise RuntimeError(msg)
    if os.geteuid() != 0:
        msg = f"run as root, or install {', '.join(wanted)} first"
        raise RuntimeError(msg)
    print(f"installing {', '.join(wanted)} (about half a minute)", file=sys.stderr, flush=True)
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text(_REFUSAL)
        _POLICY.chmod(0o755)
    try:
        _apt("update")
        _apt("install", "-y", "--no-install-recommends", *wanted)
    finally:
        if ours:
            _POLICY.unlink()


def _present(file: str) -> bool:
    return Path(file).exists() or shutil.which(Path(file).name) is not None


def _apt(*arguments: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"apt-get {arguments[0]} failed:\n{(done.stdout + done.stderr)[-2000:]}"
        raise RuntimeError(msg)
