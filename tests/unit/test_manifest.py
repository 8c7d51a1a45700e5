import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.unit.artifacts import manifest, write_files
from torchscript_operator.artifact.manifest import Manifest


def test_encoded_manifest_reads_back_the_same(tmp_path: Path) -> None:
    written = manifest(write_files(tmp_path))

    assert Manifest.model_validate_json(written.encode()) == written


def test_manifest_of_before_there_were_packed_forms_is_read() -> None:
    value = json.loads(manifest().encode())
    del value["packed"]

    assert not Manifest.model_validate(value).packed


def test_encoding_is_canonical() -> None:
    encoded = manifest().encode()

    assert (
        encoded == json.dumps(json.loads(encoded), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )


def test_file_lies_below_its_digest(tmp_path: Path) -> None:
    entry = write_files(tmp_path)[0]

    assert entry.path == f"{entry.sha256}/model.pt"


def test_unknown_field_is_refused() -> None:
    value = json.loads(manifest().encode()) | {"createdAt": "now"}

    with pytest.raises(ValidationError, match="createdAt"):
        Manifest.model_validate(value)
