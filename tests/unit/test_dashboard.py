"""What the dashboard tells of models, whom it answers, and what it asks of the API server."""

import copy
import json
import threading
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.unit import model_states, views, workers
from tests.unit.world import START, spec, targets
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.cli import status
from torchscript_operator.cli.cluster.access import ApiError, Cluster
from torchscript_operator.cli.cluster.read import State, parse
from torchscript_operator.cli.dashboard import facts, feed, parity
from torchscript_operator.cli.dashboard.feed import Feed, Kind
from torchscript_operator.cli.dashboard.guard import Guard

Json = dict[str, Any]
ALL = {**views.STATES, **model_states.STATES}


def test_every_state_has_its_place() -> None:
    assert sorted(facts.ATTENTION) == sorted(get_args(State))


@pytest.mark.parametrize("name", ALL)
def test_every_state_can_be_told_in_the_words_of_status(name: str) -> None:
    view = views.view(ALL[name]())
    told = json.loads(json.dumps(facts.detail(view, {}, {}, START)))
    shared = json.loads(json.dumps(status.facts(view)))
    assert {key: told[key] for key in shared if key != "pods"} == {key: shared[key] for key in shared if key != "pods"}
    assert facts.row(view)["state"] == view.state


def test_figures_of_a_failed_attempt_are_shown_as_long_as_its_pod_is_there() -> None:
    world = views.parity_failed()
    (found,) = parity.of_model(views.view(world))
    assert (found["of"], found["verdict"], found["rows"][0]["passed"]) == ("attempt", "Failed", False)
    assert found["bounds"] == {"absolute": 1e-4, "relative": 1e-4, "cosineDistance": 0.001, "agreement": 1.0}
    world.pods.clear()
    assert parity.of_model(views.view(world)) == []


def test_bounds_are_those_of_the_precision_that_was_taken_and_of_the_spec() -> None:
    world = views.World(spec(targets=[{"name": "cpu", "precision": "auto"}], parity={"relativeTolerance": "0.5"}))
    world.settle()
    world.export_ends(workers.proven(precision="bfloat16"))
    world.settle()
    (found,) = parity.of_model(views.view(world))
    assert (found["bounds"]["absolute"], found["bounds"]["relative"]) == (0.25, 0.5)


def test_bounds_are_unknown_where_the_spec_is() -> None:
    world = views.serving()
    view = views.view(world)
    body = copy.deepcopy(view.body)
    body["spec"]["source"] = "a carrier pigeon"
    unread = parse(body)
    assert not unread.is_readable
    assert [found["bounds"] for found in parity.of_model(unread)] == [None]


def test_worst_figure_is_the_failed_one_then_the_one_nearest_to_its_bound() -> None:
    def figure(output: str, difference: float | None, *, passed: bool = True) -> Json:
        return {"output": output, "shape": "s", "difference": difference, "differenceText": "", "passed": passed}

    loose = {"target": "int8", "bounds": {"absolute": 0.5}, "rows": [figure("far", 0.1)]}
    strict = {"target": "cpu", "bounds": {"absolute": 1e-4}, "rows": [figure("near", 9e-5)]}
    failed = {"target": "two", "bounds": None, "rows": [figure("nan", None), figure("bad", 0.0, passed=False)]}
    assert (parity.worst([loose, strict]) or {})["output"] == "near"
    assert (parity.worst([loose, strict, failed]) or {})["output"] == "bad"
    assert parity.worst([]) is None


@pytest.mark.parametrize(
    ("text", "found"), [("0.99999999999999689", 3.11e-15), ("1", 0.0), ("1.0000001", 0.0), ("nan", None), (None, None)]
)
def test_distance_has_the_digits_that_a_float_of_the_similarity_has_lost(text: str | None, found: float | None) -> None:
    assert parity.distance(text) == (None if found is None else pytest.approx(found, rel=1e-9, abs=0))


