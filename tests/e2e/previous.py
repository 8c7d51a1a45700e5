"""The release that upgrades are tested from: its chart and what its operator is made of, in an archive.

`python -m tests.e2e.previous v0.1.0` makes it anew; do that once a release is out. An archive and no tag, so that a
clone without history will do.
"""

from __future__ import annotations

import argparse
import lzma
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster import images

if TYPE_CHECKING:
    from tests.cluster.image_store import ImageArchive

ROOT = Path(__file__).parents[2]
ARCHIVE = Path(__file__).with_name("previous.tar.xz")
CHART = "charts/torchscript-operator"
OPERATOR = (
    "images/operator",
    "images/uv.txt",
    "images/install.sh",
    "operator/torchscript_operator/__init__.py",
    "operator/torchscript_operator/api",
    "operator/torchscript_operator/artifact",
    "operator/torchscript_operator/controller",
)
"""What images/operator/Dockerfile copies."""


def unpack(folder: Path) -> Path:
    """Unpack the release; returns its chart."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / CHART


def build_operator(folder: Path) -> ImageArchive:
    """The operator's image of an unpacked release."""
    return images.Builder(images.cache(), checkout=folder).build("operator")


def main() -> None:
    """Make the archive of a revision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", help="tag or commit")
    command = ["git", "archive", "--format=tar", parser.parse_args().revision, "--", CHART, *OPERATOR]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    ARCHIVE.write_bytes(lzma.compress(done.stdout, preset=9))


if __name__ == "__main__":
    main()
