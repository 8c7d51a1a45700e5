"""`tsm dashboard` as a person has it: the command as a process, its page in Debian's Chromium."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.contract import api_server, chromium
from tests.contract.api_server import ApiServer
from tests.contract.dashboard_models import STATES, STORE, Cluster
from tests.contract.s3 import S3Server
from tests.unit.artifacts import manifest
from tests.unit.test_cli_access import kubeconfig
from tests.unit.test_export_report import CANDIDATES, gathered, report
from torchscript_operator.cli.dashboard import facts, guard
from torchscript_operator.export.report_page import page as html_of

DEADLINE_SECONDS = 60
"""For what takes a second on a quiet machine."""
expect.set_options(timeout=DEADLINE_SECONDS * 1000)
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
Opened = Callable[..., Page]


@dataclass(frozen=True)
class Running:
    """A `tsm dashboard` and the cluster that it looks at."""

    process: "subprocess.Popen[str]"
    url: str
    server: ApiServer

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.server)


@contextmanager
def running(server: ApiServer, folder: Path, *arguments: str, **environment: str) -> Iterator[Running]:
    command = [sys.executable, "-m", "torchscript_operator.cli.main", "dashboard", "--no-open", *arguments]
    variables = os.environ | {"KUBECONFIG": kubeconfig(folder, server.port)} | environment
    process = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", line)
        assert found is not None, line + process.stderr.read()
        yield Running(process, found[0], server)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.browser() as running_browser:
        yield running_browser


@pytest.fixture(scope="module")
def shared(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("dashboard")
    variables = s3.variables("") | {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    with api_server.serving() as server, running(server, folder, "--endpoint", s3.endpoint, "-A", **variables) as found:
        yield found


@pytest.fixture
def dashboard(shared: Running) -> Iterator[Running]:
    """The page's server, with an empty cluster."""
    yield shared
    shared.server.forbidden.clear()
    shared.server.down = False
    shared.server.clear()
    await_empty(shared.url)


def await_empty(url: str) -> None:
    """Wait until the dashboard has heard that there is no model any more."""
    there: set[tuple[str, str]] = set()
    with httpx.stream("GET", f"{url}events", timeout=DEADLINE_SECONDS) as answer:
        for line in answer.iter_lines():
            if line.startswith('data: {"whole"'):
                told = json.loads(line.removeprefix("data: "))
                there |= {(row["namespace"], row["name"]) for row in told["rows"]}
                there -= {tuple(key) for key in told["gone"]}
                if not there:
                    return


@pytest.fixture
def opened(dashboard: Running, browser: Browser) -> Iterator[Opened]:
    """Open the page; in the end nothing has gone wrong on it, and nothing has been asked of another machine."""
    contexts: list[tuple[BrowserContext, chromium.Seen, str]] = []

    def at(place: str = "", said: str = "nothing", **options: Any) -> Page:
        """`said` is what the console may say, in words of Chromium's."""
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        page = context.new_page()
        contexts.append((context, chromium.watch(page), said))
        page.goto(f"{dashboard.url}{place}")
        expect(page.locator("#live")).to_have_text("Live")
        return page

    yield at
    for context, seen, said in contexts:
        context.close()
        assert [error for error in seen.errors if said not in error] == []
        assert seen.elsewhere == []


def rows(page: Page) -> list[str]:
    """Names of the models that are listed; not as shown, since what is new or far down the page is not laid out yet."""
    return page.locator("a.row .name b").all_text_contents()


def overflow(page: Page) -> int:
    """Pixels that a page is wider than its window."""
    found: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return found


def test_without_models_it_says_what_to_do(dashboard: Running, opened: Opened) -> None:
    page = opened()
    expect(page.locator("#nothing h2")).to_have_text("There is no model in any namespace yet")
    expect(page.locator("#nothing pre").first).to_contain_text("kubectl apply")
    assert not page.locator("#tools").is_visible()
    dashboard.cluster.add("new")
    expect(page.locator("a.row")).to_have_count(1)
    assert not page.locator("#nothing").is_visible()


def test_every_state_has_the_word_of_tsm_status_and_the_worst_comes_first(dashboard: Running, opened: Opened) -> None:
    states = {name: dashboard.cluster.add(state, name) for state in STATES if (name := state.replace("_", "-"))}
    page = opened()
    expect(page.locator("a.row")).to_have_count(len(states))
    for name, view in states.items():
        expect(page.locator(f'[data-key="ml/{name}"] .state')).to_have_text(view.state)
    ranks = [facts.ATTENTION.index(states[name].state) for name in rows(page)]
    assert ranks == sorted(ranks)
    page.locator("[data-state=Failed]").click()
    failed = {name for name, view in states.items() if view.state == "Failed"}
    expect(page.locator("a.row")).to_have_count(len(failed))
    assert set(rows(page)) == failed


