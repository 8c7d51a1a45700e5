"""Finished images on disk (an OCI layout), and their way from there into a node or a registry."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tests.cluster import paths, scratch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

_NAME = "org.opencontainers.image.ref.name"
"""The annotation that names an image in an OCI layout."""

_POLICY = {"default": [{"type": "insecureAcceptAnything"}]}
"""Of signatures: the images are our own, and the machine may have no policy at all."""


class BuildError(RuntimeError):
    """An image could not be made or moved; the message says what to do."""


@dataclass(frozen=True)
class Layout:
    """A folder in the OCI image layout. Images share their layers, so that a change of our code adds kilobytes."""

    folder: Path

    def policy(self) -> Path:
        """A signature policy for the image tools, so that the machine's own is neither needed nor touched."""
        path = self.folder.parent / "policy.json"
        path.write_text(json.dumps(_POLICY))
        return path

    def add(self, stored: str, reference: str) -> None:
        """Copies an image here from a container storage; layers that are here already cost nothing."""
        accept = "--dest-oci-accept-uncompressed-layers"
        source, target = f"containers-storage:{stored}", f"oci:{self.folder}:{reference}"
        run(["skopeo", "copy", "--quiet", "--policy", str(self.policy()), accept, source, target])

    def entries(self) -> list[dict[str, Any]]:
        """Descriptors of the images, oldest first."""
        index = self.folder / "index.json"
        return json.loads(index.read_text())["manifests"] if index.exists() else []

    def find(self, reference: str) -> dict[str, Any] | None:
        """The image's descriptor, if it is here."""
        return next((entry for entry in self.entries() if entry.get("annotations", {}).get(_NAME) == reference), None)

    def blob(self, digest: str) -> Path:
        """The file of a manifest, configuration or layer."""
        return self.folder / "blobs" / digest.replace(":", "/")

    def blobs(self, entry: Mapping[str, Any]) -> list[str]:
        """Digests of all that the image consists of, its manifest first."""
        manifest = json.loads(self.blob(entry["digest"]).read_text())
        return [entry["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]

    def keep(self, name: str, newest: str, count: int) -> list[str]:
        """Drops images called `name` but `newest` and the `count - 1` before it, and layers without an image."""
        entries = self.entries()
        named = [
            e["annotations"][_NAME] for e in entries if e.get("annotations", {}).get(_NAME, "").startswith(f"{name}:")
        ]
        older = [reference for reference in named if reference != newest]
        gone = set(older[: max(0, len(older) - (count - 1))])
        kept = [entry for entry in entries if entry.get("annotations", {}).get(_NAME) not in gone]
        index = json.loads((self.folder / "index.json").read_text()) | {"manifests": kept}
        unfinished = self.folder / ".index.json"
        unfinished.write_text(json.dumps(index))
        unfinished.rename(self.folder / "index.json")
        used = {self.blob(digest) for entry in kept for digest in self.blobs(entry)}
        for blob in (self.folder / "blobs/sha256").iterdir():
            if blob not in used:
                blob.unlink()
        return sorted(gone)


@dataclass(frozen=True)
class ImageArchive:
    """One finished image."""

    layout: Layout
    reference: str
    """Its whole name, such as `localhost/torchscript-operator/worker:src-0123456789ab`."""

    @property
    def repository(self) -> str:
        """The name without the tag, for a chart's values."""
        return self.reference.rpartition(":")[0]

    @property
    def tag(self) -> str:
        """The tag, which changes with the image's sources."""
        return self.reference.rpartition(":")[2]

    def exists(self) -> bool:
        """Whether it is built, whole."""
        entry = self.layout.find(self.reference)
        return entry is not None and all(self.layout.blob(digest).exists() for digest in self.layout.blobs(entry))

    def size(self) -> int:
        """Bytes of all its layers."""
        return sum(self.layout.blob(digest).stat().st_size for digest in self.layout.blobs(self._entry()))

    def write(self, output: IO[bytes], without: Collection[str] = ()) -> None:
        """The image as an OCI archive; `without` names blobs that the reader has."""
        entry = self._entry()
        index = {"schemaVersion": 2, "manifests": [entry]}
        with tarfile.open(fileobj=output, mode="w|", bufsize=1 << 20) as tar:
            for name, content in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", index)):
                data = json.dumps(content).encode()
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            for digest in self.layout.blobs(entry):
                # containerd reads the manifest from the archive even if it has it.
                if digest not in without or digest == entry["digest"]:
                    tar.add(self.layout.blob(digest), f"blobs/{digest.replace(':', '/')}")

    def archive(self, file: Path) -> Path:
        """Writes the whole image to a file, for `load-image` or another machine."""
        with file.open("wb") as output:
            self.write(output)
        return file

    def load(self, socket: Path | None = None) -> None:
        """Into the node's containerd, sending only the layers that it lacks; nothing to do when it has the image."""
        ctr = ["ctr", "--address", str(socket or paths.containerd_socket()), "--namespace", "k8s.io"]
        if f" {self._entry()['digest']} " in run([*ctr, "images", "ls", f"name=={self.reference}"]):
            return
        started = time.monotonic()
        have = set(run([*ctr, "content", "ls", "--quiet"]).split())
        if failed := self._import(ctr, have):
            # What it had may have been collected in between: once more with everything.
            failed = self._import(ctr, ())
            if failed:
                raise BuildError(f"containerd did not take {self.reference}: {failed}")
        print(f"loaded {self.reference} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    def push(self, repository: str) -> str:
        """To a registry, for a cluster that is not ours, with the machine's own credentials; returns the new name."""
        return _push(f"oci:{self.layout.folder}:{self.reference}", self.reference, repository, self.layout.policy())

    def _import(self, ctr: Sequence[str], without: Collection[str]) -> str:
        """The error's text, empty when it worked."""
        with subprocess.Popen(
            [*ctr, "images", "import", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            try:
                self.write(process.stdin, without)
                process.stdin.close()
            except BrokenPipeError:
                pass  # its message says why
            message = process.stderr.read().decode(errors="replace")
        return message.strip() or "unknown" if process.returncode else ""

    def _entry(self) -> dict[str, Any]:
        entry = self.layout.find(self.reference)
        if entry is None:
            raise BuildError(f"{self.reference} is not built: `python -m tests.cluster.images build`")
        return entry


def push_archive(file: Path, repository: str) -> str:
    """An OCI archive to a registry; its new name there."""
    name, _ = scratch.describe(file)
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.json"
        policy.write_text(json.dumps(_POLICY))
        return _push(f"oci-archive:{file}", name, repository, policy)


def _push(source: str, reference: str, repository: str, policy: Path) -> str:
    target = f"{repository.rstrip('/')}/{reference.rpartition('/')[2]}"
    host = target.partition("/")[0]
    options = ["--policy", str(policy)]
    if host.partition(":")[0] in {"localhost", "127.0.0.1"}:
        # A registry on this machine, such as kind's, has no certificate; Docker makes the same exception. Nothing is
        # saved by compressing what no network carries.
        options += ["--dest-tls-verify=false", "--preserve-digests"]
    try:
        run(["skopeo", "copy", *options, source, f"docker://{target}"], show=True)
    except BuildError as error:
        raise BuildError(
            f"{host} did not take {target}: {error}\n"
            f"Next: `skopeo login {host}` (or `docker login`) as somebody who may push there. Some registries want "
            "each repository to be made first; one without a certificate is taken on this machine's localhost only."
        ) from error
    return target


def run(command: Sequence[str], environment: Mapping[str, str] = os.environ, *, show: bool = False) -> str:
    """The command's output, stripped. `show` passes it on line by line; a failure carries its end."""
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if show else subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        package = {"ctr": "containerd"}.get(command[0], command[0])
        raise BuildError(f"no {command[0]} on this machine: `apt-get install {package}`") from error
    with process:
        if show:
            assert process.stdout is not None
            output = errors = "".join(_echoed(process.stdout))
        else:
            output, errors = process.communicate()
    if process.returncode:
        raise BuildError(f"{command[0]} failed:\n" + "\n".join(errors.splitlines()[-25:]))
    return output.strip()


def _echoed(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        print(f"    {line.rstrip()[:160]}", file=sys.stderr, flush=True)
        yield line
