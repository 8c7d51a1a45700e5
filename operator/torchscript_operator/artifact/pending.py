"""Artifacts that are compiled but not proven: stored where a verify Job finds them and no server ever looks.

Below `<prefix>/<key>/` the files lie as they will in the finished artifact. In place of a manifest there is
`<sha256>/pending.json`, and last `pending.json`: other names than those that servers read, around a document that is
no manifest, so that even a copy under a manifest's name is refused. Proving one uploads no file a second time.
"""

from typing import Literal

from torchscript_operator.artifact import digest as digests
from torchscript_operator.artifact.contract import Document
from torchscript_operator.artifact.manifest import Manifest, Parity
from torchscript_operator.artifact.request import Tolerances
from torchscript_operator.artifact.store import Mark

PENDING_NAME = "pending.json"


class Pending(Document):
    """pending.json."""

    schema_version: Literal[1] = 1
    unproven: Manifest
    """The manifest to be; its parity is that of nothing compared, which is a failure under any policy."""

    def encode(self) -> bytes:
        """The bytes that are stored and whose SHA-256 a verify Job is given."""
        return digests.canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True))


def unproven(tolerances: Tolerances) -> Parity:
    """The parity of what has not been compared: a failure, enforced whatever the policy."""
    return Parity(verdict="Failed", tolerances=tolerances.model_copy(update={"policy": "Enforce"}), outputs=())


PENDING = Mark(
    PENDING_NAME,
    lambda manifest: Pending(unproven=manifest).encode(),
    lambda encoded: Pending.model_validate_json(encoded).unproven,
)
"""What verify Jobs read."""
