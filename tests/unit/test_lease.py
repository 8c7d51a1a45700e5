"""Which of several operators leads, against a Lease in memory and a clock that a test moves."""

import asyncio
import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from torchscript_operator.controller import lease as leases
from torchscript_operator.controller.connection import ApiError
from torchscript_operator.controller.lease import Elector, LeaseLostError, NoNamespaceError, Seen
from torchscript_operator.controller.model import Json
from torchscript_operator.controller.settings import LeaderElection

TERMS = LeaderElection(enabled=True, name="tsm", namespace="home")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def held(by: str | None = "other", version: str = "7", **spec: Any) -> Json:
    fields = {"leaseDurationSeconds": 15, "acquireTime": "2025-01-01T00:00:00.000000Z", "leaseTransitions": 3, **spec}
    metadata = {"name": "tsm", "namespace": "home", "resourceVersion": version}
    return {"metadata": metadata, "spec": fields if by is None else {"holderIdentity": by, **fields}}


class Server:
    """One Lease, and what a test wants to go wrong with it."""

    def __init__(self, lease: Json | None = None) -> None:
        self.lease = lease
        self.fails: Exception | None = None
        self.events: list[Json] = []
        self.versions = 100

    async def find(self, *_: str) -> Json | None:
        if self.fails:
            raise self.fails
        return copy.deepcopy(self.lease)

    async def write_lease(self, body: Json) -> Json | None:
        if self.fails:
            raise self.fails
        known = self.lease["metadata"]["resourceVersion"] if self.lease else None
        if body["metadata"].get("resourceVersion") != known:
            return None
        self.versions += 1
        self.lease = copy.deepcopy(body)
        self.lease["metadata"]["resourceVersion"] = str(self.versions)
        return self.lease

    async def create(self, body: Json) -> Json:
        self.events.append(body)
        return body


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that only sleeping moves."""
    found, real = Clock(), asyncio.sleep

    async def sleep(seconds: float) -> None:
        found.now += seconds
        await real(0)

    monkeypatch.setattr(leases.asyncio, "sleep", sleep)
    return found


def elector(server: Server, clock: Clock, identity: str = "me") -> Elector:
    return Elector(server, TERMS, "home", identity, clock)  # type: ignore[arg-type]


async def leads(one: Elector, server: Server) -> asyncio.Task[None]:
    task = asyncio.create_task(one.run())
    await asyncio.wait_for(one.leading.wait(), 5)
    assert leases.holder(server.lease or {}) == one.identity
    return task


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("lease", "now", "expected"),
    [
        (held(), 100.0, 15.0),
        (held(), 114.0, 1.0),
        (held(), 115.0, 0.0),
        (held("me"), 100.0, 0.0),
        (held(None), 100.0, 0.0),
        (held(""), 100.0, 0.0),
        (held(leaseDurationSeconds=None), 100.0, 0.0),
    ],
)
def test_hold_of_another_counts_until_it_has_not_been_renewed_for_its_duration(
    lease: Json, now: float, expected: float
) -> None:
    assert leases.seconds_held(lease, 100.0, "me", now) == expected


def test_lease_is_timed_from_when_this_process_saw_it_change() -> None:
    first = leases.seen(None, held(version="7"), 100.0)
    assert leases.seen(first, held(version="7"), 200.0) == Seen("7", 100.0)
    assert leases.seen(first, held(version="8"), 200.0) == Seen("8", 200.0)


def test_new_lease_names_its_holder() -> None:
    body = leases.claimed(None, TERMS, "home", "me", NOW)
    assert body["metadata"] == {"name": "tsm", "namespace": "home"}
    assert body["spec"] == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-01T00:00:00.000000Z",
        "renewTime": "2026-01-01T00:00:00.000000Z",
        "leaseTransitions": 0,
    }


def test_renewal_keeps_the_time_of_acquisition() -> None:
    spec = leases.claimed(held("me"), TERMS, "home", "me", NOW)["spec"]
    assert (spec["acquireTime"], spec["leaseTransitions"]) == ("2025-01-01T00:00:00.000000Z", 3)


def test_takeover_counts_as_a_transition_and_rests_on_the_version_that_was_read() -> None:
    body = leases.claimed(held("other"), TERMS, "home", "me", NOW)
    assert (body["spec"]["leaseTransitions"], body["spec"]["holderIdentity"]) == (4, "me")
    assert body["spec"]["acquireTime"] == body["spec"]["renewTime"]
    assert body["metadata"]["resourceVersion"] == "7"


async def test_free_lease_is_taken_at_once_and_an_event_says_so(clock: Clock) -> None:
    server = Server()
    one = elector(server, clock)
    task = await leads(one, server)
    assert one._since == 1000
    assert one.leads()
    await asyncio.sleep(0)
    assert [event["message"] for event in server.events] == ["me became leader"]
    await ended(task)


async def test_lease_of_one_who_is_gone_is_taken_within_its_duration_of_being_seen(clock: Clock) -> None:
    server = Server(held("gone"))
    one = elector(server, clock)
    task = await leads(one, server)
    assert 1015 <= one._since < 1016, "not before it has run out, and not a whole retry after"
    await ended(task)


@pytest.mark.parametrize(("fails", "able"), [(None, True), (ApiError(403, "forbidden"), False)])
async def test_operator_that_waits_is_able_to_lead_if_it_can_read_the_lease(
    clock: Clock, fails: Exception | None, able: bool
) -> None:
    server = Server(held("other"))
    server.fails = fails
    one = elector(server, clock)
    assert not one.able
    await one._try()
    assert (one.able, one.leads()) == (able, False)


async def test_released_lease_is_taken_at_the_next_look(clock: Clock) -> None:
    server = Server()
    first = elector(server, clock, "first")
    task = await leads(first, server)
    await ended(task)
    await first.release()
    assert not first.leads()
    before = clock.now
    second = elector(server, clock, "second")
    task = await leads(second, server)
    assert before <= second._since < before + 3 * TERMS.retry_seconds
    await ended(task)


async def test_release_leaves_the_lease_of_another_alone(clock: Clock) -> None:
    server = Server()
    one = elector(server, clock)
    await ended(await leads(one, server))
    server.lease = held("other", version="500")
    await one.release()
    assert server.lease == held("other", version="500")


async def test_leader_that_cannot_renew_writes_nothing_after_its_deadline_and_ends(clock: Clock) -> None:
    server = Server()
    one = elector(server, clock)
    task = await leads(one, server)
    server.fails = ApiError(0, "no answer")
    with pytest.raises(LeaseLostError, match="home/tsm was lost"):
        await asyncio.wait_for(task, 5)
    assert not one.leads()
    assert clock.now < 1000 + TERMS.lease_duration_seconds, "before anybody else may lead"


async def test_leader_that_was_held_up_may_not_write_before_it_has_renewed(clock: Clock) -> None:
    server = Server()
    one = elector(server, clock)
    task = await leads(one, server)
    assert one.leads()
    clock.now += TERMS.renew_deadline_seconds
    assert not one.leads()
    await ended(task)


@pytest.mark.parametrize("by", ["other", None])
async def test_leader_whose_lease_another_took_ends_at_once(clock: Clock, by: str | None) -> None:
    server = Server()
    one = elector(server, clock)
    task = await leads(one, server)
    server.lease = held(by, version="500")
    with pytest.raises(LeaseLostError):
        await asyncio.wait_for(task, 5)
    assert not one.leads()


async def test_leader_survives_a_failure_that_ends_before_its_deadline(clock: Clock) -> None:
    server = Server()
    one = elector(server, clock)
    task = await leads(one, server)
    server.fails = ApiError(500, "etcd")
    for _ in range(3):
        await asyncio.sleep(0.5)
    server.fails = None
    for _ in range(60):
        await asyncio.sleep(0.5)
    assert not task.done()
    assert one.leads()
    await ended(task)


async def test_of_two_who_want_a_free_lease_one_leads(clock: Clock) -> None:
    server = Server(held(None))
    both = [elector(server, clock, name) for name in ("a", "b")]
    tasks = [asyncio.create_task(one.run()) for one in both]
    for _ in range(60):
        await asyncio.sleep(0.5)
        assert sum(one.leads() for one in both) <= 1
    assert sum(one.leading.is_set() for one in both) == 1
    for task in tasks:
        await ended(task)


def test_namespace_is_the_settings_or_that_of_the_pod(tmp_path: Path) -> None:
    file = tmp_path / "namespace"
    file.write_text("pods\n")
    assert leases.namespace_of(TERMS, file) == "home"
    assert leases.namespace_of(LeaderElection(enabled=True), file) == "pods"
    with pytest.raises(NoNamespaceError, match=r"leaderElection\.namespace is not set"):
        leases.namespace_of(LeaderElection(enabled=True), tmp_path / "absent")


def test_identities_differ() -> None:
    assert leases.own_identity() != leases.own_identity()


@pytest.mark.parametrize("given", [{"retrySeconds": 10}, {"renewDeadlineSeconds": 15}])
def test_terms_that_cannot_work_are_refused(given: Json) -> None:
    with pytest.raises(ValidationError, match="retrySeconds < renewDeadlineSeconds < leaseDurationSeconds"):
        LeaderElection.model_validate(given)


async def test_operator_without_others_leads_from_the_beginning() -> None:
    alone = leases.Alone()
    assert alone.leads()
    assert alone.leading.is_set()
    await alone.release()
    assert alone.leads()