def test_a_target_without_figures_does_not_hide_the_other() -> None:
    world = views.World(spec(targets=targets("cpu", "two"), serving={"targets": ["cpu"]}))
    world.settle()
    message = workers.failed(FailureReason.COMPILATION_FAILED)
    world.export_fails(CLASSES[FailureReason.COMPILATION_FAILED].exit_code, message, "two")
    world.export_ends(workers.proven(), "cpu")
    world.settle()
    assert [found["target"] for found in parity.of_model(views.view(world))] == ["cpu"]


# Whom it answers; tests/contract/test_dashboard.py asks the whole.


@pytest.fixture
def client() -> TestClient:
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("the page"))])
    return TestClient(Guard(app, "token", "ticket"), base_url="http://127.0.0.1:1", follow_redirects=False)


def test_a_ticket_leads_to_the_page_once(client: TestClient) -> None:
    answer = client.get("/ticket")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/token/")
    assert client.get("/ticket").status_code == 404
    assert client.get("/token/").text == "the page"


@pytest.mark.parametrize("path", ["/", "/token", "/ticket/", "/tokens/", "//token/"])
def test_another_path_leads_nowhere(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:1", "", "[", "10.0.0.1"]
)
def test_another_host_is_refused_also_with_the_token(client: TestClient, host: str) -> None:
    assert client.get("/token/", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:9", "127.0.0.1", "127.0.0.1:8080"])
def test_this_machine_is_answered_through_a_tunnel_too(client: TestClient, host: str) -> None:
    assert client.get("/token/", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


# What it asks of the API server.


class Scripted(Cluster):
    """Lists what it is given; watches are refused, or tell one thing."""

    def __init__(self, items: list[list[Json]], watch: list[Json] | None) -> None:
        self.namespace = "ml"
        self.items = items
        self.told = watch
        self.listed = threading.Semaphore(0)

    def snapshot(self, _version: str, plural: str, *_: object) -> tuple[list[Json], str]:
        if plural != "torchscriptmodels":
            return [], "1"
        self.listed.release()
        return (self.items.pop(0) if len(self.items) > 1 else self.items[0]), "1"

    def watch(self, _version: str, plural: str, *_: object) -> Iterator[Json]:
        if self.told is None:
            raise ApiError(403, "watching is forbidden")
        if plural == "torchscriptmodels":
            yield from self.told


def model(version: str, name: str = "minilm") -> Json:
    body = views.view(views.new()).body
    body["metadata"] |= {"resourceVersion": version, "name": name, "managedFields": [{"long": True}]}
    return body


def heard(found: Feed, wanted: int, cluster: Scripted) -> None:
    """Read until models have been listed so many times."""
    found.start()
    try:
        for _ in range(wanted):
            assert cluster.listed.acquire(timeout=60)
    finally:
        found.stop()


def test_where_watching_is_forbidden_lists_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.01)
    cluster = Scripted([[model("1")], [model("1"), model("2", "other")]], None)
    found = Feed(cluster)
    heard(found, 4, cluster)
    assert found.view("ml", "other") is not None
    assert found.problem is None
    assert found.missing == []


def test_changes_of_a_watch_are_taken_in_and_an_expired_version_is_listed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "RETRY_SECONDS", 0.01)
    told = [
        {"type": "ADDED", "object": model("3", "other")},
        {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "4"}}},
        {"type": "DELETED", "object": model("5")},
        {"type": "ERROR", "object": {"code": 410}},
    ]
    cluster = Scripted([[model("1")], [model("3", "other")]], told)
    found = Feed(cluster)
    heard(found, 3, cluster)
    _, there, gone = found.since(0)
    assert [view.model.name for view in there] == ["other"]
    assert gone == [("ml", "minilm")]


def test_a_list_tells_only_of_models_that_have_changed() -> None:
    kind = Kind("torchscript.dev/v1alpha1", "torchscriptmodels", None, None)
    assert kind.replace([model("1"), model("2", "other")]) == {("ml", "minilm"), ("ml", "other")}
    assert kind.replace([model("1"), model("2", "other")]) == set()
    assert kind.replace([model("3")]) == {("ml", "minilm"), ("ml", "other")}
    assert "managedFields" not in kind.of(("ml", "minilm"))[0]["metadata"]