def test_an_export_shows_its_stage_and_how_far_it_is(dashboard: Running, opened: Opened) -> None:
    dashboard.cluster.add("exporting")
    page = opened("#/ml/minilm")
    expect(page.locator(".step")).to_contain_text("exporting: trace")
    expect(page.locator(".step")).to_contain_text("Compiling for b8-s384")
    assert 0 < float(page.locator(".step progress").get_attribute("value") or 0) < 1


def test_failed_parity_shows_each_figure_against_its_bound_and_the_next_step(
    dashboard: Running, opened: Opened
) -> None:
    dashboard.cluster.add("parity_failed")
    page = opened("#/ml/minilm")
    figures = page.locator(".figures:not(.axes)")
    expect(figures).to_have_count(3)
    expect(figures).to_contain_text(["Failed", "Failed", "Passed"])
    assert page.locator(".axis .boundtext").all_inner_texts() == ["≤ 1e−4", "≤ 1e−3"]  # noqa: RUF001
    for figure, passed in zip(figures.all(), (False, False, True), strict=True):
        strip = figure.locator("svg.strip").first
        dot, line = (strip.locator(part).first.bounding_box() for part in (".point", ".bound"))
        assert dot is not None
        assert line is not None
        assert (dot["x"] + dot["width"] / 2 < line["x"] + line["width"] / 2) == passed
    expect(page.locator(".failure")).to_contain_text("tsm report minilm -n ml")


def test_forms_measured_are_drawn_by_speed_and_error(dashboard: Running, opened: Opened) -> None:
    dashboard.cluster.add("serving")
    page = opened("#/ml/minilm")
    expect(page.locator(".scatter .point")).to_have_count(6)
    assert page.locator(".scatter .point.bad").count() == 1
    expect(page.locator("tr.chosen").first).to_contain_text("bfloat16")
    expect(page.locator(".candidates tbody tr")).to_have_count(7)


def test_a_rollout_is_followed_live_until_it_is_rolled_back(dashboard: Running, opened: Opened) -> None:
    dashboard.cluster.add("rolling")
    page = opened("#/ml/minilm")
    expect(page.locator(".rollout")).to_contain_text("rolling to")
    expect(page.locator(".step")).to_contain_text("2 of 3 pods are Ready")
    dashboard.cluster.add("rolling_back")
    expect(page.locator(".failure")).to_contain_text("PodsNotReady")
    expect(page.locator(".rollout")).to_contain_text("going back to")
    dashboard.cluster.add("rolled_back")
    expect(page.locator(".heading .state")).to_contain_text("Degraded")
    expect(page.locator(".rollout")).to_contain_text("rolled back from")
    expect(page.locator(".revisions tr", has_text="failed")).to_have_count(1)
    expect(page.locator(".events li").first).to_contain_text("ago")
    dashboard.server.delete("torchscriptmodels", "ml", "minilm")
    expect(page.locator(".detail .message")).to_have_text("This model is not there any more.")


def test_five_hundred_models_are_searched_and_walked_by_keyboard(dashboard: Running, opened: Opened) -> None:
    dashboard.cluster.add_fleet(500)
    page = opened()
    expect(page.locator("a.row")).to_have_count(500)
    page.keyboard.press("/")
    page.keyboard.type("ready team-3 reranker")
    found = rows(page)
    assert 0 < len(found) < 50
    page.keyboard.press("ArrowDown")
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page.locator("#detail h2")).to_have_text(f"team-3/{found[1]}")
    assert page.url.endswith(f"#/team-3/{found[1]}")
    page.keyboard.press("j")
    expect(page.locator("#detail h2")).to_have_text(f"team-3/{found[2]}")
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("a.row")).to_have_count(500)
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.textContent").find(rows(page)[-1]) >= 0
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_names_and_roles_are_as_wcag_wants_them(dashboard: Running, opened: Opened, scheme: str) -> None:
    for state in ("serving", "parity_failed", "rolling", "exporting", "suspended"):
        dashboard.cluster.add(state, state.replace("_", "-"))
    # Of the other scheme only the colours are others.
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    options = {"runOnly": rules if scheme == "light" else ["wcag2aa"]}
    page = opened(color_scheme=scheme)
    expect(page.locator("a.row")).to_have_count(5)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 22)"
    assert dark == (scheme == "dark")
    for place in ("", "#/ml/serving", "#/ml/parity-failed", "#/ml/exporting"):
        page.goto(f"{dashboard.url}{place}")
        if place:
            expect(page.locator("#detail .conditions table")).to_be_visible()
        found = Axe().run(page, options=options)
        assert found.violations_count == 0, found.generate_report()


