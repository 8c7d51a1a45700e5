"""Forms of one model on the CPU: lower precisions, made from the eager model before it is traced."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

Precision = Literal["float32", "bfloat16", "int8"]
CPU_INFO = Path("/proc/cpuinfo")
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "bf16")
"""Instructions that decide how fast a precision is, as /proc/cpuinfo names them on x86 and on Arm."""
BFLOAT16_FEATURES = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""With none of them bfloat16 is emulated, which is slower than float32."""


@dataclass(frozen=True)
class Form:
    """What a model is compiled to."""

    precision: Precision = "float32"
    frozen: bool = False
    """Fold the weights into the graph before saving."""
    packed: bool = False
    """Have oneDNN lay out the weights of linear layers once, as the file is loaded. Such weights are no constants, so
    that no form is both frozen and packed."""
    kept_layers: tuple[str, ...] = ()
    """int8: linear layers, named as in the traced module, that stay in float32."""

    @property
    def label(self) -> str:
        """For people, such as "int8, frozen, 3 layers in float32"."""
        kept = f"{len(self.kept_layers)} layers in float32" if self.kept_layers else None
        frozen, packed = "frozen" if self.frozen else None, "packed" if self.packed else None
        return ", ".join(filter(None, (self.precision, frozen, packed, kept)))


PLAIN = Form()
"""As traced, in float32."""
FIXED_FORMS: dict[str, tuple[Form, ...]] = {
    "float32": (PLAIN,),
    "bfloat16": (Form("bfloat16", packed=True), Form("bfloat16", frozen=True)),
}
"""The forms of each precision that is not searched for: the first that can be had is taken, the last always can."""


