"""Autoscalers and disruption budgets, and who sets a Deployment's replicas."""

from typing import Any

import pytest
import yaml

from tests.unit import workers
from tests.unit.test_children_golden import FOLDER, Plain, golden
from tests.unit.world import World, spec, targets
from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.serving import Serving
from torchscript_operator.controller import replicas, scaling
from torchscript_operator.controller.model import TARGET_LABEL

AUTOSCALER = "HorizontalPodAutoscaler"
BUDGET = "PodDisruptionBudget"
SCALED: dict[str, Any] = {"autoscaling": {"minReplicas": 2, "maxReplicas": 5}}
OTHERS = [{"manager": "kube-controller-manager", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]
OURS = [{"manager": "torchscript-operator", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]


def serving(**fields: Any) -> Serving:
    return Serving.model_validate(fields)


def deployment(count: int, fields: list[Any]) -> dict[str, Any]:
    return {"metadata": {"managedFields": fields}, "spec": {"replicas": count}}


def world(**given: Any) -> World:
    """A model that serves."""
    made = World(spec(serving=given))
    made.serves()
    return made


def kinds(made: World) -> set[str]:
    return {kind for kind, _ in made.companions}


@pytest.mark.parametrize(
    ("given", "live", "expected"),
    [
        ({"replicas": 3}, None, 3),
        ({"replicas": 3}, deployment(7, OTHERS), 3),
        (SCALED, None, 2),
        (SCALED, deployment(4, OTHERS), None),
        (SCALED, deployment(4, OURS), 4),
        (SCALED, deployment(4, []), 4),
        (SCALED, deployment(9, OURS), 5),
        (SCALED, deployment(0, OURS), 2),
        (SCALED, deployment(0, OTHERS), 2),
        ({**SCALED, "replicas": 0}, deployment(4, OTHERS), 0),
    ],
    ids=[
        "the spec's",
        "the spec's although edited",
        "a new Deployment starts with the least",
        "the autoscaler's is left alone",
        "ours is held until the autoscaler sets one",
        "nobody's is held",
        "no more than the most",
        "none of ours is raised",
        "none of others' is raised, since autoscalers leave it alone",
        "zero turns serving off",
    ],
)
def test_replicas_that_a_deployment_is_applied_with(given: Any, live: Any, expected: int | None) -> None:
    assert replicas.replicas(serving(**given), live) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, False),
        ({"replicas": 2}, True),
        ({"replicas": 0}, False),
        ({"autoscaling": {"maxReplicas": 1}}, False),
        ({"autoscaling": {"maxReplicas": 2}}, True),
        ({"replicas": 0, "autoscaling": {"maxReplicas": 2}}, False),
    ],
)
def test_budget_is_for_more_than_one_pod(given: Any, expected: bool) -> None:
    assert replicas.has_budget(serving(**given)) is expected


def test_model_of_one_pod_has_no_companion_and_looks_for_none() -> None:
    made = world()
    assert made.companions == {}
    assert scaling.looked_for(made.model, made.observed().deployments) == ()


@pytest.mark.parametrize(("case", "file"), [("full", "budget"), ("autoscaled", "budget"), ("autoscaled", "autoscaler")])
def test_companion_is_as_recorded(case: str, file: str) -> None:
    made = World(yaml.safe_load((FOLDER / case / "model.yaml").read_text())["spec"])
    build = {"budget": scaling.budget, "autoscaler": scaling.autoscaler}[file]
    golden(
        FOLDER / case / f"{file}.yaml", yaml.dump(build(made.model, "cpu"), Dumper=Plain, sort_keys=False, width=120)
    )


