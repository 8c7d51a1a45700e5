"""Image archives (OCI layout) of static programs, written directly: no image builder for what is one file."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_NAME = "org.opencontainers.image.ref.name"

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
"""The image format's name of this machine's processor."""


def scratch_image(
    name: str,
    files: Mapping[str, Path | str | bytes],
    entrypoint: Sequence[str],
    *,
    archive: Path,
    user: str = "65532:65532",
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Writes an image with nothing but `files` (path in the image to a file, a link's target or bytes).

    `name` is complete, as in `localhost/coredns:v1`. The same input gives the same bytes and digests.
    """
    layer = _layer(files)
    config = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {
            "User": user,
            "Entrypoint": list(entrypoint),
            "Env": ["PATH=/bin:/", *(f"{k}={v}" for k, v in (environment or {}).items())],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs: dict[str, bytes] = {}

    def add(kind: str, content: bytes) -> dict[str, object]:
        blobs[f"blobs/sha256/{_digest(content).removeprefix('sha256:')}"] = content
        return {"mediaType": kind, "digest": _digest(content), "size": len(content)}

    manifest = add(
        _MANIFEST,
        _json(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": add(_CONFIG, _json(config)),
                "layers": [add(_LAYER, layer)],
            }
        ),
    )
    blobs["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
    blobs["index.json"] = _json(
        {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [manifest | {"annotations": {_NAME: name}}]}
    )
    archive.parent.mkdir(parents=True, exist_ok=True)
    scratch = archive.with_suffix(".part")
    with tarfile.open(scratch, "w") as tar:
        for path, content in blobs.items():
            tar.addfile(_entry(path, size=len(content)), io.BytesIO(content))
    scratch.rename(archive)
    return archive


def describe(archive: Path) -> tuple[str, str]:
    """An OCI archive's image name and config digest, read without unpacking its layers."""
    try:
        with tarfile.open(archive, "r:") as tar:
            entry = _member(tar, "index.json")["manifests"][0]
            manifest = _member(tar, f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}")
            return entry.get("annotations", {}).get(_NAME, ""), manifest["config"]["digest"]
    except (KeyError, tarfile.TarError) as error:
        msg = f"{archive} is no OCI archive (buildah writes one to oci-archive:FILE:NAME)"
        raise ValueError(msg) from error


def _member(tar: tarfile.TarFile, path: str) -> Any:
    member = tar.extractfile(path)
    return json.load(member) if member else {}


def _layer(files: Mapping[str, Path | str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in sorted({str(p) for path in files for p in Path(path.lstrip("/")).parents} - {"."}):
            entry = _entry(folder, mode=0o755)
            entry.type = tarfile.DIRTYPE
            tar.addfile(entry)
        for path, source in files.items():
            name = path.lstrip("/")
            if isinstance(source, str):
                entry = _entry(name)
                entry.type, entry.linkname = tarfile.SYMTYPE, source
                tar.addfile(entry)
                continue
            content = source if isinstance(source, bytes) else source.read_bytes()
            mode = 0o755 if isinstance(source, Path) and source.stat().st_mode & 0o100 else 0o644
            tar.addfile(_entry(name, size=len(content), mode=mode), io.BytesIO(content))
    return buffer.getvalue()


def _entry(path: str, *, size: int = 0, mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = size, mode
    return entry


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
