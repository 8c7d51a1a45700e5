"""Builds the project's images on a bare Debian machine: no Docker, no registry, a base made by mmdebstrap.

`python -m tests.cluster.images build` is all that is needed. An image's tag is a hash of what went into it, so that
what has not changed costs nothing. Layers stay uncompressed from here to the node: their digests are then known
beforehand, and those that are there already need not even be read.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
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

from tests.cluster import package_index, packages
from tests.cluster.image_store import BuildError, ImageArchive, Layout, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REPOSITORY = Path(__file__).parents[2]
"""The checkout: the build context of every Dockerfile in `images/`."""

SUITE = "bookworm"
"""Debian's release with Python 3.11, as in the Dockerfiles' public base."""

BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates", "binutils")
"""What the Dockerfiles expect of a base image; binutils is for PRUNE_CUDA."""

BASE_WITHOUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
"""Files that dpkg leaves out."""

KINDS = ("operator", "worker")
"""The folders of `images/` that are built here."""

_RECIPE = json.dumps([SUITE, BASE_PACKAGES, BASE_WITHOUT])

_KEPT = 2
"""Images of a kind that stay in the cache: switching between two branches builds nothing."""


@dataclass(frozen=True)
class Builder:
    """Where images are made and kept; everything is below `root`, so that deleting it undoes everything."""

    root: Path
    prefix: str = "localhost/torchscript-operator"
    """Before the kind in an image's name. `localhost` is never looked up in a registry."""
    checkout: Path | None = None
    """Where the sources are, such as those of another release; this checkout when absent."""

    @property
    def layout(self) -> Layout:
        """The finished images: one OCI layout, whose layers they share."""
        return Layout(self.root / "layout")

    def build(self, kind: str) -> ImageArchive:
        """The image of `images/<kind>/Dockerfile` for the sources as they are now."""
        if kind not in KINDS:
            raise KeyError(f"no image {kind!r}; there are {', '.join(KINDS)}")
        sources = _sources(kind, self.checkout)
        image = ImageArchive(self.layout, f"{self.prefix}/{kind}:src-{_identity(sources)}")
        if image.exists():
            return image
        packages.install()
        with self._locked():
            if not image.exists():
                started = time.monotonic()
                _say(f"building {image.reference} (a minute when new, seconds when only our code changed)")
                self._rm_all()  # of a build that was killed
                try:
                    self._build(kind, sources, image)
                finally:
                    self._rm_all()  # a step that failed leaves its file system mounted
                self._forget(kind, image)
                _say(f"  built in {time.monotonic() - started:.0f} s")
        return image

    def _build(self, kind: str, sources: dict[str, Path], image: ImageArchive) -> None:
        base = self._base()
        certificates = package_index.certificates()
        wheels = package_index.wheels()
        wheels.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            scratch = Path(folder)
            context = _stage(sources, scratch / "context")
            if _identity({name: context / name for name in sources}) != image.tag.removeprefix("src-"):
                raise BuildError("the sources changed while the build began: run it again")
            secrets = {"pip": scratch / "pip.conf", "uv": scratch / "uv.toml"}
            secrets["pip"].write_text(package_index.index().pip_conf())
            secrets["uv"].write_text(package_index.index().uv_toml())
            if certificates:
                secrets["ca"] = certificates
            command = [
                "build",
                "--layers",
                "--pull-never",
                "--build-arg",
                f"BASE_IMAGE={base}",
                "--tag",
                image.reference,
            ]
            command += ["--file", str(context / f"images/{kind}/Dockerfile")]
            command += ["--volume", f"{wheels}:{package_index.WHEELS}"]
            for name, path in secrets.items():
                command += ["--secret", f"id={name},src={path}"]
            if kind == "worker":
                command += ["--build-arg", "PRUNE_CUDA=true"]
            self._buildah(*command, str(context))
        self.layout.add(f"[overlay@{self._storage}+{self._runroot}]{image.reference}", image.reference)

    def _base(self) -> str:
        """Our base image's name, made when it is not there: Debian's minimal system with Python."""
        name = f"{self.prefix}/base:{hashlib.sha256(_RECIPE.encode()).hexdigest()[:12]}"
        if self._buildah("images", "--quiet", "--filter", f"reference={name}", quiet=True):
            return name
        _say(f"  making the base image with mmdebstrap (half a minute): {SUITE}, {', '.join(BASE_PACKAGES)}")
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            tar = Path(folder) / "base.tar"
            options = [f"--dpkgopt=path-exclude={pattern}" for pattern in BASE_WITHOUT]
            include = f"--include={','.join(BASE_PACKAGES)}"
            run(["mmdebstrap", "--quiet", "--variant=minbase", include, *options, SUITE, str(tar)])
            container = self._buildah("from", "scratch", quiet=True)
            try:
                self._buildah("add", "--quiet", container, str(tar), "/", quiet=True)
                self._buildah("commit", "--quiet", container, name, quiet=True)
            finally:
                self._buildah("rm", container, quiet=True)
        return name

    def _forget(self, kind: str, newest: ImageArchive) -> None:
        """Drops the kind's older images: their layers would fill the disk one change at a time."""
        for reference in self.layout.keep(f"{self.prefix}/{kind}", newest.reference, _KEPT):
            subprocess.run([*self._command(), "rmi", reference], capture_output=True, check=False)
        self._buildah("rmi", "--prune", quiet=True)

    def clean(self) -> None:
        """Removes all images and what a killed build left mounted."""
        if self._storage.exists():
            with self._locked():
                self._rm_all()
                self._buildah("rmi", "--all", "--force", quiet=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def _rm_all(self) -> None:
        """Removes buildah's working containers; the storage is ours alone, and locked."""
        self._buildah("rm", "--all", quiet=True)

    @property
    def _storage(self) -> Path:
        return self.root / "storage"

    @property
    def _runroot(self) -> Path:
        return self.root / "run"

    def _command(self) -> list[str]:
        where = ["--root", str(self._storage), "--runroot", str(self._runroot), "--storage-driver", "overlay"]
        return ["buildah", *where]

    def _buildah(self, command: str, *arguments: str, quiet: bool = False) -> str:
        # Of buildah's ways to run a step, chroot is the only one that needs no rights beyond root's.
        environment = os.environ | {"BUILDAH_ISOLATION": "chroot"}
        policy = ["--signature-policy", str(self.layout.policy())] if command in {"build", "from", "commit"} else []
        return run([*self._command(), command, *policy, *arguments], environment=environment, show=not quiet)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two builds at once would do the same work twice."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def cache() -> Path:
    """Outside the checkout, so that every checkout and `git clean` keeps what took minutes to build."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "torchscript-operator" / "images"


def build_operator() -> ImageArchive:
    """The operator's image for the sources as they are now."""
    return Builder(cache()).build("operator")


def build_worker() -> ImageArchive:
    """The worker's image (export and serve, CPU) for the sources as they are now."""
    return Builder(cache()).build("worker")


def _sources(kind: str, checkout: Path | None = None) -> dict[str, Path]:
    """Exactly what the Dockerfile copies, by path in the context; it is the only list of an image's sources."""
    checkout = checkout or REPOSITORY
    dockerfile = checkout / "images" / kind / "Dockerfile"
    copied = [str(dockerfile.relative_to(checkout))]
    for line in re.findall(r"^COPY (?!--)(.+)$", dockerfile.read_text(), re.MULTILINE):
        copied += line.split()[:-1]
    files: dict[str, Path] = {}
    for name in copied:
        path = checkout / name
        if not path.exists():
            raise BuildError(f"{dockerfile} copies {name}, which does not exist")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                files[str(file.relative_to(checkout))] = file
    return files


def _identity(sources: dict[str, Path]) -> str:
    """Twelve hexadecimal digits that change with any input of the image."""
    digest = hashlib.sha256(_RECIPE.encode())
    for name, path in sorted(sources.items()):
        digest.update(f"{name}\0{path.stat().st_mode & 0o111:o}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _stage(sources: dict[str, Path], context: Path) -> Path:
    """A context of these files, all equally old: buildah's cache looks at times, and a fresh clone has new ones."""
    for name, path in sources.items():
        target = context / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755 if path.stat().st_mode & 0o111 else 0o644)
    for entry in (context, *context.rglob("*")):
        os.utime(entry, (0, 0))
    return context


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the references of what it built, loaded or pushed, one a line."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.images", description=__doc__.splitlines()[0])
    parser.add_argument(
        "action", choices=("build", "load", "push", "clean"), help="load: into the embedded cluster's node"
    )
    parser.add_argument("kind", nargs="?", choices=(*KINDS, "all"), default="all")
    parser.add_argument(
        "--tag-prefix", default=Builder.prefix, help="before the kind in the image's name (%(default)s)"
    )
    parser.add_argument("--repository", help="push: registry and path that get /<kind>:<tag>, as in REGISTRY/team")
    parser.add_argument("--socket", type=Path, help="load: containerd's socket, if not the embedded cluster's")
    options = parser.parse_args(arguments)
    if options.action == "push" and not options.repository:
        parser.error("push needs --repository")
    builder = Builder(cache(), options.tag_prefix)
    if options.action == "clean":
        builder.clean()
        return 0
    try:
        for kind in KINDS if options.kind == "all" else (options.kind,):
            image = builder.build(kind)
            if options.action == "load":
                image.load(options.socket)
            print(image.push(options.repository) if options.action == "push" else image.reference)
    except RuntimeError as error:
        _say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
