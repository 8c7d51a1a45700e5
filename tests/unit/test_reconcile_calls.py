"""What a pass asks of the API server: no more than it needs, and nothing on the word of a cache alone."""

import copy
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from tests.unit import workers
from tests.unit.test_children_properties import KEY, listen, live
from tests.unit.world import SETTINGS, World, stamp
from torchscript_operator.api import conditions
from torchscript_operator.controller.children import PLURALS, Children
from torchscript_operator.controller.closer import LEAST_SECONDS
from torchscript_operator.controller.connection import ApiError, ExistsError
from torchscript_operator.controller.model import MODEL_LABEL, Json
from torchscript_operator.controller.queue import Slow
from torchscript_operator.controller.reconcile import AGAIN_SECONDS, Reconciler

READS = ("get", "list")


class Server:
    """The API server in front of a world; counts calls by verb and kind."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls: list[str] = []
        self.clock = SimpleNamespace(now=lambda: world.now)
        self.takes_versions = True
        """Whether it applies what is not there under a version."""
        self.before_apply: Callable[[Json], None] = lambda _: None
        """What happens right before a child is changed."""
        self.applies: Callable[[World, Json], None] = World._apply

    async def model(self, *_: str) -> Json:
        self.calls.append("get model")
        body = copy.deepcopy(self.world.body)
        body["metadata"]["resourceVersion"] = "1"
        return body

    async def find(self, _: str, plural: str, namespace: str, name: str) -> Json | None:
        assert namespace == KEY.namespace
        self.calls.append(f"get {plural}")
        return copy.deepcopy(live(self.world).get(plural, {}).get(name))

    async def children(self, _: str, plural: str, *__: str) -> tuple[Json, ...]:
        self.calls.append(f"list {plural}")
        return tuple(copy.deepcopy(list(live(self.world)[plural].values())))

    async def list(self, _: str, plural: str, *__: str, fields: str) -> list[Json]:
        assert fields
        self.calls.append(f"list {plural}")
        return []

    async def create(self, body: Json) -> Json | None:
        self.calls.append(f"create {body['kind']}")
        if body["kind"] != "Job":
            return None
        assert body["metadata"]["name"] not in self.world.jobs
        return copy.deepcopy(self.world.jobs.setdefault(body["metadata"]["name"], self.world._stored(body)))

    async def apply(self, body: Json) -> Json:
        self.calls.append(f"apply {body['kind']}")
        self.before_apply(body)
        self.applies(self.world, body)
        return copy.deepcopy(live(self.world)[PLURALS[body["kind"]]][body["metadata"]["name"]])

    async def apply_new(self, body: Json) -> Json:
        if not self.takes_versions or body["metadata"]["name"] in live(self.world)[PLURALS[body["kind"]]]:
            self.calls.append(f"meet {body['kind']}")
            raise ExistsError(409, "the object has been modified")
        return await self.apply(body)

    async def apply_status(self, read: Json, status: Json) -> bool:
        assert read["metadata"].keys() == {"name", "namespace", "uid", "resourceVersion"}
        self.calls.append("apply status")
        self.world.body["status"] = status
        return True


class Site:
    """An operator's reconciler before that server, and what it hears."""

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self.server = Server(self.world)
        self.children = Children()
        self.reconciler = Reconciler.over(self.server, SETTINGS, self.children)  # type: ignore[arg-type]
        self.wanted: float | None = None
        """Seconds after which the last pass wants another."""

    async def makes_pass(self, *, deaf: bool = False) -> list[str]:
        """One pass, after what there is to hear was heard; returns its calls."""
        if not deaf:
            listen(self.children, self.world)
        self.server.calls.clear()
        rest = await self.reconciler(KEY)
        self.wanted = await rest() if callable(rest) else rest
        return list(self.server.calls)

    def export_ends(self) -> None:
        """Its one pod ends, and then the Job."""
        self.world.pods.clear()
        self.world.export_ends(workers.proven())


