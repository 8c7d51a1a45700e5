"""The path of the demo, in pods: apply, export, proof, rollout, answer; then update, a killed operator, deletion."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.e2e import site as sites
from tests.e2e.reference import SENTENCES, TOLERANCE, ask, eager

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.s3 import S3
    from tests.e2e.conftest import Models

Json = dict[str, Any]


def another_revision(folder: Path) -> Path:
    """The same model with other weights, and so with other answers."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(sites.model_folder(), folder)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] *= 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_applied_model_is_proven_and_answers_what_transformers_computes(models: Models) -> None:
    models.apply("minilm")
    model = models.settled("minilm")
    target = model["status"]["targets"][0]
    assert target["state"] == "Proven"
    assert target["parity"]["verdict"] == "Passed"
    assert target["artifact"]["uri"].endswith(target["key"])
    assert target["artifact"]["digest"].startswith("sha256:")
    assert model["status"]["serving"]["targets"][0]["active"]["artifact"]["digest"] == target["artifact"]["digest"]
    assert {condition["type"] for condition in model["status"]["conditions"] if condition["status"] == "True"} == {
        "Ready",
        "SourceResolved",
        "Compiled",
        "ParityVerified",
        "Available",
    }
    with models.site.forward("service/minilm", 80, models.namespace) as url:
        answer = ask(url, "minilm")
    np.testing.assert_allclose(answer, eager(sites.model_folder()), atol=TOLERANCE)


def test_second_model_of_the_same_source_is_a_cache_hit(models: Models) -> None:
    models.apply("first", lambda body: body["spec"]["serving"].update(targets=[]))
    first = models.settled("first")["status"]["targets"][0]
    models.apply("second", lambda body: body["spec"]["serving"].update(targets=[]))
    second = models.settled("second")["status"]["targets"][0]
    assert (second["key"], second["artifact"]) == (first["key"], first["artifact"])


def test_update_rolls_over_without_a_failed_request(models: Models, s3: S3, tmp_path: Path) -> None:
    revised = another_revision(tmp_path / "revised")
    with sites.s3_client(models.site, s3) as client:
        sites.upload(client, revised, "revised")
    models.apply("rolling")
    before = models.settled("rolling")
    url = models.url("rolling")
    old, new = eager(sites.model_folder()), eager(revised)
    assert np.abs(old - new).max() > 100 * TOLERANCE
    stop = threading.Event()
    sent: list[int] = []
    failures: list[str] = []
    seen: list[str] = []

    def client_loop() -> None:
        while not stop.is_set():
            sent.append(1)
            try:
                answer = ask(url, "rolling")
            except OSError as error:
                failures.append(repr(error))
                continue
            is_old, is_new = (np.abs(answer - known).max() <= TOLERANCE for known in (old, new))
            seen.append("old" if is_old else "new" if is_new else "wrong")

    clients = [threading.Thread(target=client_loop) for _ in range(2)]
    for client in clients:
        client.start()
    try:

        def revise(body: Json) -> None:
            body["spec"]["source"]["s3"]["uri"] = f"s3://{sites.SOURCE_BUCKET}/revised"

        models.apply("rolling", revise)
        after = models.settled("rolling")
        models.until(lambda: len(models.children("pods", "rolling")) > 0 and seen[-1] == "new", "answers of the new")
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert failures == []
    # Every request that was sent has its answer.
    assert len(seen) == len(sent) > 50
    assert set(seen) == {"old", "new"}
    digests = [model["status"]["targets"][0]["artifact"]["digest"] for model in (before, after)]
    assert digests[0] != digests[1]


def test_operator_killed_in_the_middle_finishes_after_its_restart(models: Models) -> None:
    models.apply("killed")
    models.until(lambda: models.children("jobs", "killed"), "a Job")
    pods = ("delete", "pods", "--all", f"--namespace={sites.SYSTEM_NAMESPACE}", "--grace-period=0", "--force")
    models.kubectl.run(*pods)
    model = models.settled("killed")
    assert model["status"]["targets"][0]["state"] == "Proven"
    assert len(models.children("jobs", "killed")) == 1


def test_deletion_cleans_up(models: Models) -> None:
    models.apply("brief")
    models.settled("brief")
    models.kubectl.run("delete", "torchscriptmodel", "brief", f"--namespace={models.namespace}", "--timeout=60s")
    kinds = ("jobs", "deployments", "services", "pods")
    models.until(lambda: not any(models.children(kind, "brief") for kind in kinds), "no children", 90)


@pytest.mark.parametrize("sentences", [SENTENCES[:1], SENTENCES * 5])
def test_answers_do_not_depend_on_what_is_batched_with_them(models: Models, sentences: tuple[str, ...]) -> None:
    models.apply("batched")
    models.settled("batched")
    answer = ask(models.url("batched"), "batched", sentences)
    expected = np.resize(eager(sites.model_folder()), (len(sentences), answer.shape[1]))
    np.testing.assert_allclose(answer, expected, atol=TOLERANCE)
