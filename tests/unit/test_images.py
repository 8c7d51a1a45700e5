"""What goes into an image and its tag, and what is kept and sent of it; nothing is built here."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.cluster import images, package_index
from tests.cluster.image_store import BuildError, ImageArchive, Layout

if TYPE_CHECKING:
    from pathlib import Path

NAME = "localhost/torchscript-operator/worker"


def put(layout: Layout, content: bytes) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    path = layout.blob(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"digest": digest, "size": len(content)}


def add(layout: Layout, tag: str, *layers: bytes) -> ImageArchive:
    manifest = {"config": put(layout, tag.encode()), "layers": [put(layout, layer) for layer in layers]}
    entry = put(layout, json.dumps(manifest).encode())
    entry["annotations"] = {"org.opencontainers.image.ref.name": f"{NAME}:{tag}"}
    (layout.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [*layout.entries(), entry]}))
    return ImageArchive(layout, f"{NAME}:{tag}")


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "checkout"
    (root / "images/worker").mkdir(parents=True)
    (root / "images/worker/Dockerfile").write_text("FROM x AS y\nCOPY code /code\nCOPY --from=y /a /a\n")
    (root / "code/__pycache__").mkdir(parents=True)
    (root / "code/a.py").write_text("1")
    (root / "code/__pycache__/a.pyc").write_text("compiled")
    (root / "other.py").write_text("2")
    monkeypatch.setattr(images, "REPOSITORY", root)
    return root


@pytest.mark.parametrize("lock", ["operator/requirements.txt", "worker/torch.txt", "worker/requirements.txt"])
def test_images_run_the_versions_that_are_tested(lock: str) -> None:
    pinned = re.compile(r"^([a-z0-9._-]+)==([^\s+]+)", re.MULTILINE)
    tested = dict(pinned.findall((images.REPOSITORY / "tests/requirements.txt").read_text()))
    image = dict(pinned.findall((images.REPOSITORY / "images" / lock).read_text()))
    assert image
    assert image == {name: tested[name] for name in image}


def test_the_operator_has_no_torch() -> None:
    assert "\ntorch==" not in (images.REPOSITORY / "images/operator/requirements.txt").read_text()


def test_sources_are_what_the_dockerfile_copies_without_byte_code(checkout: Path) -> None:
    assert set(images._sources("worker")) == {"images/worker/Dockerfile", "code/a.py"}
    assert checkout.exists()


def test_a_missing_source_is_named(checkout: Path) -> None:
    (checkout / "code/a.py").unlink()
    (checkout / "images/worker/Dockerfile").write_text("COPY gone /x\n")
    with pytest.raises(BuildError, match="gone"):
        images._sources("worker")


def test_the_tag_changes_with_a_source_and_with_nothing_else(checkout: Path) -> None:
    before = images._identity(images._sources("worker"))
    (checkout / "other.py").write_text("3")
    assert images._identity(images._sources("worker")) == before
    (checkout / "code/a.py").write_text("2")
    assert images._identity(images._sources("worker")) != before


def test_an_archive_leaves_out_what_the_node_has(layout: Layout) -> None:
    image = add(layout, "a", b"torch", b"code")
    buffer = io.BytesIO()
    image.write(buffer, without={digest_of(b"torch"), layout.entries()[0]["digest"]})
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        names = tar.getnames()
    assert f"blobs/{digest_of(b'code').replace(':', '/')}" in names
    assert f"blobs/{digest_of(b'torch').replace(':', '/')}" not in names
    assert f"blobs/{layout.entries()[0]['digest'].replace(':', '/')}" in names, "the manifest is always needed"


def test_an_image_without_one_of_its_layers_is_not_there(layout: Layout) -> None:
    image = add(layout, "a", b"torch")
    assert image.exists()
    layout.blob(digest_of(b"torch")).unlink()
    assert not image.exists()


def test_only_the_newest_images_and_their_layers_are_kept(layout: Layout) -> None:
    for tag in ("a", "b", "c"):
        newest = add(layout, tag, b"torch", tag.encode() * 9)
    assert layout.keep(NAME, newest.reference, 2) == [f"{NAME}:a"]
    assert not layout.blob(digest_of(b"a" * 9)).exists()
    assert ImageArchive(layout, f"{NAME}:b").exists()
    assert newest.exists()


def test_indexes_come_from_the_environment_before_files(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://files.example/simple\nextra-index-url =\n  a\n  b\n"
    )
    file = package_index.index({}, tmp_path, tmp_path)
    assert file == package_index.Index("https://files.example/simple", ("a", "b"))
    pip = package_index.index({"PIP_INDEX_URL": "https://pip.example/simple"}, tmp_path, tmp_path)
    assert pip.url == "https://pip.example/simple"
    uv = package_index.index(
        {"PIP_INDEX_URL": "x", "UV_DEFAULT_INDEX": "https://uv.example/simple"}, tmp_path, tmp_path
    )
    assert uv.url == "https://uv.example/simple"


def test_an_index_of_uv_s_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv/uv.toml").write_text('[[index]]\nurl = "cpu"\n[[index]]\nurl = "main"\ndefault = true\n')
    assert package_index.index({}, tmp_path, tmp_path) == package_index.Index("main", ("cpu",))


def test_nothing_configured_names_no_index(tmp_path: Path) -> None:
    found = package_index.index({}, tmp_path, tmp_path)
    assert "index" not in found.pip_conf() + found.uv_toml()


def test_build_settings_round_trip(tmp_path: Path) -> None:
    given = package_index.Index("https://main.example/simple", ("https://cpu.example/simple",), ("main.example",))
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv/uv.toml").write_text(given.uv_toml())
    assert package_index.index({}, tmp_path, tmp_path) == given
    (tmp_path / "uv/uv.toml").unlink()
    (tmp_path / "pip.conf").write_text(given.pip_conf())
    assert package_index.index({}, tmp_path, tmp_path) == given
