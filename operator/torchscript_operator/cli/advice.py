"""The next step for each failure, where the one that the failure's class names is for a cluster."""

from torchscript_operator.artifact.failures import CLASSES, FailureReason

_FOLDER = "give the model's folder on this machine with --source FOLDER."
_STORE = "Check the store's URI, --endpoint and --region; with --store FOLDER artifacts go to a folder."
_LOCAL = {
    FailureReason.SOURCE_NOT_FOUND: f"Correct spec.source, or {_FOLDER}",
    FailureReason.SOURCE_INVALID: "Take a folder with config.json, tokenizer files and safetensors weights.",
    FailureReason.SOURCE_UNREACHABLE: f"Check that this machine reaches the source, or {_FOLDER}",
    FailureReason.SOURCE_ACCESS_DENIED: (
        f"Without a cluster no Secret is read: set HF_TOKEN, or AWS credentials as for any AWS client, or {_FOLDER}"
    ),
    FailureReason.STORE_NOT_FOUND: _STORE,
    FailureReason.STORE_UNREACHABLE: _STORE,
    FailureReason.STORE_ACCESS_DENIED: (
        "Set AWS credentials for the store as for any AWS client; with --store FOLDER none are needed."
    ),
    FailureReason.ARTIFACT_NOT_FOUND: "`tsm inspect` lists a store's artifacts; `tsm export FILE` makes one.",
    FailureReason.OUT_OF_MEMORY: "Free memory, or lower the shapes' batch and sequence.",
    FailureReason.OUT_OF_DISK: "Free space where the store and $XDG_CACHE_HOME lie.",
    FailureReason.REPLAY_FAILED: "The artifact gives other outputs on this machine than where it was exported.",
}


def on(reason: FailureReason) -> str:
    """What to do about a failure on this machine."""
    return _LOCAL.get(reason, CLASSES[reason].advice)


def found(message: str, reason: FailureReason) -> str:
    """A worker's message without the class's own advice, which workers put at its end."""
    return message.removesuffix(CLASSES[reason].advice).rstrip()
