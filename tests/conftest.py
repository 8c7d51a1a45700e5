"""Which tests may run beside each other: `make test` gives every core a worker."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

TOGETHER = ("e2e", "integration")
"""Folders whose tests share one cluster or one API server, the longest first; elsewhere every file is for itself."""

SHARING = dict.fromkeys(("test_serve_clients.py", "test_serve_minilm.py"), "minilm")
"""Files to the name of their group: they share an export and a serving process of the real model."""

# How long an example takes says how busy the machine is; what CI judges is the same each time.
settings.register_profile("tests", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tests")

# The terminal's width, as pytest-xdist hands it to its workers, would be that of tables, too.
os.environ.pop("COLUMNS", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests for pytest-xdist (--dist loadgroup --no-loadscope-reorder), and begin with what takes longest."""
    folders = {item: item.path.relative_to(Path(__file__).parent).parts[0] for item in items}
    items.sort(key=lambda item: TOGETHER.index(folders[item]) if folders[item] in TOGETHER else len(TOGETHER))
    for item in items:
        group = folders[item] if folders[item] in TOGETHER else SHARING.get(item.path.name, str(item.path))
        item.add_marker(pytest.mark.xdist_group(group))
