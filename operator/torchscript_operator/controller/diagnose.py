"""Why a pod does not get on, in words for the person who wrote the model. All pure.

Each check looks at one thing and returns None where it has nothing to say; the first finding wins.
"""

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from torchscript_operator.api import conditions
from torchscript_operator.artifact import logs
from torchscript_operator.artifact.failures import CLASSES, FailureReason, reason_of_exit_code
from torchscript_operator.artifact.outcome import ExportOutcome, ServeOutcome
from torchscript_operator.controller.model import Json
from torchscript_operator.controller.observed import condition

PULL_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
)
CONFIGURATION_REASONS = frozenset({"CreateContainerConfigError"})
START_REASONS = frozenset({"CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun"})
LOG_TAIL_CHARACTERS = 2048
"""The kubelet gives at most this much log in place of a termination message."""
LAST_LINE_CHARACTERS = 200
"""Of a log's last line, in a message."""


@dataclass(frozen=True)
class Finding:
    """What is wrong."""

    stage: str
    reason: str
    message: str
    exit_code: int | None = None
    log_tail: str | None = None


@dataclass(frozen=True)
class Fields:
    """Paths in the spec that a scheduling constraint came from, for messages."""

    selector: str
    tolerations: str
    resources: str
    image: str
    claims: str


JOB_FIELDS = Fields(
    selector="spec.targets[].job.nodeSelector or affinity",
    tolerations="spec.targets[].job.tolerations",
    resources="spec.targets[].job.resources",
    image="spec.targets[].job.image",
    claims="spec.source.persistentVolumeClaim or spec.artifact.persistentVolumeClaim",
)
VERIFY_FIELDS = Fields(
    selector="spec.targets[].verify.nodeSelector or affinity",
    tolerations="spec.targets[].verify.tolerations",
    resources="spec.targets[].verify.resources",
    image="spec.targets[].job.image",
    claims="spec.source.persistentVolumeClaim or spec.artifact.persistentVolumeClaim",
)
SERVING_FIELDS = Fields(
    selector="spec.serving.nodeSelector",
    tolerations="spec.serving.tolerations",
    resources="spec.serving.resources",
    image="spec.serving.image",
    claims="spec.artifact.persistentVolumeClaim",
)


def _statuses(pod: Json) -> list[Json]:
    return pod.get("status", {}).get("containerStatuses") or []


def sentence(text: str) -> str:
    """Words of Kubernetes as a sentence; only the first letter changes, names keep theirs."""
    return f"{text[:1].upper()}{text[1:].rstrip('. ')}."


def _named(values: Json | None) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted((values or {}).items()))


def unschedulable(pod: Json, fields: Fields) -> Finding | None:
    """The scheduler found no node: its own words, and which of our constraints they are about."""
    scheduled = condition(pod, "PodScheduled")
    if scheduled is None or scheduled["status"] != "False":
        return None
    said: str = scheduled.get("message", "no node fits")
    spec = pod["spec"]
    asked = spec["containers"][0].get("resources", {}).get("requests")
    causes = []
    if "node affinity/selector" in said or "node selector" in said:
        causes.append(f"{fields.selector} asks for {_named(spec.get('nodeSelector')) or 'an affinity'}")
    if "Insufficient" in said:
        causes.append(f"{fields.resources} asks for {_named(asked)}")
    if "taint" in said:
        causes.append(f"{fields.tolerations} does not accept the taints named")
    if "persistentvolumeclaim" in said.lower():
        causes.append(f"{fields.claims} cannot be mounted")
    because = f" Constraint: {'; '.join(causes)}. Change that" if causes else " Change what the pods ask for"
    return Finding("schedule", conditions.UNSCHEDULABLE, f"{said.rstrip('.')}.{because}, or add nodes that fit.")


def gated(pod: Json, _fields: Fields) -> Finding | None:
    """The scheduler does not look at the pod yet, since somebody, mostly an admission webhook, has set gates on it."""
    gates = [gate["name"] for gate in pod.get("spec", {}).get("schedulingGates") or ()]
    if not gates:
        return None
    said = f"The pod is held by scheduling gates ({', '.join(gates)})."
    advice = "It gets a node once whoever set them, such as a queue for quota, takes them away."
    return Finding("schedule", conditions.SCHEDULING_GATED, f"{said} {advice}")


def waiting(pod: Json, fields: Fields) -> Finding | None:
    """The container cannot be started: image, configuration or command."""
    for status in _statuses(pod):
        state = status.get("state", {}).get("waiting")
        if not state:
            continue
        reason, said = state.get("reason", ""), state.get("message", "")
        if reason in PULL_REASONS:
            advice = f"Check {fields.image}, the operator's image settings and the pull secrets."
            said = sentence(f"The image {status['image']} cannot be pulled: {said or reason}")
            return Finding("start", conditions.IMAGE_PULL_FAILED, f"{said} {advice}")
        if reason in CONFIGURATION_REASONS:
            advice = "Create it in the model's namespace, or correct the reference in the spec."
            return Finding("start", conditions.CONFIGURATION_MISSING, f"{sentence(said or reason)} {advice}")
        if reason in START_REASONS:
            said = sentence(f"The container did not start: {said or reason}")
            advice = f"Check that {fields.image} is an image of this operator's workers."
            return Finding("start", conditions.START_FAILED, f"{said} {advice}")
    return None


def _reported(text: str) -> ExportOutcome | ServeOutcome | None:
    for kind in (ExportOutcome, ServeOutcome):
        try:
            return kind.model_validate_json(text)
        except ValidationError:
            continue
    return None