def test_a_narrow_window_never_scrolls_sideways(dashboard: Running, opened: Opened) -> None:
    names = [state.replace("_", "-") for state in STATES]
    for state, name in zip(STATES, names, strict=True):
        dashboard.cluster.add(state, name, "a-namespace-with-a-long-name")
    page = opened(**PHONE)
    expect(page.locator("a.row")).to_have_count(len(names))
    for width in (1024, 820, 600, 320):
        page.set_viewport_size({"width": width, "height": 740})
        assert overflow(page) <= 0, width
    for name in names:
        page.goto(f"{dashboard.url}#/a-namespace-with-a-long-name/{name}")
        expect(page.locator("#detail h2")).to_contain_text(name)
        assert overflow(page) <= 0, name
    assert not page.locator("#list").is_visible()
    page.locator(".close").click()
    expect(page.locator("#list")).to_be_visible()


def test_the_parity_report_is_shown_from_its_store(dashboard: Running, opened: Opened, s3: S3Server) -> None:
    dashboard.cluster.add("serving")
    key = dashboard.server.get("torchscriptmodels", "ml", "minilm")["status"]["targets"][0]["key"]
    store = s3.store(f"{STORE.removeprefix('s3://models/')}/{key}")
    content = html_of(report(manifest(candidates=CANDIDATES), evidence=gathered()))
    scripted = content.replace("</body>", "<script>document.title='run'</script></body>")
    store.write_bytes("report.html", scripted.encode())
    page = opened("#/ml/minilm", "sandboxed")
    expect(page.locator(".open-report")).to_be_visible()
    with page.expect_console_message(lambda said: "sandboxed" in said.text):
        page.keyboard.press("r")
    frame = page.frame_locator("iframe")
    expect(frame.locator("h1")).to_have_text("Yes, this may be rolled out")
    assert frame.locator("html").evaluate("document.title") != "run"
    page.keyboard.press("Escape")
    expect(page.locator("iframe")).to_have_count(0)


def test_a_report_that_cannot_be_read_says_why(dashboard: Running, opened: Opened) -> None:
    dashboard.cluster.add("parity_failed")
    page = opened("#/ml/minilm", "Failed to load resource")
    page.set_viewport_size({"width": 1280, "height": 560})
    page.locator(".open-report").click()
    expect(page.locator(".report .next")).to_contain_text("tsm")
    expect(page.locator(".report .next")).to_be_in_viewport(ratio=1)


def test_what_is_scrolled_away_leaves_no_trace_above_the_way_back(dashboard: Running, opened: Opened) -> None:
    dashboard.cluster.add("serving")
    # Where a pixel of the page is no whole number of the screen's, edges of boxes do not meet exactly.
    page = opened("#/ml/minilm", device_scale_factor=1.5)
    expect(page.locator(".conditions table")).to_be_attached()
    top = "element => element.getBoundingClientRect().top"
    page.locator("#detail").evaluate("element => element.scrollTo(0, 200)")
    assert page.locator(".crumb").evaluate(top) < page.locator("#detail").evaluate(top)


def test_the_age_of_an_event_stays_on_its_line(dashboard: Running, opened: Opened) -> None:
    dashboard.cluster.add("rolled_back", hours=2)
    page = opened("#/ml/minilm")
    times = page.locator(".events time")
    expect(times.filter(has_text=re.compile(r"\dh\d\dm ago"))).not_to_have_count(0)
    assert set(times.evaluate_all("all => all.map((each) => each.getClientRects().length)")) == {1}


def test_what_may_not_be_read_is_left_out_and_told(dashboard: Running, browser: Browser, tmp_path: Path) -> None:
    dashboard.cluster.add("serving")
    dashboard.server.forbidden.update({"pods", "events"})
    with running(dashboard.server, tmp_path) as other:
        page = browser.new_page()
        page.goto(other.url)
        expect(page.locator("#remarks summary")).to_contain_text("2 kinds of objects may not be read")
        expect(page.locator("a.row")).to_have_count(1)
        page.close()


