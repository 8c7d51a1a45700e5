"""An operator that has a Role in its namespace and nothing else ends where one with a ClusterRole does."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.cluster.controlplane import ControlPlane
from tests.integration import faults
from tests.integration.conftest import install_rights
from tests.integration.faults import FOR_EVER
from tests.integration.impatience import SHORT_CALLS
from tests.integration.lives import Site, World, updated
from tests.integration.test_hostile_api import once_on_each_kind
from tests.integration.test_intermediate_state import at
from tests.integration.test_rights import refused
from tests.integration.test_unobserved_state import on_watches

DISTURBED: dict[str, Callable[[Site], Any]] = {
    "nothing": lambda _: None,
    "killed before write 5": partial(at, "killed before", 5, 1),
    "killed after write 12": partial(at, "killed after", 12, 1),
    "answer to write 9 lost": partial(at, "answer lost", 9, 1),
    "500 on each kind of call": partial(once_on_each_kind, "500"),
    "every watch ends at its second event (410)": partial(on_watches, faults.gone_event(after=1), FOR_EVER),
}


def test_role_in_one_namespace_leads_to_the_same_end(plane: ControlPlane, world: World, tmp_path: Path) -> None:
    reference = world.reference(updated)
    spaces = [world.make_namespace() for _ in DISTURBED]
    values = ("--set", f"watchNamespaces={{{','.join(spaces)}}}", "--set", "nameOverride=narrow")
    kubeconfig, user = install_rights(plane, tmp_path, *values)
    narrow = replace(world, rights=kubeconfig, make_namespace=iter(spaces).__next__, scoped=True)
    lived = narrow.all(
        {name: partial(narrow.live, updated, disturb, SHORT_CALLS) for name, disturb in DISTURBED.items()}
    )
    assert {name: found for name, one in lived.items() if (found := one.differs(reference))} == {}
    assert refused(plane, user) == []
