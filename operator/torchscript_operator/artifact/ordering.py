"""The order in which figures are shown; apart from how they are computed, which takes numpy."""

import math
from collections.abc import Iterable

from torchscript_operator.artifact.manifest import OutputParity


def worst_first(outputs: Iterable[OutputParity]) -> list[OutputParity]:
    """Order for readers in a hurry: failed before passed, not comparable first, then by the largest difference."""

    def badness(parity: OutputParity) -> tuple[bool, float, str, str]:
        difference = float(parity.maximum_absolute_difference)
        return (parity.passed, -math.inf if math.isnan(difference) else -difference, parity.output, parity.shape)

    return sorted(outputs, key=badness)