def strangers(kind: str) -> Json:
    return {
        "kind": kind,
        "metadata": {"namespace": "ml", "name": "minilm", "uid": "stranger", "generation": 1},
        "spec": {"replicas": 1, "template": {"metadata": {}}},
        "status": {},
    }


def served() -> Site:
    """A model that serves, and of which everything is said."""
    world = World()
    world.serves()
    assert world.service is not None
    world.service["metadata"]["managedFields"] = [{"manager": "torchscript-operator", "operation": "Apply"}]
    return Site(world)


async def test_first_pass_over_a_model_at_rest_takes_it_as_the_list_has_shown_it() -> None:
    site = served()
    site.reconciler.shown.keep(KEY, site.world.body)
    assert await site.makes_pass() == ["get deployments"]
    assert await site.makes_pass() == ["get model", "get deployments"]


async def test_model_that_has_changed_since_a_list_has_shown_it_is_read() -> None:
    site = served()
    site.reconciler.shown.keep(KEY, site.world.body)
    site.world.deployments["minilm-cpu"]["spec"]["replicas"] = 7
    calls = await site.makes_pass()
    assert calls[:4] == ["get deployments", "get model", "get deployments", "apply Deployment"]


async def test_model_that_has_had_a_pass_is_read_whatever_a_list_shows() -> None:
    """The list may have begun before that pass wrote what no later pass would then find to be over."""
    site = served()
    await site.makes_pass()
    site.reconciler.shown.keep(KEY, site.world.body)
    assert await site.makes_pass() == ["get model", "get deployments"]


async def test_nothing_is_kept_once_the_first_look_is_over() -> None:
    site = served()
    site.reconciler.shown.close()
    site.reconciler.shown.keep(KEY, site.world.body)
    assert await site.makes_pass() == ["get model", "get deployments"]


async def test_late_list_of_a_model_does_no_harm() -> None:
    site = served()
    old = copy.deepcopy(site.world.body)
    site.world.edit(source={"s3": {"uri": "s3://models/second"}})
    await site.makes_pass()
    site.world.serves("b")
    await site.makes_pass()
    now = copy.deepcopy(site.world.body)
    site.reconciler.shown._bodies[KEY] = orjson.dumps(old)
    assert all(call.startswith("get ") for call in await site.makes_pass())
    assert site.world.body == now


async def test_whole_life_of_a_model_costs_nine_reads_and_nine_writes() -> None:
    site = Site()
    first = await site.makes_pass()
    assert first == ["get model", "create Job", "apply status", "create Event"]
    site.world.export_runs()
    second = await site.makes_pass()
    assert second == ["get model", "get jobs", "get services"]
    site.export_ends()
    third = await site.makes_pass()
    assert third == [
        *("get model", "get jobs", "get pods"),
        *("apply Deployment", "apply status", "create Event", "apply Service"),
    ]
    site.world.rollout_ends()
    fourth = await site.makes_pass()
    assert fourth == ["get model", "get deployments", "apply status", "create Event"]
    assert site.world.condition(conditions.READY).status == "True"
    counted = Counter(call.startswith(READS) for call in (*first, *second, *third, *fourth))
    assert counted == {True: 9, False: 9}
    assert await site.makes_pass() == ["get model", "get deployments"]


async def test_service_that_was_changed_is_read_and_put_right() -> None:
    site = Site()
    await serves(site)
    assert site.world.service is not None
    site.world.service["spec"]["selector"] = {"app": "other"}
    assert await site.makes_pass() == ["get model", "get deployments", "get services", "apply Service"]


async def test_model_of_an_invalid_spec_is_told_with_whether_it_still_answers() -> None:
    site = Site()
    await serves(site)
    site.world.body["spec"] = {"source": {"carrierPigeon": {}}, "task": "feature-extraction"}
    told = []
    for available in (1, 0, 1):
        site.world.deployments["minilm-cpu"]["status"]["availableReplicas"] = available
        assert (await site.makes_pass())[:2] == ["get model", "get deployments"]
        conditions_now = {item["type"]: item for item in site.world.body["status"]["conditions"]}
        told.append((conditions_now["Ready"]["status"], conditions_now["Stalled"]["reason"]))
    assert told == [("True", "InvalidSpec"), ("False", "InvalidSpec"), ("True", "InvalidSpec")]


