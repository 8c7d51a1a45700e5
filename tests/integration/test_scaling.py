"""Autoscalers and disruption budgets on a real API server; the tests are the autoscaler."""

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.controlplane import ControlPlane
from tests.integration.harness import Json, Models, Operator, eventually
from tests.integration.test_updates import idle

SCALED: dict[str, Any] = {
    "autoscaling": {
        "minReplicas": 2,
        "maxReplicas": 6,
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "0.5"}},
            },
            {
                "type": "Pods",
                "pods": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "1000m"}},
            },
        ],
    }
}
pytestmark = pytest.mark.usefixtures("operator")


def autoscaler(models: Models) -> Json | None:
    return models.api.find(models.path("horizontalpodautoscalers", "minilm-cpu", "/apis/autoscaling/v2"))


def budget(models: Models) -> Json | None:
    return models.api.find(models.path("poddisruptionbudgets", "minilm-cpu", "/apis/policy/v1"))


def scale(models: Models, count: int) -> None:
    """What the autoscaler does."""
    path = f"{models.path('deployments', 'minilm-cpu', '/apis/apps/v1')}/scale"
    models.api.merge(path, {"spec": {"replicas": count}})


def live_replicas(models: Models) -> int:
    found = models.deployment()
    assert found is not None
    count: int = found["spec"]["replicas"]
    return count


def test_companions_come_with_a_scaled_model_and_cost_no_writes_once_there(
    operator: Operator, plane: ControlPlane, rights: tuple[Path, str], models: Models
) -> None:
    models.create(serving=SCALED)
    models.serves("a")
    assert live_replicas(models) == 2
    made = eventually(lambda: autoscaler(models), "the autoscaler")
    assert made["spec"]["scaleTargetRef"]["name"] == "minilm-cpu"
    assert eventually(lambda: budget(models), "the budget")["spec"]["maxUnavailable"] == 1
    idle(operator, plane, rights[1], models)


def test_what_the_autoscaler_sets_outlives_a_rollout(
    operator: Operator, plane: ControlPlane, rights: tuple[Path, str], models: Models
) -> None:
    models.create(serving=SCALED)
    models.serves("a")
    scale(models, 5)
    models.rollout_ends("a")
    eventually(lambda: models.get()["status"]["serving"]["replicas"] == 5, "five pods in the status")
    models.edit(source={"s3": {"uri": "s3://models/other"}})
    models.serves("b")
    assert live_replicas(models) == 5
    idle(operator, plane, rights[1], models)


def test_autoscaling_that_is_switched_on_keeps_the_pods_that_run(models: Models) -> None:
    models.create(serving={"replicas": 4})
    models.serves("a")
    models.edit(serving=SCALED)
    eventually(lambda: autoscaler(models), "the autoscaler")
    assert live_replicas(models) == 4
    scale(models, 3)
    models.edit(serving={"progressDeadlineSeconds": 700})
    path = models.path("deployments", "minilm-cpu", "/apis/apps/v1")
    eventually(lambda: models.api("GET", path)["spec"]["progressDeadlineSeconds"] == 700, "the other deadline")
    assert live_replicas(models) == 3


def test_companions_go_when_they_are_no_longer_wanted(models: Models) -> None:
    models.create(serving=SCALED)
    models.serves("a")
    eventually(lambda: budget(models), "the budget")
    scale(models, 5)
    models.edit(serving={"autoscaling": None})
    eventually(lambda: autoscaler(models) is None and budget(models) is None, "no companions")
    eventually(lambda: live_replicas(models) == 1, "the replicas of the spec")


def test_deleted_companion_comes_back(models: Models) -> None:
    models.create(serving=SCALED)
    models.serves("a")
    eventually(lambda: autoscaler(models) and budget(models), "the companions")
    models.api("DELETE", models.path("horizontalpodautoscalers", "minilm-cpu", "/apis/autoscaling/v2"))
    models.api("DELETE", models.path("poddisruptionbudgets", "minilm-cpu", "/apis/policy/v1"))
    eventually(lambda: autoscaler(models) and budget(models), "the companions again")


def test_metric_that_the_api_server_refuses_is_told(models: Models) -> None:
    models.create(serving={"autoscaling": {"maxReplicas": 2, "metrics": [{"type": "Nonsense"}]}})
    models.export_ends("a")
    models.rollout_ends("a")
    assert "metrics[0]" in models.awaits("Stalled", "True", "ChildRejected")["message"]
    models.awaits("Ready", "True")


def test_autoscaler_of_somebody_else_is_not_taken_over(models: Models) -> None:
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"}
    body = {"metadata": {"name": "minilm-cpu"}, "spec": {"maxReplicas": 3, "scaleTargetRef": reference}}
    models.api("POST", models.path("horizontalpodautoscalers", group="/apis/autoscaling/v2"), body)
    before = autoscaler(models)
    models.create(serving=SCALED)
    models.export_ends("a")
    models.rollout_ends("a")
    models.awaits("Stalled", "True", "NameConflict")
    models.awaits("Ready", "True")
    assert autoscaler(models) == before
