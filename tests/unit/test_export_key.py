import typing
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tests.unit.artifacts import TOLERANCES, export_request
from torchscript_operator.artifact.request import ExportRequest
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
    ("precision", "same"), [("float32", True), ("bfloat16", True), ("int8", False), ("auto", False)]
)
def test_processor_is_part_of_what_is_measured_and_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch, precision: str, same: bool
) -> None:
    keys = []
    for features in (("avx2",), ("avx2", "avx512_bf16")):
        monkeypatch.setattr(key, "processor_features", lambda features=features: features)
        keys.append(of(compilation={"precision": precision}))

    assert (keys[0] == keys[1]) is same


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of every field that is no document itself, down to the last one."""
    for name, field in model.model_fields.items():
        several = typing.get_origin(field.annotation) is tuple
        parts = [field.annotation] if several else [field.annotation, *typing.get_args(field.annotation)]
        nested = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
        if len(nested) == 1:
            yield from fields_of(nested[0], f"{prefix}{name}.")
        else:
            yield prefix + name


DECIMALS = st.decimals("0.0001", "0.9999", places=4).map(str)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "task": st.sampled_from(["feature-extraction", "fill-mask", "token-classification", "text2text-generation"]),
    "parity.absolute_tolerance": DECIMALS,
    "parity.relative_tolerance": DECIMALS,
    "parity.minimum_cosine_similarity": DECIMALS,
    "parity.minimum_agreement": DECIMALS,
    "parity.policy": st.sampled_from(["Enforce", "Warn"]),
    "compilation.compiler": st.sampled_from(["torchscript", "neuron", "neuronx"]),
    "compilation.arguments": st.lists(st.text("-ab1 ", min_size=1, max_size=6), max_size=3).map(tuple),
    "compilation.precision": st.sampled_from(["float32", "bfloat16", "int8", "auto"]),
    "compilation.search_seconds": st.none() | st.integers(1, 3600),
    "trust": st.sampled_from([None, ("RemoteCode",), ("PickleWeights",), ("RemoteCode", "PickleWeights")]),
    "proof": st.sampled_from([None, "Deferred"]),
}
"""Fields of the request that decide what is exported, and what they may be."""
BUCKETS = st.sets(st.tuples(st.integers(1, 64), st.integers(1, 512)), min_size=1, max_size=4)
ELSEWHERE = {
    # Of a type with one value.
    "schema_version",
    "shapes",
    # By the digests of what they lead to.
    "source",
    "samples.texts",
    "samples.path",
    "samples.reference",
    # By the versions.
    "worker_image",
}
"""Fields whose part in the key is tested beside the property."""
NO_PART = {"model", "target", "store.uri", "store.endpoint", "store.region", "pending.key", "pending.digest"}
"""Names for people, and places."""


def test_every_field_of_the_request_has_been_decided_on() -> None:
    assert set(fields_of(ExportRequest)) == VALUES.keys() | ELSEWHERE | NO_PART


def with_field(request: ExportRequest, name: str, value: Any) -> ExportRequest:
    outer, _, inner = name.partition(".")
    if not inner:
        return request.model_copy(update={outer: value})
    return request.model_copy(update={outer: getattr(request, outer).model_copy(update={inner: value})})


@given(data=st.data(), name=st.sampled_from(sorted(VALUES)))
@settings(max_examples=300)
def test_any_two_values_of_any_field_have_two_keys(data: st.DataObject, name: str) -> None:
    first, second = data.draw(VALUES[name]), data.draw(VALUES[name])
    request = export_request()
    for other in data.draw(st.sets(st.sampled_from(sorted(VALUES.keys() - {name})))):
        request = with_field(request, other, data.draw(VALUES[other]))

    keys = [key.of_export(with_field(request, name, value), "f", "s", VERSIONS) for value in (first, second)]

    assert (keys[0] == keys[1]) is (first == second)


@given(first=BUCKETS, second=BUCKETS)
def test_any_two_sets_of_shapes_have_two_keys(first: set[tuple[int, int]], second: set[tuple[int, int]]) -> None:
    keys = [
        of(shapes=[{"batch": batch, "sequence": sequence} for batch, sequence in shapes]) for shapes in (first, second)
    ]

    assert (keys[0] == keys[1]) is (first == second)


TEXT = st.text(max_size=8)
DIGESTS = st.tuples(TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=3))


@given(first=DIGESTS, second=DIGESTS)
def test_any_other_source_samples_or_versions_have_another_key(first: Any, second: Any) -> None:
    keys = [key.of_export(export_request(), *given) for given in (first, second)]

    assert (keys[0] == keys[1]) is (first == second)


def test_threads_are_part_of_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: dict[str, set[str]] = {"auto": set(), "int8": set(), "bfloat16": set()}
    for threads in (2, 4):
        monkeypatch.setattr(key, "available_threads", lambda threads=threads: threads)
        for precision, found in keys.items():
            found.add(of(compilation={"precision": precision}))

    assert {precision: len(found) for precision, found in keys.items()} == {"auto": 2, "int8": 2, "bfloat16": 1}


def test_versions_name_the_libraries_and_the_image() -> None:
    found = key.versions("worker@sha256:1", {"compiler": "torchscript 2"})

    assert {"torch", "transformers", "tokenizers", "python", "workerImage", "compiler"} <= set(found)
