"""Condition types and reasons, and how a list of conditions changes from one reconcile to the next."""

from collections.abc import Iterable

from torchscript_operator.api.v1alpha1.status import Condition

READY = "Ready"
"""Every served target has a proven artifact answering requests; without serving, every target is proven.

About what answers now, not about the present spec: it stays True while an update is prepared, and when one has failed.
kstatus looks at Reconciling and Stalled first, so it calls such a model InProgress or Failed, not Current.
"""
SOURCE_RESOLVED = "SourceResolved"
"""The source was found, read and identified."""
COMPILED = "Compiled"
"""Every target of the present spec has an artifact."""
PARITY_VERIFIED = "ParityVerified"
"""Every artifact of the present spec computes what eager computes, within the tolerances."""
AVAILABLE = "Available"
"""Every Deployment has all its pods Ready."""
RECONCILING = "Reconciling"
"""kstatus: work is under way, or waits for something that can pass by itself, such as a node, an image or a Secret.

True from the first pass over a spec until it is carried out, only a person can help, or spec.suspend holds it back.
Never together with Stalled.
"""
STALLED = "Stalled"
"""kstatus: nothing more happens until somebody changes something; the message says what.

kstatus calls such a model Failed, whatever Ready says of what still serves.
"""

ALL = (READY, SOURCE_RESOLVED, COMPILED, PARITY_VERIFIED, AVAILABLE, RECONCILING, STALLED)

# Reasons that are no failure class of a worker; those are in artifact/failures.py.
SUCCEEDED = "Succeeded"
EXPORTING = "Exporting"
VERIFYING = "Verifying"
RETRYING_WITH_MEMORY = "RetryingWithMoreMemory"
PENDING = "Pending"
ROLLING_OUT = "RollingOut"
SERVING = "Serving"
NOT_SERVED = "NotServed"
SUSPENDED = "Suspended"
INVALID_SPEC = "InvalidSpec"
REJECTED = "ChildRejected"
NO_ARTIFACT_STORE = "NoArtifactStore"
NOT_TRUSTED = "SourceNotTrusted"
NAME_CONFLICT = "NameConflict"
INCOMPATIBLE_NODE = "IncompatibleNode"
UNSCHEDULABLE = "Unschedulable"
SCHEDULING_GATED = "SchedulingGated"
IMAGE_PULL_FAILED = "ImagePullFailed"
CONFIGURATION_MISSING = "ConfigurationMissing"
START_FAILED = "StartFailed"
MOUNT_FAILED = "MountFailed"
POD_REJECTED = "PodRejected"
EVICTED = "Evicted"
DEADLINE_EXCEEDED = "DeadlineExceeded"
ROLLED_BACK = "RolledBack"
PINNED = "PinnedByAnnotation"
ROLLBACK_UNKNOWN = "RollbackUnknown"
PODS_NOT_READY = "PodsNotReady"
ARTIFACTS_RETAINED = "ArtifactsRetained"
WARNED = "ParityFailedButAllowed"


def holds(present: Iterable[Condition], kind: str) -> bool:
    """Whether a condition is True."""
    return any((condition.type, condition.status) == (kind, "True") for condition in present)


def transition(previous: Iterable[Condition], wanted: Iterable[Condition]) -> tuple[Condition, ...]:
    """Keep the old transition time of a condition whose status did not change, as the API conventions ask."""
    before = {condition.type: condition for condition in previous}

    def settle(condition: Condition) -> Condition:
        old = before.get(condition.type)
        if old is None or old.status != condition.status:
            return condition
        return condition.model_copy(update={"last_transition_time": old.last_transition_time})

    return tuple(settle(condition) for condition in wanted)
