"""Debian bookworm's own torch 1.13.1 with the requirements of images/neuron: real, and nearly what Inf1's image holds.

A root folder made by mmdebstrap, in the user's cache and so made once: a minute, most of it unpacking. Needs root, for
chroot. What differs from the image is Python (3.11 in place of 3.10), the build of torch, and that no Neuron is there.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cluster import packages

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "images/neuron/requirements.txt"
SUITE = "bookworm"
DEBIAN = ("python3-torch", "libopenblas0-pthread")
NUMPY = "numpy==1.26.4"
"""The image's is that of its base; torch 1.13.1 wants one below 2."""
EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/include/*")
SITE = "/opt/site"
PACKAGE = "/opt/package"
ENTER = 'mount --bind /proc "$0/proc" && exec /usr/sbin/chroot "$0" "$@"'
"""Torch counts processors by /proc; the mount is of a name space that ends with the process."""


def identity() -> str:
    """Changes with everything that goes into the root."""
    what = repr((SUITE, DEBIAN, NUMPY, EXCLUDED)).encode() + REQUIREMENTS.read_bytes()
    return hashlib.sha256(what).hexdigest()[:12]


def root() -> Path:
    """The root folder; made where it is missing."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchscript-operator"
    base.mkdir(parents=True, exist_ok=True)
    found = base / f"old-torch-{identity()}"
    with (base / ".old-torch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            for old in base.glob("old-torch-*"):
                shutil.rmtree(old)
            _make(found)
    return found


def _make(found: Path) -> None:
    packages.install()
    made = Path(tempfile.mkdtemp(prefix=".old-torch-", dir=found.parent))
    try:
        options = [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
        _run(
            ["mmdebstrap", "--quiet", "--variant=minbase", *options, f"--include={','.join(DEBIAN)}", SUITE, str(made)]
        )
        install = [uv(), "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--link-mode=copy"]
        install += ["--python-version=3.11", "--python-platform=x86_64-manylinux_2_28", f"--target={made}{SITE}"]
        _run([*install, "--require-hashes", "-r", str(REQUIREMENTS)])
        _run([*install, NUMPY])
        made.chmod(0o755)
        made.rename(found)  # what was interrupted is never taken for a whole one
    finally:
        shutil.rmtree(made, ignore_errors=True)


def uv() -> str:
    """The program that makes environments of Python. FileNotFoundError where it is not there."""
    built = ROOT / "build/uv/bin/uv"
    found = str(built) if built.exists() else shutil.which("uv")
    if found is None:
        msg = "uv is not there: run `make venv`"
        raise FileNotFoundError(msg)
    return found


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"{command[0]} failed:\n{done.stderr[-2000:]}"
        raise RuntimeError(msg)


def install_rooms(at: Path) -> None:
    """Copy the worker's rooms into a root, as the image's Dockerfile does."""
    target = at / PACKAGE.lstrip("/") / "torchscript_operator"
    shutil.rmtree(target, ignore_errors=True)
    rooms = ROOT / "operator/torchscript_operator"
    target.mkdir(parents=True)
    shutil.copy2(rooms / "__init__.py", target)
    for room in ("artifact", "export", "serve"):
        shutil.copytree(rooms / room, target / room, ignore=shutil.ignore_patterns("__pycache__"))


def python(
    at: Path, arguments: Sequence[str], environment: Mapping[str, str], path: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run Debian's Python inside a root, with nothing of this machine's environment; `path` goes first on its path."""
    variables = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": ":".join(filter(None, (path, PACKAGE, SITE))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        **environment,
    }
    command = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", ENTER, str(at), "/usr/bin/python3", *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=300)
