"""What Prometheus is told of models, and that it goes with them."""

from typing import Any

import pytest

from tests.unit import workers
from tests.unit.world import World, spec
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.controller import census as censuses
from torchscript_operator.controller.census import Census
from torchscript_operator.controller.queue import Key

MINILM = Key("ml", "minilm")


def series(census: Census, name: str) -> dict[tuple[str, ...], float]:
    """A metric's values by the values of its labels."""
    (family,) = [each for each in census.collect() if each.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def told(world: World) -> Census:
    census = Census()
    census.note(MINILM, world.body)
    return census


@pytest.fixture
def serving() -> Census:
    world = World()
    world.serves()
    return told(world)


def test_models_are_counted_by_condition(serving: Census) -> None:
    counts = series(serving, "tsm_models_by_condition")
    assert series(serving, "tsm_models") == {(): 1}
    assert (counts["Ready", "True"], counts["Ready", "False"], counts["Stalled", "False"]) == (1, 0, 1)
    assert len(counts) == 21, "every status of every condition, so that an alert meets no gap"


def test_artifact_has_its_time_and_its_worst_figures(serving: Census) -> None:
    assert series(serving, "tsm_export_duration_seconds") == {("ml/minilm", "cpu"): 42}
    assert series(serving, "tsm_parity_maximum_absolute_difference") == {("ml/minilm", "cpu"): 4.77e-07}
    assert series(serving, "tsm_parity_minimum_cosine_similarity") == {("ml/minilm", "cpu"): 1}


def test_worst_figure_is_that_of_the_worst_output() -> None:
    def row(difference: str, cosine: str) -> dict[str, Any]:
        return {"maximumAbsoluteDifference": difference, "minimumCosineSimilarity": cosine}

    outputs = [row("1e-6", "0.9"), row("2e-3", "0.99"), row("nan", "inf"), row("?", "?")]
    found = censuses.figures({"name": "cpu", "artifact": {}, "parity": {"outputs": outputs}})
    assert found is not None
    assert (found.difference, found.cosine) == (2e-3, 0.9)


def test_model_that_is_well_has_no_series_of_trouble(serving: Census) -> None:
    assert series(serving, "tsm_model_not_ready") == series(serving, "tsm_model_stalled") == {}


def test_model_in_trouble_is_named_with_its_reason() -> None:
    world = World()
    world.settle()
    world.export_fails(66, workers.failed(FailureReason.SOURCE_NOT_FOUND))
    world.settle()
    census = told(world)
    assert series(census, "tsm_model_not_ready") == {("ml/minilm", "SourceNotFound"): 1}
    assert series(census, "tsm_model_stalled") == {("ml/minilm", "SourceNotFound"): 1}
    world.edit(source={"s3": {"uri": "s3://models/other"}})
    world.serves()
    census.note(MINILM, world.body)
    assert series(census, "tsm_model_stalled") == {}


def test_all_series_go_with_the_model(serving: Census) -> None:
    serving.forget(MINILM)
    for name in ("tsm_export_duration_seconds", "tsm_parity_maximum_absolute_difference", "tsm_model_not_ready"):
        assert series(serving, name) == {}
    assert set(series(serving, "tsm_models_by_condition").values()) == {0}
    assert series(serving, "tsm_models") == {(): 0}


def test_model_without_a_status_is_counted_alone() -> None:
    census = Census()
    census.note(MINILM, {"metadata": {}, "spec": spec()})
    assert series(census, "tsm_models") == {(): 1}
    assert set(series(census, "tsm_models_by_condition").values()) == {0}


def test_series_are_bounded_and_the_worst_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(censuses, "MOST_SERIES", 3)
    census = Census()
    for number in range(10):
        outputs = [{"maximumAbsoluteDifference": str(number), "minimumCosineSimilarity": "1"}]
        target = {"name": "cpu", "artifact": {}, "parity": {"outputs": outputs}}
        ready = {"type": "Ready", "status": "False", "reason": "Unschedulable"}
        census.note(Key("ml", str(number)), {"status": {"targets": [target], "conditions": [ready]}})
    found = series(census, "tsm_parity_maximum_absolute_difference")
    assert sorted(found.values()) == [7, 8, 9]
    assert len(series(census, "tsm_model_not_ready")) == 3
    assert series(census, "tsm_model_series_omitted") == {(): 14}
    assert series(census, "tsm_models_by_condition")["Ready", "False"] == 10
