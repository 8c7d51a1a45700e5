"""What NetworkPolicies allow, by the rules of networking.k8s.io/v1: enough of them for those that the chart makes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

Json = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod, at some address outside of every range that a test names."""

    labels: dict[str, str]
    namespace: str


@dataclass(frozen=True)
class Address:
    """Something that is no pod."""

    ip: str


@dataclass(frozen=True)
class Network:
    """Policies, and namespaces by name with more labels than the one that all have."""

    policies: Iterable[Json]
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)

    def reaches(self, pod: Pod, peer: Pod | Address, port: int, protocol: str = "TCP") -> bool:
        """Whether a pod may open a connection, as far as its own policies go."""
        return self._allowed(pod, "Egress", peer, port, protocol)

    def is_reached(self, pod: Pod, peer: Pod | Address, port: int, protocol: str = "TCP") -> bool:
        """Whether a pod may be connected to, as far as its own policies go."""
        return self._allowed(pod, "Ingress", peer, port, protocol)

    def _allowed(self, pod: Pod, direction: str, peer: Pod | Address, port: int, protocol: str) -> bool:
        chosen = [
            policy["spec"]
            for policy in self.policies
            if policy["metadata"]["namespace"] == pod.namespace
            and direction in policy["spec"]["policyTypes"]
            and selects(policy["spec"]["podSelector"], pod.labels)
        ]
        if not chosen:
            return True
        ends = "to" if direction == "Egress" else "from"
        return any(
            self._port(rule, port, protocol) and self._peer(rule.get(ends), peer, pod.namespace)
            for spec in chosen
            for rule in spec.get(direction.lower()) or []
        )

    @staticmethod
    def _port(rule: Json, port: int, protocol: str) -> bool:
        ports = rule.get("ports")
        return not ports or any(each["port"] == port and each.get("protocol", "TCP") == protocol for each in ports)

    def _peer(self, peers: list[Json] | None, peer: Pod | Address, here: str) -> bool:
        return not peers or any(self._matches(each, peer, here) for each in peers)

    def _matches(self, entry: Json, peer: Pod | Address, here: str) -> bool:
        if "ipBlock" in entry:
            return isinstance(peer, Address) and (
                ipaddress.ip_address(peer.ip) in ipaddress.ip_network(entry["ipBlock"]["cidr"])
            )
        if isinstance(peer, Address):
            return False
        labels = {"kubernetes.io/metadata.name": peer.namespace, **self.namespaces.get(peer.namespace, {})}
        within = selects(entry["namespaceSelector"], labels) if "namespaceSelector" in entry else peer.namespace == here
        return within and selects(entry.get("podSelector", {}), peer.labels)


def selects(selector: Json, labels: dict[str, str]) -> bool:
    """Whether a label selector, of the operators that the chart uses, chooses labels."""
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )
