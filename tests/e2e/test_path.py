"""The path of the demo, in pods: apply, export, proof, rollout, answer; then update, a killed operator, deletion."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest

from tests.cluster.s3 import PORT as S3_PORT
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


class Clients:
    """Two clients that ask a model all the time, and what came of it."""

    def __init__(self, url: str, name: str, old: Any, new: Any) -> None:
        self.url, self.name, self.known = url, name, {"old": old, "new": new}
        self.sent: list[int] = []
        self.failures: list[str] = []
        self.seen: list[str] = []
        """old, new or wrong, in the order of the answers."""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            self.sent.append(1)
            try:
                answer = ask(self.url, self.name)
            except OSError as error:
                self.failures.append(repr(error))
                continue
            near = (name for name, known in self.known.items() if np.abs(answer - known).max() <= TOLERANCE)
            self.seen.append(next(near, "wrong"))


def own_store(body: Json) -> None:
    """Nothing is found there, and one small shape is soon exported."""
    body["spec"]["artifact"]["uri"] = f"s3://{sites.ARTIFACT_BUCKET}/rolling"
    body["spec"]["inputs"]["shapes"] = [{"batch": 1, "sequence": 64}]


def revise(body: Json) -> None:
    own_store(body)
    body["spec"]["source"]["s3"]["uri"] = f"s3://{sites.SOURCE_BUCKET}/revised"


def wait(models: Models, told: str) -> Json:
    """The model once `tsm wait` says that it is Ready; `told` is what it has to have said of the export."""
    waited = models.tsm("wait", "rolling")
    assert (waited.returncode, waited.stdout) == (0, "rolling: Ready, Serving\n"), waited.stderr
    assert re.search(rf"^rolling/cpu: exporting: \w+ \({told}, ", waited.stderr, re.MULTILINE), waited.stderr
    return models.get("rolling") or {}


def test_update_rolls_over_without_a_failed_request_and_tsm_tells_of_it(models: Models, s3: S3, tmp_path: Path) -> None:
    revised = another_revision(tmp_path / "revised")
    old, new = eager(sites.model_folder()), eager(revised)
    assert np.abs(old - new).max() > 100 * TOLERANCE
    with sites.s3_client(models.site, s3) as client:
        sites.upload(client, revised, "revised")
        for left in client.list_objects_v2(Bucket=sites.ARTIFACT_BUCKET, Prefix="rolling/").get("Contents", []):
            client.delete_object(Bucket=sites.ARTIFACT_BUCKET, Key=left["Key"])
    models.apply("rolling", own_store)
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(models.tsm, "logs", "rolling", "--follow")
        before = wait(models, r"\d+ %, [0-9ms]+")
    log = following.result()
    assert (log.returncode, "is running" in log.stderr) == (0, True), log.stderr
    assert "Parity: Passed" in log.stdout

    with Clients(models.url("rolling"), "rolling", old, new) as clients:
        models.apply("rolling", revise)
        after = wait(models, r"\d+ %, [0-9ms]+ of about [0-9ms]+")
        models.until(lambda: clients.seen[-1:] == ["new"], "answers of the new")
    assert clients.failures == []
    # Every request that was sent has its answer.
    assert len(clients.seen) == len(clients.sent) > 50
    assert set(clients.seen) == {"old", "new"}
    digests = [model["status"]["targets"][0]["artifact"]["digest"] for model in (before, after)]
    assert digests[0] != digests[1]

    log = models.tsm("logs", "rolling")
    assert (log.returncode, "pods that serve" in log.stderr) == (0, True), log.stderr
    assert "warm-up" in log.stdout
    with models.site.forward("service/versitygw", S3_PORT, "s3") as url:
        report = models.tsm("report", "rolling", "--secret", "--endpoint", url)
    assert report.returncode == 0, report.stderr
    assert "Parity Passed, published" in report.stdout
    assert f"s3://{sites.SOURCE_BUCKET}/revised" in report.stdout


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
