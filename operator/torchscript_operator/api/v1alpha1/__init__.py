"""torchscript.dev/v1alpha1."""

from torchscript_operator.api.v1alpha1.spec import TorchScriptModelSpec
from torchscript_operator.api.v1alpha1.status import TorchScriptModelStatus

GROUP = "torchscript.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "TorchScriptModel"
PLURAL = "torchscriptmodels"
SINGULAR = "torchscriptmodel"
SHORT_NAME = "tsm"
CATEGORY = "torchscript"

__all__ = [
    "API_VERSION",
    "CATEGORY",
    "GROUP",
    "KIND",
    "PLURAL",
    "SHORT_NAME",
    "SINGULAR",
    "VERSION",
    "TorchScriptModelSpec",
    "TorchScriptModelStatus",
]
