"""Which tests may run beside each other: `make test` has three workers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("e2e", "integration")
"""Folders whose tests share one cluster or one API server, the longest first; elsewhere every file is for itself."""

SHARING = dict.fromkeys(("test_serve_clients.py", "test_serve_minilm.py"), "minilm")
"""Files to the name of their group: they share an export and a serving process of the real model."""

# How long an example takes says how busy the machine is; what CI judges is the same each time.
settings.register_profile("tests", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tests")

# The terminal's width, as pytest-xdist hands it to its workers, would be that of tables, too.
os.environ.pop("COLUMNS", None)


def group_of(nodeid: str) -> str:
    """What runs on one worker, in its order."""
    file = nodeid.partition("::")[0]
    folder, _, name = file.removeprefix("tests/").partition("/")
    return folder if folder in TOGETHER else SHARING.get(name, file)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--scoped",
        action="store_true",
        help="the operators of tests/integration have Roles in a list of namespaces, and no ClusterRole",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, and leave out what a scoped operator does otherwise on purpose."""
    if config.getoption("scoped"):
        left = [item for item in items if item.get_closest_marker("cluster_wide")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
    order = {folder: place for place, folder in enumerate(TOGETHER)}
    items.sort(key=lambda item: order.get(group_of(item.nodeid), len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Give out whole groups. (pytest-xdist's own groups, by a marker, have no effect with pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)
