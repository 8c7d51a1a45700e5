import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from torchscript_operator.artifact import digest
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import FolderSource
from torchscript_operator.export import files
from torchscript_operator.export.source import resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "model"
    found.mkdir()
    (found / "config.json").write_text('{"model_type": "bert"}')
    (found / "tokenizer.json").write_text("{}")
    save_file({"weight": np.ones((4, 4), dtype=np.float32)}, found / "model.safetensors")
    return found


def files_digest(folder: Path) -> str:
    return resolve(FolderSource(path=str(folder)), folder.parent / "scratch", {}).identity.files_digest


def test_identity_is_the_digest_of_the_files_that_are_read(folder: Path) -> None:
    names = ("config.json", "model.safetensors", "tokenizer.json")

    assert files_digest(folder) == digest.of_value({name: digest.of_file(folder / name) for name in names})


def test_file_that_is_not_read_does_not_change_the_identity(folder: Path) -> None:
    before = files_digest(folder)
    (folder / "README.md").write_text("text")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")

    assert files_digest(folder) == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "vocab.txt", "1_Pooling/config.json"])
def test_file_that_is_read_changes_the_identity(folder: Path, name: str) -> None:
    before = files_digest(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text('{"model_type": "roberta"}')

    assert files_digest(folder) != before


def test_file_that_is_replaced_while_others_are_read_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_file = digest.of_file

    def of_file_and_replace(path: Path) -> str:
        found = of_file(path)
        if path.name == "model.safetensors":
            (folder / "config.json").write_text('{"model_type": "roberta"}')
        return found

    monkeypatch.setattr(digest, "of_file", of_file_and_replace)
    with pytest.raises(WorkerError, match=r"config\.json") as caught:
        files_digest(folder)
    assert caught.value.reason is FailureReason.SOURCE_CHANGED


@pytest.mark.parametrize("name", ["config.json", "vocab.txt"])
def test_folder_that_changes_after_it_was_read_is_told_when_asked(folder: Path, tmp_path: Path, name: str) -> None:
    found = resolve(FolderSource(path=str(folder)), tmp_path / "scratch", {})
    (folder / "README.md").write_text("what is not read does not matter")
    found.check()
    (folder / name).write_text("{}")
    with pytest.raises(WorkerError, match=name) as caught:
        found.check()
    assert caught.value.reason is FailureReason.SOURCE_CHANGED


def test_folder_source_is_read_where_it_is(folder: Path, tmp_path: Path) -> None:
    found = resolve(FolderSource(path=str(folder)), tmp_path / "scratch", {})

    assert found.folder == folder
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("model.safetensors", True),
        ("model-00001-of-00002.safetensors", True),
        ("sentencepiece.bpe.model", True),
        ("1_Pooling/config.json", True),
        ("model.fp16.safetensors", False),
        ("adapter_model.safetensors", False),
        ("pytorch_model.bin", False),
        ("onnx/config.json", False),
        ("a/b/config.json", False),
        ("modeling_custom.py", False),
    ],
)
def test_names_that_are_read(name: str, read: bool) -> None:
    assert files.matches(name, files.READ) is read


def broken_header(length: int, header: bytes) -> bytes:
    return struct.pack("<Q", length) + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        broken_header(1 << 60, b"{}"),
        broken_header(2, b"[]"),
        broken_header(2, b"{"),
        broken_header(17, b'{"weight": "text"}'[:17]),
        broken_header(2, b"{}") + b"more",
    ],
)
def test_damaged_weights_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)

    with pytest.raises(WorkerError, match=r"model\.safetensors is damaged") as caught:
        files_digest(folder)

    assert caught.value.reason is FailureReason.SOURCE_INVALID


def test_index_and_its_shards_are_whole(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    assert files_digest(folder)
