"""Telling a Neuron device that is not there from other errors; export and serving ask alike."""

from torchscript_operator.artifact.failures import FailureReason, WorkerError

NO_DEVICE = ("Neuron Runtime could not be initialized", "NeuronCore(s) not available")
"""How the runtime says that there is no device, or that another process holds it. Documented for torch-neuron; whether
torch-neuronx uses the same words is unconfirmed, and other words still are a failure, only of another class."""


def no_device(error: BaseException) -> WorkerError | None:
    """The failure of a runtime that has no device to run on; None for another error."""
    lines = [line.strip() for line in str(error).splitlines() if any(words in line for words in NO_DEVICE)]
    if not lines:
        return None
    return WorkerError(FailureReason.DEVICE_UNAVAILABLE, f"There is no Neuron device to run on ({lines[0][:200]}).")
