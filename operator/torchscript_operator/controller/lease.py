"""Which of several operators leads: a Lease, acquired, renewed and given back as Kubernetes' own components do it.

Leading saves work and noise; nothing is wrong with two leaders, since each pass reads live objects and each status
write names the version that it rests on. Expiry is measured from when this process saw the Lease change, by its own
clock, since clocks of nodes differ.
"""

import asyncio
import logging
import math
import random
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from torchscript_operator.controller import metrics
from torchscript_operator.controller.cluster import Cluster
from torchscript_operator.controller.connection import ApiError
from torchscript_operator.controller.export_plan import stamp
from torchscript_operator.controller.model import MANAGER, Json
from torchscript_operator.controller.settings import LeaderElection

logger = logging.getLogger(__name__)

API_VERSION = "coordination.k8s.io/v1"
KIND = "Lease"
PLURAL = "leases"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where the kubelet puts the namespace of a pod that has a token."""
TRIES_TO_DEADLINE = 2
"""Of the time to renew, a single try takes at most one part in so many: a connection may hang."""
JITTER = 0.2
"""Share by which a wait is prolonged, so that those who wait do not ask all at once."""
RELEASE_SECONDS = 5.0
"""Longest time to give the Lease back at the end."""


class LeaseLostError(Exception):
    """Another may lead by now."""


class NoNamespaceError(ValueError):
    """Nothing says in which namespace the Lease is."""


@dataclass(frozen=True)
class Seen:
    """When a version of the Lease was first seen, in seconds of time.monotonic()."""

    version: str
    since: float


def seen(before: Seen | None, lease: Json, now: float) -> Seen:
    """Note a Lease; one that has not changed keeps its time."""
    version = lease["metadata"]["resourceVersion"]
    return before if before is not None and before.version == version else Seen(version, now)


def holder(lease: Json) -> str:
    """Who holds a Lease; empty where nobody does."""
    return str(lease.get("spec", {}).get("holderIdentity") or "")


def seconds_held(lease: Json, since: float, identity: str, now: float) -> float:
    """For how long another's hold still counts; 0 where the Lease is free, expired or one's own."""
    if holder(lease) in {"", identity}:
        return 0.0
    duration: float = lease["spec"].get("leaseDurationSeconds") or 0
    return max(0.0, since + duration - now)


def claimed(lease: Json | None, terms: LeaderElection, namespace: str, identity: str, now: datetime) -> Json:
    """The Lease with oneself as its holder, as it is to be written."""
    spec = (lease or {}).get("spec", {})
    mine = lease is not None and holder(lease) == identity
    time_now = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    turns = spec.get("leaseTransitions") or 0
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": lease["metadata"] if lease is not None else {"name": terms.name, "namespace": namespace},
        "spec": {
            **spec,
            "holderIdentity": identity,
            "leaseDurationSeconds": math.ceil(terms.lease_duration_seconds),
            "acquireTime": spec.get("acquireTime", time_now) if mine else time_now,
            "renewTime": time_now,
            "leaseTransitions": turns if mine or lease is None else turns + 1,
        },
    }


def released(lease: Json) -> Json:
    """The Lease without a holder: whoever looks next may take it at once."""
    spec = {key: value for key, value in lease["spec"].items() if key != "holderIdentity"}
    return {**lease, "apiVersion": API_VERSION, "kind": KIND, "spec": {**spec, "leaseDurationSeconds": 1}}


def namespace_of(terms: LeaderElection, file: Path = NAMESPACE_FILE) -> str:
    """The namespace of the Lease. Raises NoNamespaceError."""
    if terms.namespace:
        return terms.namespace
    try:
        return file.read_text().strip()
    except OSError as error:
        raise NoNamespaceError(f"leaderElection.namespace is not set, and {file} cannot be read") from error


def own_identity() -> str:
    """A name that no other process has, which begins with the pod's."""
    return f"{socket.gethostname()}_{uuid.uuid4()}"


class Leadership(Protocol):
    """Whether this process leads."""

    leading: asyncio.Event
    """Set once it leads; it does so until its end."""
    able: bool
    """It could read what it waits for, or lead at once: nothing but its turn is missing."""

    def leads(self) -> bool:
        """Whether a write may be sent now."""

    def led_seconds(self) -> float:
        """For how long it has led; 0 while it waits."""

    async def run(self) -> None:
        """Become the leader and stay it. Raises LeaseLostError."""

    async def release(self) -> None:
        """Let another lead."""


class Alone:
    """The only operator there is: it leads from its first moment."""

    def __init__(self) -> None:
        """Lead."""
        self.leading = asyncio.Event()
        self.leading.set()
        self.able = True
        self._since = time.monotonic()
        metrics.LEADER.set(1)

    def leads(self) -> bool:
        """Always."""
        return True

    def led_seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._since

    async def run(self) -> None:
        """Go on for ever."""
        await asyncio.Event().wait()

    async def release(self) -> None:
        """There is nobody to lead in its place."""