async def test_service_that_is_gone_is_made_again() -> None:
    site = Site()
    await serves(site)
    site.world.service = None
    assert await site.makes_pass() == ["get model", "get deployments", "apply Service"]


async def serves(site: Site) -> None:
    await site.makes_pass()
    site.export_ends()
    await site.makes_pass()
    site.world.rollout_ends()
    await site.makes_pass()


async def test_operator_that_starts_anew_reads_the_service_until_it_has_applied_one() -> None:
    world = World()
    await serves(Site(world))
    again = Site(world)
    for _ in range(2):
        assert await again.makes_pass() == ["get model", "get deployments", "get services"]


def service_of_others(world: World) -> None:
    world.service = strangers("Service")


def deployment_of_others(world: World) -> None:
    body = strangers("Deployment")
    body["metadata"]["name"] = "minilm-cpu"
    world.deployments["minilm-cpu"] = body


@pytest.mark.parametrize("made", [service_of_others, deployment_of_others])
async def test_what_somebody_else_made_meanwhile_is_met_and_not_taken_over(made: Callable[[World], None]) -> None:
    site = Site()
    await site.makes_pass()
    site.export_ends()
    listen(site.children, site.world)
    made(site.world)
    before = copy.deepcopy((site.world.service, site.world.deployments.get("minilm-cpu")))
    met = False
    while not met or site.wanted == AGAIN_SECONDS:
        calls = await site.makes_pass(deaf=True)
        met |= any(call.startswith("meet") for call in calls)
    after = (site.world.service, site.world.deployments.get("minilm-cpu"))
    assert all(now == was for was, now in zip(before, after, strict=True) if was is not None)
    reasons = {found.reason for found in site.world.model.status.conditions}
    assert conditions.NAME_CONFLICT in reasons


async def test_own_children_of_which_no_event_has_told_are_met_and_left_as_they_are() -> None:
    site = Site()
    await site.makes_pass()
    site.export_ends()
    await site.makes_pass()
    deaf = Site(site.world)
    status = copy.deepcopy(site.world.body["status"])
    before = copy.deepcopy(site.world.deployments)
    calls = await deaf.makes_pass(deaf=True)
    assert calls[-3:] == ["meet Deployment", "get deployments", "get services"]
    assert (site.world.deployments, site.world.body["status"]) == (before, status)


async def test_end_of_a_rollout_between_the_reading_and_the_writing_of_a_deployment_is_taken_in() -> None:
    site = Site()
    await serves(site)
    site.world.deployments["minilm-cpu"]["spec"]["template"]["spec"]["containers"][0]["image"] = "other"
    site.world.deployments["minilm-cpu"]["metadata"]["generation"] += 1
    site.server.before_apply = lambda _: site.world.rollout_ends()
    assert "apply Deployment" in await site.makes_pass()
    assert site.wanted == AGAIN_SECONDS, "no event will be news any more"
    assert "apply status" not in await site.makes_pass()
    assert site.wanted != AGAIN_SECONDS


async def test_deployment_that_was_only_marked_anew_gets_another_pass_for_no_event_will_follow() -> None:
    site = Site()
    await serves(site)
    site.world.deployments["minilm-cpu"]["metadata"]["labels"] = {MODEL_LABEL: "minilm"}
    # As the API server does, unlike the world: what is there keeps its identity and generation.
    site.server.applies = keeping
    assert "apply Deployment" in await site.makes_pass()
    assert site.wanted == AGAIN_SECONDS
    assert "apply status" in await site.makes_pass()
    assert site.world.condition(conditions.RECONCILING).status == "False"
    assert await site.makes_pass() == ["get model", "get deployments"]


