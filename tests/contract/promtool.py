"""Prometheus' own promtool, of Debian's package: what its rules do with series that a test makes up."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import yaml

from tests.cluster import packages

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Json = dict[str, Any]


def command() -> str:
    """Path of promtool, which is installed where it is missing."""
    packages.require("prometheus", "/usr/bin/promtool")
    found = shutil.which("promtool")
    assert found is not None
    return found


def run(*arguments: str) -> str:
    """What promtool says; fails with it."""
    done = subprocess.run([command(), *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def firing(folder: Path, groups: list[Json], cases: Mapping[str, Json]) -> None:
    """Evaluate rules over each case's series, and fail with the alerts that are not as it says."""
    rules, tests = folder / "rules.yaml", folder / "tests.yaml"
    rules.write_text(yaml.safe_dump({"groups": groups}))
    run("check", "rules", str(rules))
    wanted = {"rule_files": [str(rules)], "evaluation_interval": "1m"}
    listed = [{"name": name, "interval": "1m", **case} for name, case in cases.items()]
    tests.write_text(yaml.safe_dump({**wanted, "tests": listed}))
    run("test", "rules", str(tests))
