"""What worker pods leave behind, as the kubelet and the Job controller report it."""

import json
from typing import Any

from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.artifact.outcome import ExportOutcome, Failure, ServeOutcome

Json = dict[str, Any]
FIGURE = {
    "output": "last_hidden_state",
    "shape": "b1-s128",
    "rows": 128,
    "maximumAbsoluteDifference": "4.77e-07",
    "maximumRelativeDifference": "1.12e-04",
    "minimumCosineSimilarity": "1",
    "passed": True,
}


def digest_of(letter: str) -> str:
    """The digest of an artifact of the tests, one for each letter."""
    return "sha256:" + letter * 64


def proven(letter: str = "a", verdict: str = "Passed", store: str = "s3://artifacts/models", **fields: Any) -> str:
    """The termination message of an export that succeeded."""
    body: Json = {
        "requestDigest": "0" * 64,
        "succeeded": True,
        "key": letter * 64,
        "sourceRevision": letter * 40,
        "artifact": {"uri": f"{store}/{letter * 64}", "digest": digest_of(letter), "sizeBytes": 90_000_000},
        "precision": "float32",
        "parity": {"verdict": verdict, "report": f"{store}/{letter * 64}/report.html", "outputs": [FIGURE]},
        "versions": {"torch": "2.13.0", "transformers": "4.57.6"},
        "durationSeconds": 42,
        **fields,
    }
    return ExportOutcome.model_validate(body).to_json()


def failed(reason: FailureReason, message: str = "What was found.") -> str:
    """The termination message of an export that failed."""
    failure = Failure(stage="resolve", reason=reason, message=f"{message} {CLASSES[reason].advice}")
    return ExportOutcome(request_digest="0" * 64, succeeded=False, failure=failure).to_json()


def serve_failed(reason: FailureReason, letter: str = "a") -> str:
    """The termination message of a serving pod that gave up."""
    failure = Failure(stage="replay", reason=reason, message=f"Outputs differ. {CLASSES[reason].advice}")
    return ServeOutcome(digest=digest_of(letter), failure=failure).to_json()


def terminated(exit_code: int, message: str = "", reason: str | None = None) -> Json:
    """State of a container that ended."""
    times = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:00Z"}
    state = {"exitCode": exit_code, "reason": reason or ("Error" if exit_code else "Completed"), **times}
    return {"terminated": {**state, "message": message} if message else state}


def waiting(reason: str, message: str = "") -> Json:
    """State of a container that does not start."""
    return {"waiting": {"reason": reason, "message": message}}


def container_status(name: str, state: Json, *, last: Json | None = None, ready: bool = False) -> Json:
    """One entry of a pod's containerStatuses."""
    return {
        "name": name,
        "image": "worker:test",
        "imageID": "",
        "ready": ready,
        "restartCount": 0 if last is None else 1,
        "state": state,
        "lastState": last or {},
    }


def pod_status(name: str, state: Json, *, last: Json | None = None, ready: bool = False, **fields: Any) -> Json:
    """Status of a pod of one container."""
    phase = "Running"
    if "terminated" in state:
        phase = "Failed" if state["terminated"]["exitCode"] else "Succeeded"
    elif "waiting" in state:
        phase = "Pending"
    conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True" if ready else "False"}]
    status = {"phase": phase, "conditions": conditions}
    return {**status, "containerStatuses": [container_status(name, state, last=last, ready=ready)], **fields}


def unscheduled(message: str) -> Json:
    """Status of a pod that no node takes."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [condition]}


def complete(time: str) -> Json:
    """Status of a Job that ended well."""
    conditions = [
        {"type": kind, "status": "True", "reason": "CompletionsReached", "message": "", "lastTransitionTime": time}
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    return {"startTime": time, "completionTime": time, "succeeded": 1, "conditions": conditions}


def job_failed(time: str, reason: str = "BackoffLimitExceeded", message: str = "Job has failed.") -> Json:
    """Status of a Job that ended badly."""
    conditions = [
        {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": time}
        for kind in ("FailureTarget", "Failed")
    ]
    return {"startTime": time, "failed": 1, "conditions": conditions}


def rolled_out(deployment: Json) -> Json:
    """Status of a Deployment all of whose pods are available."""
    count = deployment["spec"]["replicas"]
    progress = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable", "message": ""}
    return {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": count,
        "updatedReplicas": count,
        "readyReplicas": count,
        "availableReplicas": count,
        "conditions": [progress],
    }


def rolling(deployment: Json, *, late: bool = False, old: int = 1) -> Json:
    """Status of a Deployment whose new pod is not Ready while old ones answer."""
    progress = {
        "type": "Progressing",
        "status": "False" if late else "True",
        "reason": "ProgressDeadlineExceeded" if late else "ReplicaSetUpdated",
        "message": "",
    }
    return {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": old + 1,
        "updatedReplicas": 1,
        "readyReplicas": old,
        "availableReplicas": old,
        "conditions": [progress],
    }


def parsed(text: str) -> Json:
    """A termination message as JSON."""
    body: Json = json.loads(text)
    return body