def processor_features(path: Path = CPU_INFO) -> tuple[str, ...]:
    """Those of FEATURES that this processor has; none where the kernel does not say."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ()
    words = next(
        (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))), []
    )
    return tuple(feature for feature in FEATURES if feature in words)


def fixed_form(precision: str) -> Form:
    """The form of a precision that is not searched for. KeyError for one that is."""
    forms = FIXED_FORMS[precision]
    return next((form for form in forms if not form.packed or _packing_refused(form) is None), forms[-1])


def missing_for(form: Form) -> str | None:
    """What this node lacks for a form, in words; None when it has what it takes."""
    if form.precision == "bfloat16" and not BFLOAT16_FEATURES.intersection(processor_features()):
        return "this processor has none of avx512_bf16, amx_bf16 and Arm's bf16"
    if form.precision == "int8":
        import torch  # noqa: PLC0415

        if torch.backends.quantized.engine == "none":
            return "this build of torch has no engine for int8"
    return _packing_refused(form) if form.packed else None


def _packing_refused(form: Form) -> str | None:
    import torch  # noqa: PLC0415

    from torchscript_operator.export.packed import refusal  # noqa: PLC0415

    return refusal(torch.bfloat16 if form.precision == "bfloat16" else torch.float32)


def lower(module: "nn.Module", inner: "nn.Module", form: Form) -> "nn.Module":
    """The module that is traced for a form; `module` and its weights stay as they are.

    inner: the Transformers model inside the wrapper `module`. Its outputs are made float32, so that pooling and what
    else the wrapper does is never done in a lower precision. Raises ValueError for kept layers that do not exist.
    """
    if form.precision == "bfloat16":
        return _bfloat16(module, inner, packed=form.packed)
    if form.precision == "int8":
        unknown = set(form.kept_layers) - set(linear_layers(module))
        if unknown:
            msg = f"no linear layers of these names: {sorted(unknown)}"
            raise ValueError(msg)
        shared = _share(module)
        with _quiet():
            for name in linear_layers(shared):
                if name not in form.kept_layers:
                    swap(shared, name, quantized(shared.get_submodule(name)))
        return shared
    if form.packed:
        return _pack(_share(module))
    return module


def linear_layers(module: "nn.Module") -> tuple[str, ...]:
    """Names of the layers that int8 can take, in the order of the module."""
    from torch import nn  # noqa: PLC0415

    return tuple(name for name, layer in module.named_modules() if type(layer) is nn.Linear)


def quantized(layer: Any) -> "nn.Module":
    """A linear layer with weights of 8 bits a channel, and inputs of 8 bits whose scale is found at each pass."""
    from torch.ao.nn.quantized.dynamic import Linear  # noqa: PLC0415
    from torch.ao.quantization import per_channel_dynamic_qconfig  # noqa: PLC0415

    layer.qconfig = per_channel_dynamic_qconfig
    try:
        found: nn.Module = Linear.from_float(layer)  # type: ignore[no-untyped-call]
    finally:
        del layer.qconfig
    return found


def swap(module: "nn.Module", name: str, layer: "nn.Module") -> "nn.Module":
    """Put a layer in the place of another, wherever that is used, and return the one that was there."""
    old = module.get_submodule(name)
    for parent in module.modules():
        # named_children() leaves out a layer's second name.
        for child, found in list(parent._modules.items()):  # noqa: SLF001
            if found is old:
                setattr(parent, child, layer)
    return old


def rank_layers(
    module: "nn.Module", similarity: Callable[["nn.Module"], float], in_time: Callable[[], bool]
) -> list[tuple[str, float]]:
    """Linear layers with the similarity to eager when each alone is quantised, the most harmful first.

    similarity: runs a module and returns the smallest cosine. A layer that the time does not suffice for counts as the
    most harmful: what was not measured is not quantised.
    """
    shared = _share(module)
    ranked: list[tuple[str, float]] = []
    with _quiet():
        for name in linear_layers(shared):
            if not in_time():
                ranked.append((name, -1.0))
                continue
            layer = swap(shared, name, quantized(shared.get_submodule(name)))
            ranked.append((name, similarity(shared)))
            swap(shared, name, layer)
    return sorted(ranked, key=lambda entry: entry[1])


def fewest_kept(ranked: Sequence[tuple[str, float]], holds: Callable[[tuple[str, ...]], bool], most: int) -> int | None:
    """How many of the most harmful layers have to stay in float32, at most `most`; None when even those do not do.

    holds: whether parity holds with these layers kept. Asked log2(most) times, since more kept layers never do harm.
    """
    names = tuple(name for name, _ in ranked)
    low, high = 1, most
    if high < low or not holds(names[:high]):
        return None
    while low < high:
        middle = (low + high) // 2
        if holds(names[:middle]):
            high = middle
        else:
            low = middle + 1
    return high


def _pack(module: "nn.Module") -> "nn.Module":
    """Swap the linear layers of a module, which keeps its weights."""
    from torchscript_operator.export.packed import PackedLinear, can_pack  # noqa: PLC0415

    with _quiet():
        for name in linear_layers(module):
            layer = module.get_submodule(name)
            if can_pack(layer):
                swap(module, name, PackedLinear(layer))
    return module


def _bfloat16(module: "nn.Module", inner: "nn.Module", *, packed: bool) -> "nn.Module":
    import torch  # noqa: PLC0415

    from torchscript_operator.export.lowered import Lowered, to_float32  # noqa: PLC0415

    memo: dict[int, Any] = {}
    # Converted here and not after the copy, so that there never is a second float32 model.
    for _, parameter in module.named_parameters(remove_duplicate=True):
        data = parameter.detach()
        data = data.to(torch.bfloat16) if data.is_floating_point() else data
        memo[id(parameter)] = torch.nn.Parameter(data, requires_grad=False)
    for _, buffer in module.named_buffers(remove_duplicate=True):
        memo[id(buffer)] = buffer.to(torch.bfloat16) if buffer.is_floating_point() else buffer
    lowered = copy.deepcopy(module, memo)
    # A wrapper may hold only parts of the model, such as its encoder.
    if id(inner) in memo:
        memo[id(inner)].register_forward_hook(lambda _module, _inputs, outputs: to_float32(outputs))
    return Lowered(_pack(lowered) if packed else lowered).eval()


def _share(module: "nn.Module") -> "nn.Module":
    """A copy of a module's structure over the very same weights."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the farewells of torch.ao, where eager mode's quantised layers are, and of torch.jit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.")
        warnings.filterwarnings("ignore", message=r".*torch\.ao\.quantization")
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.ao\.")
        yield
