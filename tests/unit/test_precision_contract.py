"""Precision between the spec, the Job's request, its outcome and the status."""

import pytest

from tests.unit import workers
from tests.unit.world import World


def spec(**target: object) -> dict[str, object]:
    return {
        "source": {"s3": {"uri": "s3://models/minilm"}},
        "task": "feature-extraction",
        "artifact": {"uri": "s3://artifacts/models"},
        "targets": [{"name": "cpu", **target}],
    }


def request_of(**target: object) -> dict[str, object]:
    (job,) = World(spec(**target)).step().create
    (container,) = job["spec"]["template"]["spec"]["containers"]
    text = next(entry["value"] for entry in container["env"] if entry["name"] == "TSM_EXPORT_REQUEST")
    return workers.parsed(text)


def test_bounds_that_the_user_does_not_give_are_left_to_the_worker() -> None:
    assert request_of()["parity"] == {"policy": "Enforce"}


@pytest.mark.parametrize(("precision", "budget"), [("float32", None), ("bfloat16", None), ("int8", 60), ("auto", 60)])
def test_budget_of_a_search_is_asked_for_only_where_there_is_one(precision: str, budget: int | None) -> None:
    compilation = request_of(precision=precision, precisionSearchSeconds=60)["compilation"]

    assert isinstance(compilation, dict)
    assert (compilation["precision"], compilation.get("searchSeconds")) == (precision, budget)


def test_a_search_takes_two_minutes_unless_told_otherwise() -> None:
    assert request_of(precision="auto")["compilation"]["searchSeconds"] == 120  # type: ignore[index]


def test_candidates_of_the_outcome_are_in_the_status() -> None:
    world = World(spec(precision="auto"))
    world.step()
    rows = [
        {"precision": "bfloat16", "packed": True, "threads": 2, "textsPerSecond": "120.0", "verdict": "Passed"},
        {"precision": "int8", "keptLayers": 3, "minimumCosineSimilarity": "0.88", "verdict": "Failed"},
    ]
    world.export_ends(workers.proven(precision="bfloat16", candidates=[{**rows[0], "chosen": True}, rows[1]]))

    world.step()

    (target,) = world.body["status"]["targets"]
    assert target["precision"] == "bfloat16"
    assert [(row["precision"], row["packed"], row["chosen"]) for row in target["candidates"]] == [
        ("bfloat16", True, True),
        ("int8", False, False),
    ]
    assert target["candidates"][1]["minimumCosineSimilarity"] == "0.88"
    assert target["candidates"][1]["keptLayers"] == 3