def keeping(world: World, body: Json) -> None:
    """Apply labels alone."""
    world.deployments[body["metadata"]["name"]]["metadata"]["labels"] = dict(body["metadata"]["labels"])


async def test_deployment_that_somebody_changes_back_at_once_is_not_applied_without_end() -> None:
    site = Site()
    await serves(site)
    site.world.deployments["minilm-cpu"]["metadata"]["labels"] = {MODEL_LABEL: "minilm"}
    site.server.applies = lambda *_: None
    assert "apply Deployment" in await site.makes_pass()
    assert site.wanted != AGAIN_SECONDS


async def test_server_that_takes_no_version_of_what_is_not_there_is_looked_at_first() -> None:
    site = Site()
    site.server.takes_versions = False
    await site.makes_pass()
    site.export_ends()
    calls = await site.makes_pass()
    assert calls[3:8] == ["meet Deployment", "get deployments", "get services", "apply Deployment", "apply Service"]


async def test_service_of_a_model_that_nobody_asks_yet_waits_for_its_turn() -> None:
    site = Site()
    await site.makes_pass()
    site.export_ends()
    listen(site.children, site.world)
    rest = await site.reconciler(KEY)
    assert isinstance(rest, Slow)
    assert (site.world.condition(conditions.COMPILED).status, site.world.service) == ("True", None)
    assert await rest() != AGAIN_SECONDS
    assert site.world.service is not None


async def test_service_that_answers_is_made_in_the_pass_that_says_ready() -> None:
    site = Site()
    await serves(site)
    site.world.service = None
    listen(site.children, site.world)
    assert not callable(await site.reconciler(KEY))
    assert site.world.service is not None


@pytest.mark.parametrize("status", [HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.FORBIDDEN])
async def test_service_that_is_refused_later_is_told_by_the_next_pass(status: HTTPStatus) -> None:
    site = Site()
    await site.makes_pass()
    site.export_ends()

    def refuse(body: Json) -> None:
        if body["kind"] == "Service":
            raise ApiError(status, "no such port")

    site.server.before_apply = refuse
    await site.makes_pass()
    assert site.wanted == AGAIN_SECONDS
    await site.makes_pass()
    assert "no such port" in site.world.condition(conditions.STALLED).message


@pytest.mark.parametrize("ends", [Site.export_ends, lambda site: site.world.export_fails(65)])
async def test_end_of_a_job_that_was_not_heard_is_taken_in_with_its_pods(ends: Callable[[Site], Any]) -> None:
    site, heard = Site(), Site()
    for one in (site, heard):
        await one.makes_pass()
        one.world.export_runs()
        await one.makes_pass()
        ends(one)
    calls = await site.makes_pass(deaf=True)
    await heard.makes_pass()
    assert "list pods" in calls
    assert site.world.target() == heard.world.target()


async def test_failure_of_a_job_whose_pod_was_not_heard_of_is_told_with_its_cause() -> None:
    site = Site()
    await site.makes_pass()
    site.world.export_fails(137)
    listen(site.children, site.world)
    for pod in site.world.pods:
        site.children.forget("pods", KEY, pod["metadata"]["name"])
    assert "list pods" in await site.makes_pass(deaf=True)
    failure = site.world.target().last_failure
    assert failure is not None
    assert failure.exit_code == 137


async def test_model_whose_turn_for_a_closer_look_it_is_not_says_nothing_and_comes_back() -> None:
    site = Site()
    await site.makes_pass()
    job = site.world.running("cpu")
    job["status"] = {"startTime": stamp(site.world.now)}
    site.world.now += timedelta(minutes=1)
    told = copy.deepcopy(site.world.body["status"])
    site.server.calls.clear()
    with site.reconciler.reader.looks.turn():
        listen(site.children, site.world)
        later = await site.reconciler(KEY)
        assert later == pytest.approx(LEAST_SECONDS)
    assert not [call for call in site.server.calls if call.startswith(("list", "apply"))]
    assert site.world.body["status"] == told
    assert "list events" in await Site(site.world).makes_pass()
