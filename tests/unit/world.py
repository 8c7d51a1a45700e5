"""A model and its children in memory: plans are carried out on it, tests play the Job and Deployment controllers."""

import copy
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.unit import workers
from torchscript_operator.api.v1alpha1.status import Condition, TargetStatus
from torchscript_operator.controller import plan as planning
from torchscript_operator.controller import scaling
from torchscript_operator.controller.export_plan import stamp
from torchscript_operator.controller.model import DIGEST_ANNOTATION, RETRY_ANNOTATION, TARGET_LABEL, Model
from torchscript_operator.controller.observed import Observed, ended
from torchscript_operator.controller.plan import Plan
from torchscript_operator.controller.reconcile import dump_status
from torchscript_operator.controller.settings import Settings

Json = dict[str, Any]
START = datetime(2026, 1, 1, tzinfo=UTC)
LEAST = {"source": {"s3": {"uri": "s3://models/minilm"}}, "task": "feature-extraction"}
SETTINGS = Settings.model_validate({"workerImage": "worker:test", "artifactStore": {"uri": "s3://artifacts/models"}})


class NotSettledError(AssertionError):
    """Passes over a world that nothing else changes do not come to rest."""


def spec(**fields: Any) -> Json:
    """A spec: the least one and these fields."""
    return {**copy.deepcopy(LEAST), **fields}


def targets(*names: str) -> list[Json]:
    """Targets of these names."""
    return [{"name": name} for name in names]


