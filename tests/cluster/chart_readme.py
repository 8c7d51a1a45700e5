"""Write the chart's README by helm-docs, or with --check compare it with what helm-docs would write."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.cluster import binaries

CHART = Path(__file__).parents[2] / "charts/torchscript-operator"
OPTIONS = ("--sort-values-order=file", "--ignore-non-descriptions", "--log-level=warning")


def written() -> str:
    """What the README should be. BuildError without helm-docs; RuntimeError with its words where it finds fault."""
    binaries.build(["helm-docs"])
    command = [str(binaries.binary("helm-docs")), f"--chart-search-root={CHART}", *OPTIONS, "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"helm-docs: {done.stderr.strip()}")
    return done.stdout.strip() + "\n"


def main() -> int:
    """Write the README, or with --check exit 1 on a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the README is out of date")
    path, text = CHART / "README.md", written()
    if not parser.parse_args().check:
        path.write_text(text)
    elif path.read_text() != text:
        sys.stderr.write(f"{path.relative_to(CHART.parents[1])} is out of date: run `make generate`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
