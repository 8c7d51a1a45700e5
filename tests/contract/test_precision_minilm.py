"""Precision auto on the real all-MiniLM-L6-v2, and int8 on a small model with a layer that 8 bits spoil."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract import tiny
from tests.contract.exporting import make_request
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.artifact.manifest import Candidate, Manifest
from torchscript_operator.artifact.outcome import ExportOutcome
from torchscript_operator.artifact.request import ServeRequest, StoreLocation
from torchscript_operator.export.pipeline import run
from torchscript_operator.export.precision import BFLOAT16_FEATURES, processor_features

SMALL = {"shapes": [{"batch": 4, "sequence": 32}], "parity": {}}


def stored(outcome: ExportOutcome, store: Path) -> tuple[Manifest, dict[str, Any]]:
    root = store / str(outcome.key)
    manifest = Manifest.model_validate_json((root / "manifest.json").read_bytes())
    return manifest, json.loads((root / "report.json").read_text())


def serve(outcome: ExportOutcome, scratch: Path) -> Any:
    """What a pod does before it is Ready: fetch, verify, load, replay, warm up."""
    from torchscript_operator.serve.loading import load
    from torchscript_operator.serve.settings import Settings

    assert outcome.artifact is not None
    location = StoreLocation(uri=outcome.artifact.uri)
    request = ServeRequest(model="tests/model", target="cpu", artifact=location, digest=outcome.artifact.digest)
    return load(request, Settings(scratch=str(scratch)), {}, lambda _: None)


@pytest.fixture(scope="module")
def auto(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportOutcome, Path]:
    """The outcome of an export with precision auto, and its store. No bound is given: the defaults decide."""
    store = tmp_path_factory.mktemp("store")
    compilation = {"precision": "auto", "searchSeconds": 600}
    request = make_request(minilm_folder, store, compilation=compilation, **SMALL)
    outcome = run(request, {}, tmp_path_factory.mktemp("scratch"))
    assert outcome.succeeded, outcome.failure
    return outcome, store


def rows(auto: tuple[ExportOutcome, Path], precision: str) -> list[Candidate]:
    return [row for row in stored(*auto)[0].candidates if row.precision == precision]


def test_whole_model_int8_is_refused(auto: tuple[ExportOutcome, Path]) -> None:
    (whole,) = (row for row in rows(auto, "int8") if not row.kept_layers)

    assert whole.verdict == "Failed"
    assert float(str(whole.minimum_cosine_similarity)) < 0.95
    assert whole.quantized_layers == 36
    assert "cosine" in str(whole.reason)


def test_bfloat16_passes_at_the_default_cosine_where_the_processor_has_it(auto: tuple[ExportOutcome, Path]) -> None:
    verdicts = {row.verdict for row in rows(auto, "bfloat16")}

    if BFLOAT16_FEATURES.intersection(processor_features()):
        assert verdicts == {"Passed"}
        assert all(0.999 <= float(str(row.minimum_cosine_similarity)) < 1 for row in rows(auto, "bfloat16"))
    else:
        assert verdicts == {"NotAvailable"}


def test_float32_is_measured_as_traced_and_packed(auto: tuple[ExportOutcome, Path]) -> None:
    assert {(row.packed, row.verdict) for row in rows(auto, "float32")} == {(False, "Passed"), (True, "Passed")}


def test_what_is_taken_is_the_fastest_that_passes(auto: tuple[ExportOutcome, Path]) -> None:
    manifest, _ = stored(*auto)

    passed = [row for row in manifest.candidates if row.verdict == "Passed"]
    assert manifest.candidates[0] == max(passed, key=lambda row: float(str(row.texts_per_second)))
    assert [row.chosen for row in manifest.candidates].count(True) == 1
    assert (manifest.precision, manifest.frozen, manifest.packed, manifest.threads) == (
        manifest.candidates[0].precision,
        manifest.candidates[0].frozen,
        manifest.candidates[0].packed,
        manifest.candidates[0].threads,
    )
    assert manifest.parity.verdict == "Passed"


def test_outcome_and_report_have_the_table(auto: tuple[ExportOutcome, Path]) -> None:
    manifest, report = stored(*auto)

    assert [row.precision for row in auto[0].candidates] == [row.precision for row in manifest.candidates]
    assert auto[0].precision == manifest.precision
    assert len(report["manifest"]["candidates"]) == len(manifest.candidates)
    page = (auto[1] / str(auto[0].key) / "report.html").read_text()
    assert "Forms that were measured" in page


def test_bounds_are_those_of_the_precision_that_was_taken(auto: tuple[ExportOutcome, Path]) -> None:
    manifest, _ = stored(*auto)

    expected = {"float32": "1e-4", "bfloat16": "0.25"}[manifest.precision]
    assert manifest.parity.tolerances.absolute_tolerance == expected


def test_pod_serves_what_was_taken(auto: tuple[ExportOutcome, Path], tmp_path: Path) -> None:
    """A replay that differs would be an error."""
    assert serve(auto[0], tmp_path).manifest.precision == auto[0].precision


@pytest.fixture
def outlier_folder(tmp_path: Path) -> Path:
    """A random BERT whose first feed-forward layer has a few huge inputs, beside which 8 bits see nothing else."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tiny.write_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    before = "encoder.layer.0.intermediate.dense"
    weights[f"{before}.weight"][:2] = 0
    weights[f"{before}.bias"][:2] = 3000.0
    weights[name][:, :2] = torch.tensor([[1.0, -1.0]]) * weights[name][:, :1]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_int8_leaves_the_layer_that_breaks_parity_in_float32(outlier_folder: Path, tmp_path: Path) -> None:
    parity = {"minimumCosineSimilarity": "0.99", "absoluteTolerance": "1"}
    store = tmp_path / "store"
    request = make_request(
        outlier_folder, store, compilation={"precision": "int8", "searchSeconds": 120}, parity=parity
    )

    outcome = run(request, {}, tmp_path / "scratch")

    assert outcome.succeeded, outcome.failure
    manifest, _ = stored(outcome, store)
    assert "model.encoder.layer.0.output.dense" in manifest.kept_layers
    assert 0 < manifest.candidates[0].quantized_layers < 12
    assert {(row.verdict, bool(row.kept_layers)) for row in manifest.candidates} >= {
        ("Failed", False),
        ("Passed", True),
    }
    assert serve(outcome, tmp_path / "pod").manifest.precision == "int8"


