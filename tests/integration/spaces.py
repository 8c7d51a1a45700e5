"""Where the models of tests live: namespaces made when wanted, or with --scoped a list that operators are told."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from tests.integration.harness import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.integration.harness import Api, Json

RBAC = "/apis/rbac.authorization.k8s.io/v1"


def make_namespace(api: Api, name: str) -> str:
    """Make a namespace with the account that the controller manager would make."""
    api("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    with suppress(Refused):  # where there is a controller manager, it may have been faster
        api("POST", f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
    return name


class Spaces:
    """The namespaces of one API server's tests."""

    def __init__(self, api: Api, listed: int) -> None:
        """Make as many as are to be listed; none where the operator looks after all that there will be."""
        self.api = api
        self.listed = tuple(make_namespace(api, f"scoped-{number}") for number in range(listed))
        self._left = iter(self.listed)

    @classmethod
    def of(cls, api: Api, request: pytest.FixtureRequest, is_for: Callable[[pytest.Item], bool]) -> Spaces:
        """One for each of some tests of this run, if operators are to be scoped."""
        scoped = request.config.getoption("scoped")
        # Lives have operators and namespaces of their own, with the rights of those in the first of the list.
        return cls(api, 1 + sum(map(is_for, request.session.items)) if scoped else 0)

    @property
    def flags(self) -> tuple[str, ...]:
        """For the chart."""
        return ("--set", f"watchNamespaces={{{','.join(self.listed)}}}") if self.listed else ()

    @property
    def settings(self) -> Json:
        """For the operator."""
        return {"watchNamespaces": list(self.listed)} if self.listed else {}

    def take(self, name: str) -> str:
        """A namespace of a test's own: one of this name, or the next of the list."""
        return next(self._left) if self.listed else make_namespace(self.api, name)

    def add(self, name: str) -> str:
        """A namespace outside the list, in which the operator's account may do the same."""
        make_namespace(self.api, name)
        for plural in ("roles", "rolebindings") if self.listed else ():
            for body in self.api("GET", f"{RBAC}/namespaces/{self.listed[0]}/{plural}")["items"]:
                body["metadata"] = {"name": body["metadata"]["name"]}
                self.api("POST", f"{RBAC}/namespaces/{name}/{plural}", body)
        return name
