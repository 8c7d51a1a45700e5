"""An annotation puts an earlier artifact back, and a store's loss is made good, on a real API server."""

from pathlib import Path

import pytest

from tests.cluster.controlplane import ControlPlane
from tests.integration.harness import OTHER, Models, Operator, eventually
from tests.integration.test_updates import idle
from tests.unit import workers
from torchscript_operator.artifact.failures import FailureReason

pytestmark = pytest.mark.usefixtures("operator")
THIRD = {"s3": {"uri": "s3://models/third"}}


def served_two(models: Models) -> None:
    models.create()
    models.serves("a")
    models.edit(source=OTHER)
    models.serves("b")


def test_earlier_artifact_is_served_until_the_annotation_goes(
    operator: Operator, plane: ControlPlane, rights: tuple[Path, str], models: Models
) -> None:
    served_two(models)
    (target,) = models.get()["status"]["targets"]
    assert [entry["artifact"]["digest"] for entry in target["history"]] == [workers.digest_of("a")]
    models.annotate(**{"rollback-to": workers.digest_of("a")[:20]})
    models.rollout_ends("a")
    models.awaits("Available", "True", "PinnedByAnnotation")
    models.awaits("Ready", "True")
    idle(operator, plane, rights[1], models)
    path = models.path("torchscriptmodels", "minilm")
    models.api.merge(path, {"metadata": {"annotations": {"torchscript.dev/rollback-to": None}}})
    models.rollout_ends("b")
    models.awaits("Available", "True", "Serving")
    assert "pinned" not in models.get()["status"]["serving"]["targets"][0]


def test_rollback_ends_when_a_changed_spec_is_proven(models: Models) -> None:
    served_two(models)
    models.annotate(**{"rollback-to": "a"})
    models.rollout_ends("a")
    models.edit(source=THIRD)
    models.export_ends("c")
    models.rollout_ends("c")
    models.awaits("Available", "True", "Serving")
    assert models.get()["status"]["serving"]["targets"][0]["pinned"]["ended"] is True


def test_rollback_to_what_is_not_there_is_told(models: Models) -> None:
    served_two(models)
    models.annotate(**{"rollback-to": "ffff"})
    assert workers.digest_of("a") in models.awaits("Stalled", "True", "RollbackUnknown")["message"]
    models.awaits("Ready", "True")
    eventually(lambda: models.rolled() == workers.digest_of("b"), "the newest artifact")


def test_artifact_that_the_store_lost_is_exported_again(models: Models) -> None:
    models.create()
    models.serves("a")
    old = models.jobs()[0]["metadata"]["name"]
    deployment = models.awaits_rollout("a")
    state = workers.terminated(88, workers.serve_failed(FailureReason.ARTIFACT_NOT_FOUND))
    models.pod(deployment, workers.pod_status("server", state), "missing")
    again = models.awaits_job(but=old)
    models.api("DELETE", f"{models.path('pods', group='/api/v1')}/missing", {"gracePeriodSeconds": 0})
    assert again["metadata"]["name"] == models.export_ends("b")["metadata"]["name"]
    models.rollout_ends("b")
    models.awaits("Available", "True", "Serving")
    assert models.get()["status"]["targets"][0]["lost"]["digest"] == workers.digest_of("a")