def test_int8_that_never_passes_fails_with_its_table(tiny_folder: Path, tmp_path: Path) -> None:
    compilation = {"precision": "int8", "searchSeconds": 60}
    parity = {"minimumCosineSimilarity": "0.9999999"}

    outcome = run(make_request(tiny_folder, tmp_path / "store", compilation=compilation, parity=parity), {}, tmp_path)

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.PARITY_FAILED
    assert {row.verdict for row in outcome.candidates} == {"Failed"}
    assert not list((tmp_path / "store").rglob("manifest.json"))


def test_bounds_that_are_given_refuse_what_rounds_too_much(tiny_folder: Path, tmp_path: Path) -> None:
    request = make_request(tiny_folder, tmp_path / "store", compilation={"precision": "bfloat16"})

    outcome = run(request, {}, tmp_path / "scratch")

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.PARITY_FAILED


def test_bfloat16_is_half_the_size_and_passes_its_own_bounds(tiny_folder: Path, tmp_path: Path) -> None:
    sizes = {}
    for precision in ("float32", "bfloat16"):
        store = tmp_path / precision
        request = make_request(tiny_folder, store, compilation={"precision": precision}, parity={})
        outcome = run(request, {}, tmp_path / "scratch")
        assert outcome.succeeded, outcome.failure
        sizes[precision] = next(entry.size_bytes for entry in stored(outcome, store)[0].files if entry.role == "model")
        assert serve(outcome, tmp_path / f"{precision}-pod").manifest.precision == precision

    assert sizes["bfloat16"] < sizes["float32"]
