from typing import Any

import pytest

from tests.unit.artifacts import TOLERANCES, export_request
from torchscript_operator.export import key

VERSIONS = {"torch": "2.13.0", "workerImage": "worker@sha256:1"}


def of(files_digest: str = "f", samples: str = "s", versions: dict[str, str] | None = None, **changes: Any) -> str:
    return key.of_export(export_request(**changes), files_digest, samples, versions or VERSIONS)


def tolerances(**changes: str) -> dict[str, str]:
    return TOLERANCES.model_dump(by_alias=True) | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"files_digest": "g"},
        {"samples": "t"},
        {"versions": VERSIONS | {"torch": "2.13.1"}},
        {"versions": VERSIONS | {"workerImage": "worker@sha256:2"}},
        {"task": "fill-mask"},
        {"shapes": [{"batch": 2, "sequence": 128}]},
        {"shapes": [{"batch": 1, "sequence": 64}]},
        {"shapes": [{"batch": 1, "sequence": 128}, {"batch": 2, "sequence": 128}]},
        {"compilation": {"compiler": "neuron"}},
        {"compilation": {"precision": "bfloat16"}},
        {"compilation": {"precision": "auto"}},
        {"compilation": {"precision": "int8", "searchSeconds": 60}},
        {"compilation": {"arguments": ["-O2"]}},
        {"parity": tolerances(absoluteTolerance="1e-3")},
        {"parity": tolerances(relativeTolerance="1e-3")},
        {"parity": tolerances(minimumCosineSimilarity="0.99")},
        {"parity": tolerances(minimumAgreement="0.9")},
        {"parity": tolerances(policy="Warn")},
    ],
)
def test_what_can_change_the_artifact_changes_the_key(changes: dict[str, Any]) -> None:
    assert of(**changes) != of()


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other/name"},
        {"target": "other"},
        {"source": {"kind": "S3", "uri": "s3://elsewhere/model"}},
        {"store": {"uri": "file:///elsewhere"}},
        {"shapes": [{"batch": 1, "sequence": 128}, {"batch": 1, "sequence": 128}]},
    ],
)
def test_where_things_lie_does_not_change_the_key(changes: dict[str, Any]) -> None:
    assert of(**changes) == of()


def test_order_of_shapes_does_not_change_the_key() -> None:
    shapes = [{"batch": 1, "sequence": 128}, {"batch": 2, "sequence": 64}]

    assert of(shapes=shapes) == of(shapes=shapes[::-1])


def test_another_machine_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = of()
    monkeypatch.setattr("platform.machine", lambda: "another")

    assert of() != before


@pytest.mark.parametrize(
    ("precision", "same"), [("float32", True), ("bfloat16", True), ("int8", True), ("auto", False)]
)
def test_processor_is_part_of_what_is_measured_and_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch, precision: str, same: bool
) -> None:
    keys = []
    for features in (("avx2",), ("avx2", "avx512_bf16")):
        monkeypatch.setattr(key, "processor_features", lambda features=features: features)
        keys.append(of(compilation={"precision": precision}))

    assert (keys[0] == keys[1]) is same


def test_versions_name_the_libraries_and_the_image() -> None:
    found = key.versions("worker@sha256:1", {"compiler": "torchscript 2"})

    assert {"torch", "transformers", "tokenizers", "python", "workerImage", "compiler"} <= set(found)