class World:
    """Everything that the planner sees, and what happens to it."""

    def __init__(self, given: Json | None = None, settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self.now = START
        self.jobs: dict[str, Json] = {}
        self.deployments: dict[str, Json] = {}
        self.pods: list[Json] = []
        self.service: Json | None = None
        self.companions: dict[tuple[str, str], Json] = {}
        """Autoscalers and disruption budgets, by kind and name."""
        self.events: list[Json] = []
        self.created: list[str] = []
        self._uids = itertools.count(1)
        metadata = {"namespace": "ml", "name": "minilm", "uid": "model-1", "generation": 1, "annotations": {}}
        self.body: Json = {"metadata": metadata, "spec": given or spec(), "status": {}}

    # What people do.

    def edit(self, **fields: Any) -> None:
        self.body["spec"] = {**self.body["spec"], **fields}
        self.body["metadata"]["generation"] += 1

    def retry(self, value: str) -> None:
        self.body["metadata"]["annotations"][RETRY_ANNOTATION] = value

    # What the operator does.

    @property
    def model(self) -> Model:
        return Model.parse(self.body)

    def observed(self) -> Observed:
        return Observed(
            jobs=tuple(copy.deepcopy(list(self.jobs.values()))),
            pods=tuple(copy.deepcopy(self.pods)),
            deployments=tuple(copy.deepcopy(list(self.deployments.values()))),
            service=copy.deepcopy(self.service),
            autoscalers=self._companions("HorizontalPodAutoscaler"),
            budgets=self._companions("PodDisruptionBudget"),
            events=tuple(self.events),
        )

    def plan(self) -> Plan:
        return planning.plan(self.model, self.settings, self.observed(), self.now)

    def step(self) -> Plan:
        """One pass, carried out."""
        planned = self.plan()
        for item in planned.delete:
            self._delete(item)
        for item in planned.create:
            name = item["metadata"]["name"]
            assert name not in self.jobs, f"{name} is created a second time"
            self.jobs[name] = self._stored(item)
            self.created.append(name)
        for item in planned.apply:
            self._apply(item)
        self.body["status"] = dump_status(planned.status)
        return planned

    def is_quiet(self, planned: Plan) -> bool:
        """Whether a plan writes nothing."""
        children = planned.create or planned.apply or planned.delete
        return not children and dump_status(planned.status) == self.body["status"]

    def settle(self) -> Plan:
        """Passes until one has nothing to write."""
        for _ in range(8):
            planned = self.plan()
            if self.is_quiet(planned):
                return planned
            self.step()
        raise NotSettledError(planned)

    # What the cluster does.

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def running(self, target: str = "cpu") -> Json:
        """The one Job of a target that has not ended."""
        (job,) = [job for job in self.model_jobs(target) if not ended(job)]
        return job

    def model_jobs(self, target: str) -> list[Json]:
        """All Jobs of a target."""
        return [job for job in self.jobs.values() if _target(job) == target]

    def pod_of(self, job: Json, status: Json) -> Json:
        """Let a pod of a Job be in some state."""
        return self._pod(job, job["spec"]["template"], status)

    def export_runs(self, target: str = "cpu") -> None:
        """A pod of a Job runs, beside those that have run before."""
        job = self.running(target)
        self.pod_of(job, workers.pod_status("export", {"running": {}}, ready=True))
        job["status"] = {"startTime": stamp(self.now), "active": 1, "ready": 1}

    def export_ends(self, message: str | None, target: str = "cpu") -> None:
        """A Job ends well; without a message its pod is gone."""
        job = self.running(target)
        if message is not None:
            self.pod_of(job, workers.pod_status("export", workers.terminated(0, message)))
        job["status"] = workers.complete(stamp(self.now))

    def export_fails(self, exit_code: int, message: str = "", target: str = "cpu", **condition: str) -> None:
        """A Job ends badly, its last pod with this exit code."""
        job = self.running(target)
        self.pod_of(job, workers.pod_status("export", workers.terminated(exit_code, message)))
        job["status"] = workers.job_failed(stamp(self.now), **condition)

    def rollout_ends(self, target: str = "cpu") -> None:
        """All pods of a Deployment are Ready."""
        deployment = self.deployments[f"minilm-{target}"]
        deployment["status"] = workers.rolled_out(deployment)

    def rollout_hangs(self, *, late: bool = False, state: Json | None = None, target: str = "cpu") -> None:
        """The new pod of a Deployment is not Ready while the old ones answer."""
        deployment = self.deployments[f"minilm-{target}"]
        deployment["status"] = workers.rolling(deployment, late=late)
        template = deployment["spec"]["template"]
        self._pod(deployment, template, workers.pod_status("server", state or {"running": {}}))

    def serves(self, letter: str = "a", target: str = "cpu") -> None:
        """From the present spec to Ready."""
        self.settle()
        self.export_ends(workers.proven(letter), target)
        self.settle()
        self.rollout_ends(target)
        self.settle()

    # What tests look at.

    def condition(self, kind: str) -> Condition:
        return next(found for found in self.model.status.conditions if found.type == kind)

    def target(self, name: str = "cpu") -> TargetStatus:
        return self.model.target_status(name)

    def rolled(self, target: str = "cpu") -> str:
        """The digest in a Deployment's template."""
        metadata = self.deployments[f"minilm-{target}"]["spec"]["template"]["metadata"]
        value: str = metadata["annotations"][DIGEST_ANNOTATION]
        return value

    # The API server.

    def _companions(self, kind: str) -> tuple[Json, ...]:
        names = scaling.looked_for(self.model, tuple(self.deployments.values()))
        found = (self.companions.get((kind, name)) for name in names)
        return tuple(copy.deepcopy(item) for item in found if item is not None)

    def _stored(self, item: Json) -> Json:
        stored = copy.deepcopy(item)
        stored["metadata"] |= {"uid": f"uid-{next(self._uids)}", "generation": 1}
        stored["metadata"]["creationTimestamp"] = stamp(self.now)
        stored.setdefault("status", {})
        return stored

    def _apply(self, item: Json) -> None:
        if item["kind"] == "Service":
            self.service = self._stored(item)
            return
        if item["kind"] != "Deployment":
            self.companions[item["kind"], item["metadata"]["name"]] = self._stored(item)
            return
        name = item["metadata"]["name"]
        old = self.deployments.get(name)
        new = self._stored(item)
        if old is not None:
            # A field that is not applied stays with whoever has set it.
            new["spec"].setdefault("replicas", old["spec"]["replicas"])
            new["metadata"]["managedFields"] = old["metadata"].get("managedFields", [])
            new["status"] = old["status"]
            new["metadata"]["generation"] = old["metadata"]["generation"] + (old["spec"] != new["spec"])
        self.deployments[name] = new

    def _delete(self, item: Json) -> None:
        uid = item["metadata"]["uid"]
        for kind in (self.jobs, self.deployments, self.companions):
            for name in [name for name, live in kind.items() if live["metadata"]["uid"] == uid]:
                del kind[name]
        if self.service is not None and self.service["metadata"]["uid"] == uid:
            self.service = None
        self.pods = [pod for pod in self.pods if pod["metadata"]["ownerReferences"][0]["uid"] != uid]

    def _pod(self, owner: Json, template: Json, status: Json) -> Json:
        metadata = copy.deepcopy(template["metadata"])
        number = next(self._uids)
        reference = {"uid": owner["metadata"]["uid"], "controller": True}
        metadata |= {"namespace": "ml", "name": f"pod-{number}", "uid": f"uid-{number}", "ownerReferences": [reference]}
        metadata["creationTimestamp"] = stamp(self.now)
        pod = {"metadata": metadata, "spec": copy.deepcopy(template["spec"]), "status": status}
        self.pods.append(pod)
        return pod


def _target(item: Json) -> str:
    value: str = item["metadata"]["labels"][TARGET_LABEL]
    return value