@dataclass
class Elector:
    """Takes turns with others at one Lease."""

    cluster: Cluster
    terms: LeaderElection
    namespace: str
    identity: str = field(default_factory=own_identity)
    clock: Callable[[], float] = time.monotonic
    leading: asyncio.Event = field(default_factory=asyncio.Event)
    able: bool = False
    _seen: Seen | None = None
    _until: float = -math.inf
    """Until when writes are allowed: the deadline, counted from before the last renewal was sent."""
    _since: float = 0.0

    def leads(self) -> bool:
        """Whether the Lease was renewed so lately that nobody else can have taken it."""
        return self.clock() < self._until

    def led_seconds(self) -> float:
        """For how long it has led; 0 while it waits."""
        return self.clock() - self._since if self.leading.is_set() else 0.0

    async def run(self) -> None:
        """Wait for the Lease, then renew it. Raises LeaseLostError once it cannot be renewed in time."""
        metrics.LEADER.set(0)
        logger.info("waiting for the lease %s/%s as %s", self.namespace, self.terms.name, self.identity)
        left = await self._try()
        while left is not None:
            # A hold that is about to end is not slept over.
            spread = random.uniform(1, 1 + JITTER)  # noqa: S311 -- spreads load, hides nothing
            await asyncio.sleep(min(left, self.terms.retry_seconds * spread))
            left = await self._try()
        self._since = self.clock()
        self.leading.set()
        metrics.LEADER.set(1)
        logger.info("this operator leads")
        await self._tell("became leader")
        try:
            while True:
                await asyncio.sleep(self.terms.retry_seconds)
                await self._renew()
        finally:
            metrics.LEADER.set(0)

    async def _renew(self) -> None:
        while (left := await self._try()) is not None:
            # Held by another, or not renewed in time.
            if not self.leads():
                raise LeaseLostError(f"the lease {self.namespace}/{self.terms.name} was lost, so this operator ends")
            await asyncio.sleep(max(0.0, min(left, self._until - self.clock())))

    async def _try(self) -> float | None:
        """Take or renew the Lease; None where that worked, else in how many seconds another try may."""
        started = self.clock()
        try:
            async with asyncio.timeout(self.terms.renew_deadline_seconds / TRIES_TO_DEADLINE):
                lease = await self.cluster.find(API_VERSION, PLURAL, self.namespace, self.terms.name)
                if lease is not None:
                    if self.leading.is_set() and holder(lease) != self.identity:
                        # Another has led since, even if it does not any more.
                        self._until = -math.inf
                        return self.terms.retry_seconds
                    self._seen = seen(self._seen, lease, self.clock())
                    left = seconds_held(lease, self._seen.since, self.identity, self.clock())
                    if left > 0:
                        self.able = True
                        return left
                body = claimed(lease, self.terms, self.namespace, self.identity, datetime.now(UTC))
                written = await self.cluster.write_lease(body)
        except (ApiError, TimeoutError) as error:
            logger.warning("the lease cannot be read or written: %s", error or "no answer in time")
            return self.terms.retry_seconds
        if written is None:
            return self.terms.retry_seconds
        self.able = True
        self._seen = seen(None, written, self.clock())
        self._until = started + self.terms.renew_deadline_seconds
        return None

    async def release(self) -> None:
        """Give the Lease back, where it is one's own; whoever waits need not wait for its end."""
        if not self.leads():
            return
        self._until = -math.inf
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                lease = await self.cluster.find(API_VERSION, PLURAL, self.namespace, self.terms.name)
                if lease is not None and holder(lease) == self.identity:
                    await self.cluster.write_lease(released(lease))
                    logger.info("the lease is given back")
        except (ApiError, TimeoutError) as error:
            logger.warning("the lease cannot be given back: %s", error or "no answer in time")

    async def _tell(self, what: str) -> None:
        """Write an Event about the Lease, as Kubernetes' own components do; one that is refused is no fault."""
        now = stamp(datetime.now(UTC))
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{self.terms.name}.{uuid.uuid4().hex[:16]}", "namespace": self.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": self.namespace,
                "name": self.terms.name,
            },
            "reason": "LeaderElection",
            "message": f"{self.identity} {what}",
            "type": "Normal",
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            # The next renewal must not wait for it.
            async with asyncio.timeout(self.terms.retry_seconds):
                await self.cluster.create(event)
        except (ApiError, TimeoutError) as error:
            logger.warning("the event about the lease was not written: %s", error or "no answer in time")