def test_an_api_server_that_restarts_is_told_and_outlived(dashboard: Running, opened: Opened) -> None:
    dashboard.cluster.add("serving")
    page = opened()
    expect(page.locator("a.row")).to_have_count(1)
    dashboard.server.down = True
    dashboard.server.expire()
    expect(page.locator("#live")).to_have_text("Not up to date")
    expect(page.locator("#remarks")).to_contain_text("the server is restarting")
    expect(page.locator("a.row")).to_have_count(1)
    dashboard.server.down = False
    dashboard.cluster.add("new", "another")
    expect(page.locator("#live")).to_have_text("Live")
    expect(page.locator("a.row")).to_have_count(2)


def test_nothing_from_the_cluster_becomes_markup(dashboard: Running, opened: Opened) -> None:
    dashboard.cluster.add("serving")
    body = dashboard.server.get("torchscriptmodels", "ml", "minilm")
    evil = "<img src=x onerror=\"document.title='run'\">"
    for condition in body["status"]["conditions"]:
        condition["message"] = condition["reason"] = evil
    dashboard.server.put("torchscriptmodels", body)
    page = opened("#/ml/minilm")
    expect(page.locator(".heading .message")).to_have_text(evil)
    assert page.locator("img").count() == 0
    assert page.title() != "run"


def test_the_policy_refuses_scripts_and_markup_from_within(dashboard: Running, browser: Browser) -> None:
    page = browser.new_page()
    seen = chromium.watch(page)
    page.goto(dashboard.url)
    assert page.evaluate(
        "() => { try { document.body.innerHTML = '<b>'; return 'done' } catch { return 'refused' } }"
    ) == ("refused")
    page.evaluate("() => { const s = document.createElement('style'); s.textContent = 'b{}'; document.head.append(s) }")
    refused = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'done', () => 'refused')")
    assert refused == "refused"
    assert any("connect-src" in error for error in seen.errors)
    assert any("style-src" in error for error in seen.errors)
    page.close()


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({}, "", 200),
        ({"Host": "evil.example"}, "", 421),
        ({"Origin": "http://evil.example"}, "models/ml/minilm", 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, "events", 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, "events", 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, "", 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, "", 403),
        ({}, "../x", 404),
        ({}, "assets/../../run.py", 404),
    ],
)
def test_other_sites_and_strangers_are_refused(
    dashboard: Running, headers: dict[str, str], path: str, status: int
) -> None:
    answer = httpx.get(f"{dashboard.url}{path}", headers=headers)
    assert answer.status_code == status
    assert answer.headers["Content-Security-Policy"] == guard.POLICY
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_only_this_machine_with_the_token_may_read_and_nobody_may_write(dashboard: Running) -> None:
    root, token, _ = dashboard.url.rsplit("/", 2)
    assert httpx.get(f"{root}/").status_code == 404
    assert httpx.get(f"{root}/{token[:-1]}x/").status_code == 404
    assert httpx.post(dashboard.url).status_code == 405
    port = int(root.rpartition(":")[2])
    inodes = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {fields[1] for fields in inodes if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")}
    assert listening == {f"0100007F:{port:04X}"}


def test_one_watch_of_each_kind_serves_any_number_of_pages(dashboard: Running, opened: Opened) -> None:
    dashboard.cluster.add("serving")
    for _ in range(3):
        page = opened("#/ml/minilm")
        expect(page.locator("#detail h2")).to_have_text("ml/minilm")
    asked = len(dashboard.server.asked)
    body = dashboard.server.get("torchscriptmodels", "ml", "minilm")
    body["status"]["conditions"][0]["message"] = "Something new."
    dashboard.server.put("torchscriptmodels", body)
    expect(page.locator(".heading .message")).to_have_text("Something new.")
    assert [path for path in dashboard.server.asked[asked:] if "watch" not in path] == []


def test_it_ends_with_ctrl_c_while_a_page_is_open(tmp_path: Path, browser: Browser) -> None:
    with api_server.serving() as server, running(server, tmp_path, "minilm") as found:
        Cluster(server).add("serving")
        page = browser.new_page()
        page.goto(found.url)
        expect(page.locator("a.row")).to_have_count(1)
        found.process.send_signal(signal.SIGINT)
        assert found.process.wait(DEADLINE_SECONDS) == 0
        expect(page.locator("#live")).to_contain_text("Disconnected")
        page.close()


def test_times_are_written_as_in_the_terminal(opened: Opened) -> None:
    from torchscript_operator.cli.ages import duration

    seconds = [0, 59, 119, 120, 192, 599, 600, 10799, 10800, 18180, 28800, 172799, 172800, 187200, 691200, 2592000]
    page = opened()
    script = "seconds => import('./assets/times.js').then(({duration}) => seconds.map(duration))"
    assert page.evaluate(script, seconds) == [duration(value) for value in seconds]
