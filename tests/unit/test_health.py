"""What the kubelet is told."""

from types import SimpleNamespace
from typing import Any

import pytest
from yarl import URL

from torchscript_operator.controller import app
from torchscript_operator.controller.calls import Calls, verb
from torchscript_operator.controller.health import DEAF_SECONDS, MISSED_RESYNCS, STUCK_SECONDS, Health
from torchscript_operator.controller.settings import Settings

JOBS, MODELS = "/apis/batch/v1/jobs", "/apis/torchscript.dev/v1alpha1/torchscriptmodels"
RESYNC_SECONDS = 600


class Site:
    """An operator whose time stands still until a test moves it."""

    def __init__(self, *, led: float | None = None, stuck: float = 0) -> None:
        self.now, self.led, self.stuck, self.able = 1000.0, led, stuck, True
        self.calls = Calls([MODELS, JOBS], lambda: self.now)
        self.health = Health(lambda: self.stuck, RESYNC_SECONDS, self, self.calls, lambda: self.now)  # type: ignore[arg-type]

    def led_seconds(self) -> float:
        return self.now - 1000 if self.led is None else self.led

    def watches(self) -> None:
        self.calls.began(MODELS)
        self.calls.began(JOBS)

    def passes(self, seconds: float) -> None:
        self.now += seconds


def test_working_operator_is_well() -> None:
    assert Site().health.ailments() == []


def test_operator_is_ready_after_its_first_full_look_and_with_all_watches() -> None:
    site = Site()
    assert site.health.lacks() == ["a full look at all models", f"the watch of {MODELS}", f"the watch of {JOBS}"]
    site.health.resynced()
    site.calls.began(MODELS)
    assert site.health.lacks() == [f"the watch of {JOBS}"]
    site.calls.began(JOBS)
    assert site.health.lacks() == []


def test_operator_that_waits_to_lead_is_ready() -> None:
    site = Site(led=0)
    site.health.resynced()
    site.watches()
    assert site.health.lacks() == []
    site.able = False
    assert site.health.lacks() == ["a lease that it can read"], "it would wait for ever"


def test_key_that_nobody_takes_is_an_ailment() -> None:
    (found,) = Site(stuck=STUCK_SECONDS + 1, led=STUCK_SECONDS + 1).health.ailments()
    assert "no pass has ended for 301 s" in found


def test_key_counts_from_when_the_operator_leads() -> None:
    assert Site(stuck=9999, led=STUCK_SECONDS - 1).health.ailments() == []


def test_missed_full_looks_are_an_ailment() -> None:
    site = Site()
    site.passes(RESYNC_SECONDS * MISSED_RESYNCS + 1)
    site.watches()
    (found,) = site.health.ailments()
    assert "no full look" in found


def test_operator_that_waits_to_lead_misses_no_full_look() -> None:
    site = Site(led=0)
    site.passes(RESYNC_SECONDS * MISSED_RESYNCS + 1)
    site.watches()
    assert site.health.ailments() == []


@pytest.mark.parametrize("begun", [True, False])
def test_watch_that_does_not_begin_again_is_an_ailment(begun: bool) -> None:
    site = Site(led=0)
    if begun:
        site.calls.began(MODELS)
    site.passes(DEAF_SECONDS + 1)
    site.calls.began(JOBS)
    (found,) = site.health.ailments()
    assert found == f"the watch of {MODELS} has not begun again for {DEAF_SECONDS + 1:.0f} s"


def test_age_of_a_watch_is_that_of_its_oldest_namespace() -> None:
    calls = Calls(["/apis/batch/v1/namespaces/a/jobs", "/apis/batch/v1/namespaces/b/jobs"], lambda: 7.0)
    calls._begun = {"/apis/batch/v1/namespaces/a/jobs": 5.0, "/apis/batch/v1/namespaces/b/jobs": 2.0}
    assert calls.age("jobs") == 5
    assert calls.age("pods") == 0


def test_every_kind_is_watched_in_every_namespace() -> None:
    everywhere = app.watched(Settings(worker_image="w"))
    assert {MODELS, JOBS, "/api/v1/pods", "/api/v1/services", "/apis/apps/v1/deployments"} <= set(everywhere)
    scoped = app.watched(Settings(worker_image="w", watch_namespaces=("a", "b")))
    assert len(scoped) == 2 * len(everywhere)
    assert "/apis/batch/v1/namespaces/b/jobs" in scoped


@pytest.mark.parametrize(
    ("method", "url", "expected"),
    [
        ("GET", f"{JOBS}?limit=100", "list"),
        ("GET", f"{JOBS}?watch=true&resourceVersion=7", "watch"),
        ("GET", "/apis/batch/v1/namespaces/ml/jobs", "list"),
        ("GET", "/apis/batch/v1/namespaces/ml/jobs/x", "get"),
        ("GET", "/api/v1/namespaces/ml/services/x", "get"),
        ("GET", "/k8s/clusters/c-1/api/v1/pods", "list"),
        ("GET", "/apis/batch/v1", "get"),
        ("GET", "/version", "get"),
        ("POST", "/apis/batch/v1/namespaces/ml/jobs", "create"),
        ("PATCH", f"{MODELS}/x/status", "patch"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/ml/leases/x", "update"),
        ("DELETE", "/apis/batch/v1/namespaces/ml/jobs/x", "delete"),
    ],
)
def test_verb_is_kubernetes_word_for_a_request(method: str, url: str, expected: str) -> None:
    assert verb(method, URL(f"https://server{url}")) == expected


async def request(calls: Calls, path: str, *, status: int | None) -> None:
    """A request as the HTTP client tells of it; without a status there is no answer."""
    context, session = SimpleNamespace(), None
    url = URL(f"https://server/prefix{path}")
    answer = SimpleNamespace(status=status, ok=status is not None and status < 400)
    told: Any = SimpleNamespace(method="GET", url=url, response=answer)
    await calls._started(session, context, told)  # type: ignore[arg-type]
    ended = calls._broke_off if status is None else calls._ended
    await ended(session, context, told)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "status", "accepted"),
    [(f"{JOBS}?watch=true", 200, True), (f"{JOBS}?watch=true", 403, False), (f"{JOBS}?limit=100", 200, False)],
)
async def test_watch_has_begun_when_the_server_accepts_it(path: str, status: int, accepted: bool) -> None:
    calls = Calls([JOBS])
    await request(calls, path, status=status)
    assert (calls.waiting() == []) is accepted


@pytest.mark.parametrize(
    ("statuses", "returns"),
    [([200], 0), ([200, 200], 0), ([None, None, 200, 200], 1), ([503, 200], 1), ([403, 410, 429, 200], 0), ([None], 0)],
)
async def test_server_is_back_when_a_watch_begins_that_it_did_not_answer(
    statuses: list[int | None], returns: int
) -> None:
    calls, found = Calls([JOBS]), []
    calls.at_return = lambda: found.append(1)
    for status in statuses:
        await request(calls, f"{JOBS}?watch=true", status=status)
        await request(calls, f"{JOBS}/x", status=200)
    assert len(found) == returns
