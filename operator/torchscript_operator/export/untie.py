"""Untying: give every parameter a tensor of its own, as the guide's torchscript flag did for language-model heads."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def untie(model: "nn.Module") -> int:
    """Clone parameters that several modules share, in place, and return how many clones were made.

    The first owner, in module order, keeps the original. An untied model must not be trained further: its copies
    would drift apart. Works on any version of Transformers, since it looks at tensors and not at the config.
    """
    import torch  # noqa: PLC0415

    seen: set[int] = set()
    clones = 0
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):  # noqa: SLF001
            if parameter is None or parameter.numel() == 0:
                continue
            # By address: two parameters over the same memory are as tied as one parameter under two names.
            place = parameter.data_ptr()
            if place in seen:
                clone = parameter.detach().clone()
                module._parameters[name] = torch.nn.Parameter(clone, requires_grad=parameter.requires_grad)  # noqa: SLF001
                clones += 1
            else:
                seen.add(place)
    return clones