def ended(state: Json) -> Finding:
    """A container that ended badly: its own report, or what its exit code and the kubelet say."""
    code = state["exitCode"]
    text = state.get("message") or ""
    report = _reported(text)
    if report is not None and report.failure is not None:
        failure = report.failure
        return Finding(failure.stage, failure.reason.value, failure.message, code)
    killed = state.get("reason") == "OOMKilled"
    reason = FailureReason.OUT_OF_MEMORY if killed else reason_of_exit_code(code)
    known = CLASSES[reason]
    what = f"ended with exit code {code}"
    if reason is FailureReason.OUT_OF_MEMORY:
        what = "was killed for want of memory" if killed else f"was killed ({what}), most likely for want of memory,"
    tail = log_tail(text)
    last = last_line(tail or "")
    said = f" Its last line: {last}" if last else ""
    return Finding("run", reason.value, f"The container {what} and left no report.{said} {known.advice}", code, tail)


def log_tail(text: str) -> str | None:
    """The end of a container's log, bounded, and without what looks like a credential."""
    if len(text.encode()) >= LOG_TAIL_CHARACTERS:
        # The kubelet cuts at a byte: half a credential does not look like one.
        text = re.sub(r"^(.*\n|\S*\s*)", "", text, count=1)
    return logs.redact_unknown(text)[-LOG_TAIL_CHARACTERS:] or None


def last_line(tail: str) -> str:
    """The last line of a log that says anything, as a sentence; of a structured line its message."""
    line = next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "")
    with contextlib.suppress(ValueError, TypeError, KeyError):
        line = str(json.loads(line)["message"])
    short = line if len(line) <= LAST_LINE_CHARACTERS else f"{line[:LAST_LINE_CHARACTERS]}…"
    return short if not short or short.endswith((".", "…", "!", "?")) else f"{short}."


def terminated(pod: Json, _fields: Fields) -> Finding | None:
    """The container ended with an error, now or before its present restart."""
    for status in _statuses(pod):
        for state in (status.get("state", {}), status.get("lastState", {})):
            ending = state.get("terminated")
            if ending and ending["exitCode"] != 0:
                return ended(ending)
    return None


def evicted(pod: Json, fields: Fields) -> Finding | None:
    """The kubelet or the node's end stopped the pod."""
    status = pod.get("status", {})
    if status.get("reason") in {"Evicted", "NodeLost", "Preempting", "NodeShutdown", "Terminated"}:
        said = sentence(f"The pod was stopped by its node: {status.get('message') or status['reason']}")
        advice = f"Another takes its place; where this goes on, raise the requests of {fields.resources}."
        return Finding("run", conditions.EVICTED, f"{said} {advice}")
    return None


CHECKS: tuple[Callable[[Json, Fields], Finding | None], ...] = (gated, unschedulable, waiting, evicted, terminated)
"""In the order of a pod's life; an evicted pod's container was killed too, but not for its own memory."""


def pod_trouble(pod: Json, fields: Fields) -> Finding | None:
    """The first thing that is wrong with a pod."""
    return next((finding for check in CHECKS if (finding := check(pod, fields)) is not None), None)


def admission(said: str, fields: Fields) -> str:
    """What to do about pods that the API server refuses, by its own words."""
    if "exceeded quota" in said:
        return f"Raise that quota, or lower {fields.resources}."
    if "PodSecurity" in said:
        return "They meet the restricted profile as they are made: find the webhook that changes them."
    if "serviceaccount" in said.lower():
        return "Create that account in the model's namespace, or correct the operator's worker.serviceAccount."
    return "Change what refuses them; they are tried again by themselves."


def no_pod(job: Json, events: tuple[Json, ...], fields: Fields = JOB_FIELDS) -> Finding | None:
    """A Job whose pod the API server refused: quota, Pod Security, a missing ServiceAccount."""
    uid = job["metadata"]["uid"]
    said = [event.get("message", "") for event in events if event.get("involvedObject", {}).get("uid") == uid]
    if not said:
        return None
    refusal = sentence(f"The Job's pod was refused: {said[-1]}")
    return Finding("schedule", conditions.POD_REJECTED, f"{refusal} {admission(said[-1], fields)}")


def no_replica(said: str, fields: Fields) -> Finding:
    """A Deployment whose pods the API server refuses."""
    refusal = sentence(f"The Deployment's pods were refused: {said}")
    return Finding("schedule", conditions.POD_REJECTED, f"{refusal} {admission(said, fields)}")


def job_failure(job: Json, pods: tuple[Json, ...], fields: Fields = JOB_FIELDS) -> Finding:
    """Why a failed Job failed: its last pod's own report first, then the Job's condition."""
    failed = condition(job, "Failed") or {}
    if failed.get("reason") == "DeadlineExceeded":
        trouble = pod_trouble(pods[-1], fields) if pods else None
        because = f" Last seen: {trouble.message}" if trouble else ""
        seconds = job["spec"].get("activeDeadlineSeconds")
        message = f"The export took longer than {seconds} s. Raise spec.targets[].job.activeDeadlineSeconds.{because}"
        return Finding("run", conditions.DEADLINE_EXCEEDED, message)
    for pod in reversed(pods):
        if trouble := evicted(pod, fields) or terminated(pod, fields):
            return trouble
    said = sentence(failed.get("message") or "The Job failed")
    advice = "Its pods are gone, and their logs with them: look for what deletes pods, then try again."
    return Finding("run", FailureReason.INTERNAL_ERROR.value, f"{said} {advice}")


def seconds_since(timestamp: str, now: datetime) -> float:
    """Seconds since a time that Kubernetes wrote."""
    return (now - datetime.fromisoformat(timestamp)).total_seconds()
