"""The operator loses the API server, or is away while something changes. Dying at a write: test_intermediate_state."""

from tests.cluster.controlplane import ControlPlane
from tests.integration.harness import OTHER, Models, Operator, eventually


def test_loss_of_the_api_server_is_survived(plane: ControlPlane, operator: Operator, models: Models) -> None:
    models.create()
    models.awaits_job()
    process = operator.process
    plane.stop("kube-apiserver")
    plane.start("kube-apiserver")
    models.serves("a")
    assert operator.process is process
    assert operator.alive


def test_changes_during_an_absence_are_found_at_the_start(operator: Operator, models: Models) -> None:
    models.create()
    job = models.awaits_job()
    operator.kill()
    models.edit(source=OTHER)
    operator.start()
    models.awaits_job(but=job["metadata"]["name"])
    eventually(lambda: len(models.jobs()) == 1, "the old Job to go")
