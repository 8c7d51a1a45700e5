"""TEST DOUBLE, not AWS's torch-neuron (Inf1): the documented signature, log lines and failures; see ../../README.md."""

import logging
import subprocess
from enum import Enum
from typing import Any

import neuron_double as double
import torch

logger = logging.getLogger("Neuron")
LIBRARY = double.define("neuron")
ABORT = "No operations were successfully partitioned and compiled to neuron for this model - aborting trace!"


class Optimization(Enum):
    """As in torch_neuron.Optimization."""

    FLOAT32_TO_FLOAT16 = 1


TYPES = {
    "compiler_args": double.is_strings,
    "compiler_timeout": lambda value: isinstance(value, int) and value > 0,
    "compiler_workdir": lambda value: isinstance(value, str),
    "minimum_segment_size": lambda value: isinstance(value, int),
    "single_fusion_ratio_threshold": lambda value: isinstance(value, float),
    "fallback": lambda value: isinstance(value, bool),
    "dynamic_batch_size": lambda value: isinstance(value, bool),
    "optimizations": lambda value: all(isinstance(item, Optimization) for item in value),
    "separate_weights": lambda value: isinstance(value, bool),
}
"""Keywords of the compiler and what they take; all others go to torch.jit.trace."""
TENSORS = (torch.int64, torch.float32)
FAST_MATH = {"all", "none", "fp32-cast-matmult", "no-fast-relayout"}


def trace(func: Any, example_inputs: Any, **keywords: Any) -> Any:
    """Compile; all but the first two arguments by keyword."""
    if not isinstance(example_inputs, tuple) or any(x.dtype not in TENSORS for x in example_inputs):
        raise TypeError("the double takes a tuple of int64 or float32 tensors, as the documented examples do")
    for name, value in keywords.items():
        if name in TYPES and not TYPES[name](value):
            raise TypeError(f"torch_neuron.trace() does not take {name}={value!r}")
    options = {name: value for name, value in keywords.items() if name not in TYPES}
    mode = double.compiler()
    if mode == "slow":
        raise subprocess.TimeoutExpired(["neuron-cc", "compile"], keywords.get("compiler_timeout", 1))
    if mode == "unsupported" and not keywords.get("fallback", True):
        raise AttributeError("neuron-cc has no implementation of aten::erfinv")
    casts = _casts(keywords.get("compiler_args") or [])
    if mode == "silent":
        return double.traced(func, example_inputs, "neuron", casts, **options)
    compiled = _partition(mode)
    _list(mode)
    if mode == "nothing-placed":
        logger.warning("No operator is placed on Neuron runtime; returning a CPU trace")
        return torch.jit.trace(func, example_inputs, check_trace=False, **options)
    if not compiled:
        raise RuntimeError(ABORT)
    return double.traced(func, example_inputs, "neuron", casts, **options)


def _partition(mode: str) -> int:
    """Log what became of the sub-graphs; returns how many were compiled."""
    created = 2 if mode in {"partial", "uncompiled"} else 1
    compiled = 0 if mode in {"all-failed", "killed", "unsupported", "nothing-placed"} else 1
    # A sub-graph that was created and then dropped without a word.
    total = 1 if mode == "uncompiled" else created
    logger.info(
        "Number of arithmetic operators (post-compilation) before = 565, compiled = 548, percent compiled = 96.99%"
    )
    if mode != "unsupported":
        logger.info("The neuron partitioner created %d sub-graphs", created)
    if mode == "killed":
        logger.error("Compile command returned: -9")
    if mode in {"partial", "killed", "all-failed"}:
        logger.warning("torch.neuron.trace failed on _NeuronGraph$698; falling back to native python function call")
    if compiled:
        logger.info(
            "Neuron successfully compiled %d sub-graphs, Total fused subgraphs = %d, "
            "Percent of model sub-graphs successfully compiled = %.1f%%",
            compiled,
            total,
            100.0 * compiled / total,
        )
    return compiled


def _list(mode: str) -> None:
    """Log which operators went where."""
    logger.info("Compiled these operators (and operator counts) to Neuron:")
    logger.info(" => aten::matmul: 12")
    logger.info("Not compiled operators (and operator counts) to Neuron:")
    logger.info(" => aten::embedding: 3 [not supported]")
    if mode == "unsupported":
        logger.info(" => aten::erfinv: 1 [not supported]")
    logger.info(" => aten::size: 2")


def _casts(arguments: list[str]) -> bool:
    """Whether float32 becomes bfloat16: neuron-cc's default."""
    if "--fast-math" not in arguments:
        return True
    values = []
    for argument in arguments[arguments.index("--fast-math") + 1 :]:
        if argument.startswith("--"):
            break
        values.append(argument)
    if not values or not set(values) <= FAST_MATH:
        raise ValueError(f"neuron-cc: error: argument --fast-math: {values}")
    return values != ["none"]


def analyze_model(model: Any, example_inputs: Any) -> None:  # noqa: ARG001
    """Log the share of supported operators."""
    logger.info("100.00% of arithmetic operations (160 of 160) are supported")


class _Namespace:
    """`torch.neuron`, which the import provides."""

    trace = staticmethod(trace)
    analyze_model = staticmethod(analyze_model)


torch.neuron = _Namespace()
