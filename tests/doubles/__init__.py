"""Stand-ins for what cannot be installed here; see README.md. They prove nothing about what they stand for."""

import os
from pathlib import Path

NEURON = Path(__file__).parent / "neuron"
"""To be put on the import path: torch_neuron and torch_neuronx."""


def neuron_environment(device: str = "present", compiler: str = "works") -> dict[str, str]:
    """Variables for a process that shall find the Neuron doubles, and how they behave; see README.md."""
    path = os.pathsep.join(filter(None, (str(NEURON), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "TSM_NEURON_DOUBLE_DEVICE": device, "TSM_NEURON_DOUBLE_COMPILER": compiler}
