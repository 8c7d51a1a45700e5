"""What integration tests are written with: an HTTP client, the operator as a process, and one namespace's models."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import yaml

from tests.cluster.network import free_ports
from tests.unit import workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

    from tests.cluster.controlplane import ControlPlane

ROOT = Path(__file__).resolve().parents[2]
GROUP = "/apis/torchscript.dev/v1alpha1"
LEAST = {"source": {"s3": {"uri": "s3://models/minilm"}}, "task": "feature-extraction"}
OTHER = {"s3": {"uri": "s3://models/other"}}
KOPF_TRIES_AGAIN = re.compile(r"kopf\.\S+ Request attempt #\S+ failed; will (retry|re-authenticate):")
"""What kopf calls an error."""
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})

Json = dict[str, Any]
T = TypeVar("T")


def eventually(look: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    """Wait until a look finds something; fails with what was awaited."""
    deadline = time.monotonic() + seconds
    pause = 0.02
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(pause)
        pause = min(1.3 * pause, 0.25)
    msg = f"not within {seconds} s: {what}"
    raise AssertionError(msg)


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Refused(Exception):  # noqa: N818 -- it is what the tests look for
    """The API server said no; the message is its own."""


class Api:
    """The API server as its administrator."""

    def __init__(self, kubeconfig: Path) -> None:
        found = yaml.safe_load(kubeconfig.read_text())
        cluster, user = found["clusters"][0]["cluster"], found["users"][0]["user"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]))
            pair.write(b"\n" + base64.b64decode(user["client-key-data"]))
            pair.flush()
            context.load_cert_chain(pair.name)
        self.client = httpx.Client(base_url=cluster["server"], verify=context, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def __call__(self, method: str, path: str, body: Json | None = None, kind: str = "application/json") -> Json:
        """Call; Refused with the server's message when it says no."""
        content = None if body is None else json.dumps(body)
        answer = self.client.request(method, path, content=content, headers={"Content-Type": kind})
        if answer.status_code >= HTTPStatus.BAD_REQUEST:
            raise Refused(answer.json().get("message", answer.text))
        found: Json = answer.json()
        return found

    def find(self, path: str) -> Json | None:
        """An object, or None."""
        answer = self.client.get(path)
        return None if answer.status_code == HTTPStatus.NOT_FOUND else answer.json()

    def merge(self, path: str, body: Json) -> Json:
        """A merge patch."""
        return self("PATCH", path, body, "application/merge-patch+json")


class Operator:
    """The operator in a process that tests may kill and start again."""

    def __init__(self, kubeconfig: Path, settings: Path, log: Path) -> None:
        self.kubeconfig, self.settings, self.log = kubeconfig, settings, log
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        (self.port,) = free_ports(1)
        environment = os.environ | {
            "KUBECONFIG": str(self.kubeconfig),
            "TSM_SETTINGS": str(self.settings),
            "TSM_HEALTH_PORT": str(self.port),
            "PYTHONWARNINGS": "error::ResourceWarning",
        }
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "torchscript_operator.controller"],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def get(self, path: str) -> str | None:
        """What it answers on its health port; None while it does not."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=2)
        except httpx.TransportError:
            return None
        return answer.text if answer.is_success else None

    def lines(self) -> list[Json]:
        """Its log; every line is one JSON object."""
        lines = self.log.read_text().splitlines()
        assert [line for line in lines if not line.startswith("{")] == []
        return [json.loads(line) for line in lines]

    def faults(self) -> list[Json]:
        """Lines that tell of a fault of its own; that kopf's requests fail and are tried again is none."""
        bad = [line for line in self.lines() if "exception" in line or line["level"] in {"error", "critical"}]
        return [line for line in bad if not KOPF_TRIES_AGAIN.match(f"{line['logger']} {line['message']}")]


