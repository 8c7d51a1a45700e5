"""TEST DOUBLE, not AWS's torch-neuronx (Inf2, Trn1): the documented signature and failures; see ../../README.md."""

import os
from typing import Any

import neuron_double as double

LIBRARY = double.define("neuronx")
PLATFORM = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE")
"""Read at the import, as documented."""
FLAGS = {
    "--auto-cast": {"none", "matmult", "all"},
    "--auto-cast-type": {"bf16", "fp16", "tf32", "fp8_e4m3"},
    "--model-type": {"generic", "transformer", "unet-inference"},
    "--optlevel": {"1", "2", "3"},
    "--target": {"inf2", "trn1", "trn1n", "trn2"},
}


def _flags(arguments: Any) -> dict[str, str]:
    if arguments is None:
        return {}
    if not double.is_strings(arguments) or len(arguments) % 2:
        raise TypeError(f"torch_neuronx.trace() does not take compiler_args={arguments!r}")
    found = dict(zip(arguments[::2], arguments[1::2], strict=True))
    for flag, value in found.items():
        if value not in FLAGS.get(flag, ()):
            raise ValueError(f"neuronx-cc: error: {flag} {value}")
    return found


def trace(
    func: Any,
    example_inputs: Any,
    *_: Any,
    input_output_aliases: Any = {},  # noqa: B006 -- the documented signature
    compiler_workdir: str | None = None,
    compiler_args: Any = None,
    partitioner_config: Any = None,
    inline_weights_to_neff: bool = True,
    cpu_backend: bool = False,
) -> Any:
    """Compile; an unsupported operator raises, and without cpu_backend a device has to be there."""
    flags = _flags(compiler_args)
    if compiler_workdir is not None and not isinstance(compiler_workdir, str):
        raise TypeError("compiler_workdir")
    if input_output_aliases or partitioner_config is not None or inline_weights_to_neff is not True:
        raise TypeError("the double knows the defaults only")
    if cpu_backend:
        if "--target" not in flags or PLATFORM is None:
            raise ValueError("cpu_backend needs --target, and NEURON_PLATFORM_TARGET_OVERRIDE before the import")
    else:
        double.need_device()
    mode = double.compiler()
    if mode == "killed":
        raise RuntimeError("neuronx-cc failed. Compile command returned: -9 (test double)")
    if mode == "unsupported":
        raise RuntimeError("neuronx-cc: an operator is not supported (test double)")
    if mode in {"all-failed", "partial"}:
        raise RuntimeError("neuronx-cc: internal compiler error (test double)")
    casts = flags.get("--auto-cast", "none") != "none"
    return double.traced(func, example_inputs, "neuronx", casts, strict=False)


def analyze(
    func: Any,  # noqa: ARG001
    example_inputs: Any,  # noqa: ARG001
    compiler_workdir: str | None = None,  # noqa: ARG001
    is_hf_transformers: bool = True,  # noqa: ARG001
    **_: Any,
) -> dict[str, Any]:
    """Say what is not supported."""
    if double.compiler() == "unsupported":
        return {"support_percentage": "99.4%", "unsupported_operators": ["aten::erfinv"]}
    return {"support_percentage": "100%", "unsupported_operators": []}