def test_autoscaler_without_metrics_aims_at_the_cpu() -> None:
    found = scaling.autoscaler(World(spec(serving=SCALED)).model, "cpu")
    assert found is not None
    (metric,) = found["spec"]["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}


def test_each_served_target_has_its_own_autoscaler() -> None:
    made = World(spec(targets=targets("cpu", "two"), serving=SCALED))
    made.settle()
    made.serves("a", "cpu")
    made.serves("b", "two")
    assert {name for kind, name in made.companions if kind == AUTOSCALER} == {"minilm-cpu", "minilm-two"}


def test_autoscaler_comes_after_its_deployment() -> None:
    made = World(spec(serving=SCALED))
    made.settle()
    made.export_ends(workers.proven())
    assert [item["kind"] for item in made.plan().apply] == ["Deployment", "Service", AUTOSCALER, BUDGET]


def test_companions_go_with_what_asked_for_them_before_the_mark_does() -> None:
    made = world(**SCALED)
    made.edit(serving={"replicas": 1})
    planned = made.plan()
    assert [item["kind"] for item in planned.delete] == [AUTOSCALER, BUDGET]
    made.settle()
    assert made.companions == {}
    assert scaling.looked_for(made.model, made.observed().deployments) == ()


def test_replicas_count_again_when_autoscaling_goes() -> None:
    made = world(**SCALED)
    made.deployments["minilm-cpu"]["metadata"]["managedFields"] = OTHERS
    made.deployments["minilm-cpu"]["spec"]["replicas"] = 5
    made.settle()
    made.edit(serving={"replicas": 3})
    made.settle()
    assert made.deployments["minilm-cpu"]["spec"]["replicas"] == 3


def test_what_the_autoscaler_sets_stays_and_costs_no_write() -> None:
    made = world(**SCALED)
    live = made.deployments["minilm-cpu"]
    live["spec"]["replicas"], live["metadata"]["managedFields"] = 4, OTHERS
    made.settle()
    made.rollout_ends()
    made.settle()
    assert made.deployments["minilm-cpu"]["spec"]["replicas"] == 4
    assert made.model.status.serving is not None
    assert made.model.status.serving.replicas == 4


def test_pods_that_an_autoscaler_adds_are_no_rollout() -> None:
    made = world(**SCALED)
    live = made.deployments["minilm-cpu"]
    live["spec"]["replicas"], live["metadata"]["managedFields"] = 5, OTHERS
    live["status"] |= {"replicas": 5, "updatedReplicas": 5, "availableReplicas": 2, "readyReplicas": 2}
    made.settle()
    assert made.condition(conditions.AVAILABLE).status == "True"
    assert made.condition(conditions.RECONCILING).status == "False"


def test_old_pods_under_an_autoscaler_are_a_rollout() -> None:
    made = world(**SCALED)
    live = made.deployments["minilm-cpu"]
    live["status"] |= {"replicas": 3, "updatedReplicas": 1}
    made.settle()
    assert made.condition(conditions.AVAILABLE).status == "False"


@pytest.mark.parametrize("kind", [AUTOSCALER, BUDGET])
def test_edited_companion_is_put_right(kind: str) -> None:
    made = world(**SCALED)
    key = (kind, "minilm-cpu")
    made.companions[key]["spec"] = {}
    made.settle()
    assert made.companions[key]["spec"] != {}


@pytest.mark.parametrize("kind", [AUTOSCALER, BUDGET])
def test_deleted_companion_comes_back(kind: str) -> None:
    made = world(**SCALED)
    del made.companions[kind, "minilm-cpu"]
    made.settle()
    assert kinds(made) == {AUTOSCALER, BUDGET}


@pytest.mark.parametrize("kind", [AUTOSCALER, BUDGET])
def test_companion_that_lost_its_label_is_put_right_and_not_made_anew(kind: str) -> None:
    made = world(**SCALED)
    del made.companions[kind, "minilm-cpu"]["metadata"]["labels"][TARGET_LABEL]
    planned = made.plan()
    assert planned.delete == ()
    assert [body["kind"] for body in planned.apply] == [kind]


def test_companion_of_somebody_else_is_left_alone_and_told() -> None:
    made = World(spec(serving=SCALED))
    theirs = {"kind": AUTOSCALER, "metadata": {"name": "minilm-cpu", "uid": "theirs"}, "spec": {}}
    made.companions[AUTOSCALER, "minilm-cpu"] = theirs
    made.serves()
    assert made.companions[AUTOSCALER, "minilm-cpu"] == theirs
    assert made.condition(conditions.STALLED).reason == conditions.NAME_CONFLICT
    assert AUTOSCALER in made.condition(conditions.STALLED).message
    assert made.condition(conditions.READY).status == "True"


def test_companions_go_with_a_target_that_is_no_longer_served() -> None:
    made = World(spec(targets=targets("cpu", "two"), serving=SCALED))
    made.settle()
    for name, letter in (("cpu", "a"), ("two", "b")):
        made.serves(letter, name)
    made.edit(serving={**SCALED, "targets": ["cpu"]})
    made.settle()
    assert {name for _, name in made.companions} == {"minilm-cpu"}


def test_companions_of_a_deployment_that_vanished_with_its_target_go_too() -> None:
    made = world(**SCALED)
    made.deployments.clear()
    made.edit(serving={"targets": []})
    made.settle()
    assert made.companions == {}


def test_suspended_model_leaves_companions_as_they_are() -> None:
    made = world(**SCALED)
    made.edit(serving={}, suspend=True)
    made.settle()
    assert kinds(made) == {AUTOSCALER, BUDGET}


def test_zero_replicas_turn_an_autoscaled_model_off_and_one_turns_it_on_again() -> None:
    made = world(**SCALED)
    made.edit(serving={**SCALED, "replicas": 0})
    made.settle()
    assert made.deployments["minilm-cpu"]["spec"]["replicas"] == 0
    made.edit(serving={**SCALED, "replicas": 1})
    made.settle()
    assert made.deployments["minilm-cpu"]["spec"]["replicas"] == 2
