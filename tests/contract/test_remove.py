"""The removal Job against a real S3 server."""

import json
from pathlib import Path

from tests.contract.exporting import ExportedArtifact
from tests.contract.s3 import S3Server
from torchscript_operator.artifact import request
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.artifact.store import find_complete
from torchscript_operator.export.remove import main


def run(s3: S3Server, tmp_path: Path, *keys: str, bucket: str = "models", secret: str | None = None) -> int:
    location = s3.location("removal", bucket).model_dump(mode="json")
    variables = s3.variables(request.ARTIFACT_CREDENTIALS_PREFIX, *([secret] if secret else []))
    return main(
        {
            **variables,
            request.REMOVE_VARIABLE: json.dumps({"model": "ml/minilm", "store": location, "keys": keys}),
            request.TERMINATION_LOG_VARIABLE: str(tmp_path / "termination"),
        }
    )


def test_named_artifact_goes_and_its_neighbour_stays(
    s3: S3Server, tiny_artifact: ExportedArtifact, tmp_path: Path
) -> None:
    key = tiny_artifact.result.outcome.key
    assert key is not None
    s3.upload_folder(tiny_artifact.store, "removal")
    neighbour = key[:-1] + ("0" if key[-1] != "0" else "1")
    s3.upload_folder(tiny_artifact.store / key, f"removal/{neighbour}")
    assert find_complete(s3.store("removal"), key) is not None

    assert run(s3, tmp_path, key) == 0

    left = s3.store("removal").list_files()
    assert left
    assert {path.partition("/")[0] for path in left} == {neighbour}
    assert run(s3, tmp_path, key) == 0


def test_wrong_credentials_and_absent_buckets_are_told_apart(s3: S3Server, tmp_path: Path) -> None:
    denied = run(s3, tmp_path, "a" * 64, secret="wrong")  # noqa: S106 -- no secret
    assert denied == CLASSES[FailureReason.STORE_ACCESS_DENIED].exit_code
    assert "wrong" not in (tmp_path / "termination").read_text()
    assert run(s3, tmp_path, "a" * 64, bucket="absent") == CLASSES[FailureReason.STORE_NOT_FOUND].exit_code
