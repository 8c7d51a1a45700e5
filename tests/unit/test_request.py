import pytest
from pydantic import ValidationError

from tests.unit.artifacts import export_request
from torchscript_operator.artifact.request import ExportRequest, FolderSource, HuggingFaceSource, S3Source, Shape


def test_request_survives_the_environment_variable() -> None:
    request = export_request()

    assert ExportRequest.model_validate_json(request.to_json()) == request


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"kind": "HuggingFace", "repository": "owner/name"}, HuggingFaceSource),
        ({"kind": "S3", "uri": "s3://bucket/prefix"}, S3Source),
        ({"kind": "Folder", "path": "/mnt/source"}, FolderSource),
    ],
)
def test_source_is_told_apart_by_its_kind(value: dict[str, str], kind: type) -> None:
    assert isinstance(export_request(source=value).source, kind)


def test_digest_depends_on_what_is_asked() -> None:
    other = export_request(shapes=[{"batch": 2, "sequence": 128}])

    assert export_request().digest() == export_request().digest()
    assert export_request().digest() != other.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": []},
        {"shapes": [{"batch": 0, "sequence": 1}]},
        {"secret": "x"},
        {"schemaVersion": 2},
        {"compilation": {"compiler": "gcc"}},
    ],
)
def test_request_that_this_worker_does_not_understand_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        export_request(**change)


def test_shape_is_named_by_its_sizes() -> None:
    assert Shape(batch=8, sequence=128).name == "b8-s128"
