"""TEST DOUBLE, not AWS's Neuron: what the stand-ins for torch_neuron and torch_neuronx share.

A compiled module is the traced one between two operators of our own: one refuses other sizes than the compiled ones,
one needs a device and rounds as the compiler's flags say. A file with them loads only after the double was imported.
"""

import os
from typing import Any

import torch
from torch import nn

DEVICE = "TSM_NEURON_DOUBLE_DEVICE"
COMPILER = "TSM_NEURON_DOUBLE_COMPILER"
ABSENT = (
    "The PyTorch Neuron Runtime could not be initialized. Neuron Driver issues are logged to your system logs. "
    "(test double)"
)
BUSY = "NeuronCore(s) not available - Requested:nc1-nc1 Available:0 (test double)"


def compiler() -> str:
    """How the compiler shall behave."""
    return os.environ.get(COMPILER, "works")


def need_device() -> None:
    """RuntimeError, in the runtime's words, unless a device is there and free."""
    state = os.environ.get(DEVICE, "absent")
    if state != "present":
        raise RuntimeError(BUSY if state == "busy" else ABSENT)


_LIBRARIES: dict[str, Any] = {}


def define(namespace: str) -> Any:
    """Register the operators of one runtime, as importing it does; torch takes them once a process."""
    if namespace in _LIBRARIES:
        return _LIBRARIES[namespace]
    library = _LIBRARIES[namespace] = torch.library.Library(namespace, "DEF")
    library.define("enter(Tensor x, int[] sizes) -> Tensor")
    library.define("forward_1(Tensor x, bool bfloat16, float error) -> Tensor")

    def enter(x: Any, sizes: Any) -> Any:
        if list(x.shape) != list(sizes):
            raise RuntimeError(f"compiled for {list(sizes)}, called with {list(x.shape)} (test double)")
        return x.clone()

    def forward(x: Any, bfloat16: Any, error: float) -> Any:
        need_device()
        rounded = x.to(torch.bfloat16).to(x.dtype) if bfloat16 and x.is_floating_point() else x.clone()
        return rounded + error if x.is_floating_point() else rounded

    for name, implementation in (("enter", enter), ("forward_1", forward)):
        library.impl(name, implementation, "CPU")
    return library


class OnDevice(nn.Module):
    """A module whose trace holds the operators of a runtime."""

    def __init__(self, func: Any, namespace: str, sizes: Any, bfloat16: Any) -> None:
        super().__init__()
        self.func = func
        self.operators = getattr(torch.ops, namespace)
        self.sizes = sizes
        self.bfloat16 = bfloat16
        self.error = 0.05 if compiler() == "wrong" else 0.0

    def forward(self, *inputs: Any) -> Any:
        """Run the model between the two operators."""
        entered = [self.operators.enter(x, sizes) for x, sizes in zip(inputs, self.sizes, strict=True)]
        outputs = self.func(*entered)
        return tuple(self.operators.forward_1(x, self.bfloat16, self.error) for x in outputs)


def traced(func: Any, example_inputs: Any, namespace: str, bfloat16: Any, **options: Any) -> Any:
    """A real ScriptModule of a module; compiling, and so tracing, needs no device."""
    module = OnDevice(func, namespace, [list(x.shape) for x in example_inputs], bfloat16).eval()
    before = os.environ.get(DEVICE)
    os.environ[DEVICE] = "present"
    try:
        return torch.jit.trace(module, example_inputs, check_trace=False, **options)
    finally:
        os.environ.pop(DEVICE)
        if before is not None:
            os.environ[DEVICE] = before


def is_strings(value: Any) -> bool:
    """Whether a value is a list of str."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