class Models:
    """One namespace's models; the tests play the user, the Job and Deployment controllers, and the kubelet."""

    def __init__(self, api: Api, namespace: str, *, removes: bool = True) -> None:
        """`removes` if the operator removes artifacts, which one that watches a list of namespaces never does."""
        self.api, self.namespace, self.removes = api, namespace, removes

    def path(self, plural: str, name: str = "", group: str = GROUP) -> str:
        return f"{group}/namespaces/{self.namespace}/{plural}/{name}".rstrip("/")

    # The user.

    def create(self, name: str = "minilm", **spec: Any) -> Json:
        body = {"apiVersion": "torchscript.dev/v1alpha1", "kind": "TorchScriptModel", "metadata": {"name": name}}
        return self.api("POST", self.path("torchscriptmodels"), {**body, "spec": {**LEAST, **spec}})

    def edit(self, name: str = "minilm", **spec: Any) -> None:
        self.api.merge(self.path("torchscriptmodels", name), {"spec": spec})

    def annotate(self, name: str = "minilm", **annotations: str) -> None:
        marked = {f"torchscript.dev/{key}": value for key, value in annotations.items()}
        self.api.merge(self.path("torchscriptmodels", name), {"metadata": {"annotations": marked}})

    def delete(self, name: str = "minilm") -> None:
        self.api("DELETE", self.path("torchscriptmodels", name))

    def get(self, name: str = "minilm") -> Json:
        return self.api("GET", self.path("torchscriptmodels", name))

    def strangers_job(self, name: str) -> None:
        """A Job that has nothing to do with any model."""
        pod = {"spec": {"containers": [{"name": "c", "image": "other:1"}], "restartPolicy": "Never"}}
        body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": pod}}
        self.api("POST", self.path("jobs", group="/apis/batch/v1"), body)

    # What is there.

    def jobs(self) -> list[Json]:
        found: list[Json] = self.api("GET", self.path("jobs", group="/apis/batch/v1"))["items"]
        return found

    def jobs_of(self, component: str) -> list[Json]:
        """Jobs of a component that have not ended."""
        label = "torchscript.dev/component"
        found = [job for job in self.jobs() if job["metadata"].get("labels", {}).get(label) == component]
        return [job for job in found if not job.get("status", {}).get("conditions")]

    def deployment(self, name: str = "minilm-cpu") -> Json | None:
        return self.api.find(self.path("deployments", name, "/apis/apps/v1"))

    def service(self, name: str = "minilm") -> Json | None:
        return self.api.find(self.path("services", name, "/api/v1"))

    def events(self) -> list[Json]:
        found: list[Json] = self.api("GET", self.path("events", group="/api/v1"))["items"]
        return [event for event in found if event["involvedObject"]["kind"] == "TorchScriptModel"]

    def condition(self, kind: str, name: str = "minilm") -> Json:
        conditions = self.get(name).get("status", {}).get("conditions", [])
        return next((found for found in conditions if found["type"] == kind), {})

    def awaits(self, kind: str, status: str, reason: str | None = None, *, name: str = "minilm") -> Json:
        """Wait for a condition of the present generation."""

        def look() -> Json | None:
            model = self.get(name)
            if model["status"].get("observedGeneration") != model["metadata"]["generation"]:
                return None
            found = self.condition(kind, name)
            same = found.get("status") == status and reason in {None, found.get("reason")}
            return found if same else None

        return eventually(look, f"{kind}={status} {reason or ''} of {name}; it is {self.condition(kind, name)}")

    # The Job controller and the kubelet.

    def awaits_job(self, target: str = "cpu", *, but: str | None = None, model: str = "minilm") -> Json:
        """Wait for a target's running Job, other than one."""
        wanted = {"torchscript.dev/target": target, "torchscript.dev/model": model}

        def look() -> Json | None:
            for job in self.jobs():
                ended = job.get("status", {}).get("conditions")
                mine = wanted.items() <= job["metadata"].get("labels", {}).items()
                if mine and not ended and job["metadata"]["name"] != but:
                    return job
            return None

        return eventually(look, f"a running Job of target {target}")

    def pod(self, owner: Json, status: Json, name: str | None = None) -> str:
        """Create a pod of a Job or a Deployment in some state."""
        template = owner["spec"]["template"]
        name = name or f"{owner['metadata']['name']}-{time.monotonic_ns() % 10**8}"
        kind = "Job" if "backoffLimit" in owner["spec"] else "ReplicaSet"
        version = "batch/v1" if kind == "Job" else "apps/v1"
        reference = {"apiVersion": version, "kind": kind, "name": owner["metadata"]["name"]}
        metadata = {
            "name": name,
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"].get("annotations", {}),
            "ownerReferences": [{**reference, "uid": owner["metadata"]["uid"], "controller": True}],
        }
        path = self.path("pods", group="/api/v1")
        self.api("POST", path, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
        self.api.merge(f"{path}/{name}/status", {"status": status})
        return name

    def pod_ends(self, name: str, letter: str = "a") -> None:
        """A pod of an export ends well."""
        status = workers.pod_status("export", workers.terminated(0, workers.proven(letter)))
        self.api.merge(f"{self.path('pods', name, '/api/v1')}/status", {"status": status})

    def job_status(self, job: Json, status: Json) -> None:
        self.api.merge(f"{self.path('jobs', job['metadata']['name'], '/apis/batch/v1')}/status", {"status": status})

    def export_ends(self, letter: str = "a", target: str = "cpu") -> Json:
        job = self.awaits_job(target)
        self.pod(job, workers.pod_status("export", workers.terminated(0, workers.proven(letter))))
        self.job_status(job, workers.complete(now()))
        return job

    def export_fails(self, exit_code: int, message: str = "", **condition: str) -> Json:
        job = self.awaits_job()
        self.pod(job, workers.pod_status("export", workers.terminated(exit_code, message)))
        self.job_status(job, workers.job_failed(now(), **condition))
        return job

    # The Deployment controller.

    def rolled(self, name: str = "minilm-cpu") -> str | None:
        """The digest in a Deployment's template."""
        found = self.deployment(name)
        annotations = found["spec"]["template"]["metadata"]["annotations"] if found else {}
        value: str | None = annotations.get("torchscript.dev/artifact-digest")
        return value

    def awaits_rollout(self, letter: str = "a", name: str = "minilm-cpu") -> Json:
        digest = workers.digest_of(letter)
        return eventually(
            lambda: self.deployment(name) if self.rolled(name) == digest else None, f"{name} with digest {letter}"
        )

    def deployment_status(self, deployment: Json, status: Json) -> None:
        path = self.path("deployments", deployment["metadata"]["name"], "/apis/apps/v1")
        self.api.merge(f"{path}/status", {"status": status})

    def rollout_ends(self, letter: str = "a", name: str = "minilm-cpu") -> None:
        deployment = self.awaits_rollout(letter, name)
        self.deployment_status(deployment, workers.rolled_out(deployment))

    def serves(self, letter: str = "a") -> None:
        """From the present spec to Ready."""
        self.export_ends(letter)
        self.rollout_ends(letter)
        self.awaits("Ready", "True")
        self.awaits("Reconciling", "False")


def audit(
    plane: ControlPlane, user: str, namespace: str | None = None, stages: Sequence[str] = ("ResponseComplete",)
) -> Iterator[Json]:
    """What a user has asked the API server for: each call when it was answered, a watch when it ended."""
    for line in plane.audit_log.read_text().splitlines():
        event = json.loads(line)
        about = event.get("objectRef", {})
        # Who comes with a token that is no longer good has no name.
        if event["stage"] not in stages or event["user"].get("username") != user:
            continue
        if namespace is None or about.get("namespace") == namespace:
            yield event


def writes(plane: ControlPlane, user: str, namespace: str) -> list[str]:
    """The operator's writes in a namespace, in order."""
    return [
        f"{event['verb']} {event['objectRef']['resource']}/{event['objectRef'].get('name', '')}"
        for event in audit(plane, user, namespace)
        if event["verb"] in WRITES
    ]
