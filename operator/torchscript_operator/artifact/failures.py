"""Failure classes: one name for each way an export or a pod can fail, its exit code, and whether trying again can help.

The exit code is what a Job's pod failure policy acts on; the reason is what a user reads in the status.
"""

import enum
from dataclasses import dataclass


class FailureReason(str, enum.Enum):
    """CamelCase reasons as the Kubernetes API conventions ask for; a condition's reason is one of these."""

    INTERNAL_ERROR = "InternalError"
    INVALID_REQUEST = "InvalidRequest"
    SOURCE_NOT_FOUND = "SourceNotFound"
    SOURCE_ACCESS_DENIED = "SourceAccessDenied"
    SOURCE_INVALID = "SourceInvalid"
    SOURCE_UNREACHABLE = "SourceUnreachable"
    SOURCE_CHANGED = "SourceChanged"
    TASK_MISMATCH = "TaskMismatch"
    SHAPE_TOO_LONG = "ShapeTooLong"
    SHAPE_ERROR = "ShapeError"
    UNSUPPORTED_OPERATOR = "UnsupportedOperator"
    COMPILATION_FAILED = "CompilationFailed"
    DEVICE_UNAVAILABLE = "DeviceUnavailable"
    PARITY_FAILED = "ParityFailed"
    STORE_NOT_FOUND = "StoreNotFound"
    STORE_ACCESS_DENIED = "StoreAccessDenied"
    STORE_UNREACHABLE = "StoreUnreachable"
    ARTIFACT_NOT_FOUND = "ArtifactNotFound"
    DIGEST_MISMATCH = "DigestMismatch"
    REPLAY_FAILED = "ReplayFailed"
    OUT_OF_MEMORY = "OutOfMemory"
    OUT_OF_DISK = "OutOfDisk"
    DEADLINE_EXCEEDED = "DeadlineExceeded"


@dataclass(frozen=True)
class FailureClass:
    """What a failure means for whoever handles it."""

    exit_code: int
    """Process exit code, 1 to 255; codes from 64 on leave the shell's and Python's own codes alone."""
    transient: bool
    """True when the same request may pass later with nothing changed."""
    advice: str
    """The next step, a sentence for the person who reads the status."""


CLASSES: dict[FailureReason, FailureClass] = {
    FailureReason.INTERNAL_ERROR: FailureClass(
        70, transient=True, advice="Read the Job's log; if it shows a fault of the operator's worker, report it."
    ),
    FailureReason.INVALID_REQUEST: FailureClass(
        64,
        transient=False,
        advice="Correct what the message names; if that is right, install matching operator and worker versions.",
    ),
    FailureReason.SOURCE_NOT_FOUND: FailureClass(
        66, transient=False, advice="Correct spec.source: the repository, revision, object or path does not exist."
    ),
    FailureReason.SOURCE_ACCESS_DENIED: FailureClass(
        77, transient=False, advice="Give spec.source a Secret whose credentials may read it."
    ),
    FailureReason.SOURCE_INVALID: FailureClass(
        65,
        transient=False,
        advice="Point spec.source at a folder with config.json, tokenizer files and safetensors weights.",
    ),
    FailureReason.SOURCE_UNREACHABLE: FailureClass(
        69,
        transient=True,
        advice="Check that the source's endpoint can be reached from the Job's node; retries go on by themselves.",
    ),
    FailureReason.SOURCE_CHANGED: FailureClass(
        93,
        transient=True,
        advice="Let what writes the source finish; better, put new files in a new place, and name that in spec.source.",
    ),
    FailureReason.TASK_MISMATCH: FailureClass(
        78,
        transient=False,
        advice="Set spec.task to a task whose head the model has, or take a model that was trained for it.",
    ),
    FailureReason.SHAPE_TOO_LONG: FailureClass(
        79, transient=False, advice="Lower spec.inputs.shapes[].sequence to at most the model's positions."
    ),
    FailureReason.SHAPE_ERROR: FailureClass(
        80,
        transient=False,
        advice="Change spec.inputs.shapes: the model does not run at the shape that the message names.",
    ),
    FailureReason.UNSUPPORTED_OPERATOR: FailureClass(
        81,
        transient=False,
        advice="Choose another compiler or model: the compiler has no implementation of the operators named.",
    ),
    FailureReason.COMPILATION_FAILED: FailureClass(
        82, transient=False, advice="Read the Job's log for the compiler's message."
    ),
    FailureReason.DEVICE_UNAVAILABLE: FailureClass(
        83, transient=True, advice="Check the device plugin and the node's driver: the accelerator did not answer."
    ),
    FailureReason.PARITY_FAILED: FailureClass(
        84,
        transient=False,
        advice="Open the parity report; choose a higher precision, or widen spec.parity if the drift is acceptable.",
    ),
    FailureReason.STORE_NOT_FOUND: FailureClass(
        85, transient=False, advice="Create the bucket or volume that spec.artifact names."
    ),
    FailureReason.STORE_ACCESS_DENIED: FailureClass(
        86, transient=False, advice="Give spec.artifact a Secret whose credentials may read and write the store."
    ),
    FailureReason.STORE_UNREACHABLE: FailureClass(
        87,
        transient=True,
        advice="Check that the artifact store's endpoint can be reached; retries go on by themselves.",
    ),
    FailureReason.ARTIFACT_NOT_FOUND: FailureClass(
        88,
        transient=False,
        advice="The store has lost the artifact: set the annotation torchscript.dev/retry to export again.",
    ),
    FailureReason.DIGEST_MISMATCH: FailureClass(
        89,
        transient=False,
        advice="A stored file is not what was exported: find out who changed it, delete the artifact, export again.",
    ),
    FailureReason.REPLAY_FAILED: FailureClass(
        90,
        transient=False,
        advice="The artifact gives other outputs on this node: serve on the kind of node that it was exported for.",
    ),
    FailureReason.OUT_OF_MEMORY: FailureClass(
        137, transient=False, advice="Raise the container's memory limit, or lower the shapes' batch and sequence."
    ),
    FailureReason.OUT_OF_DISK: FailureClass(
        91, transient=False, advice="Raise the container's ephemeral-storage limit, or free space on the node."
    ),
    FailureReason.DEADLINE_EXCEEDED: FailureClass(
        92,
        transient=False,
        advice="Raise spec.targets[].job.activeDeadlineSeconds, or declare fewer or smaller shapes.",
    ),
}
"""Every reason has a class; a test holds the two together."""


class WorkerError(Exception):
    """A failure with a class, raised anywhere in a worker and reported once, at the top of the process."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        """Take the class and one sentence on what was found; the class itself knows what to do next."""
        super().__init__(message)
        self.reason = reason
        self.message = message

    @property
    def exit_code(self) -> int:
        """The exit code that tells the Job's failure policy how to go on."""
        return CLASSES[self.reason].exit_code


def reason_of_exit_code(code: int) -> FailureReason:
    """The reason behind a container's exit code; what no class claims is an internal error."""
    return next((reason for reason, known in CLASSES.items() if known.exit_code == code), FailureReason.INTERNAL_ERROR)
