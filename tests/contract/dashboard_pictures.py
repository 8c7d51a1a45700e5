"""Pictures of the dashboard for the docs, and how long it takes to draw many models: `make screenshots`."""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from tests.contract import api_server, chromium
from tests.contract.dashboard_models import Cluster
from tests.contract.test_dashboard import Running, running

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images"
COLOURS = 256
"""Of a picture: a third of the size, and no difference to be seen."""
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
WIDE = {"viewport": {"width": 1280, "height": 820}, "device_scale_factor": 1.5}
MODELS = (
    ("parity_failed", "support-intent", 0.3),
    ("out_of_memory", "contracts-long", 1),
    ("rolled_back", "translate-en-de", 2),
    ("exporting", "ner-contracts", 0),
    ("rolling", "qa-handbook", 0),
    ("suspended", "reranker-next", 40),
    ("serving", "minilm", 4),
    ("serving", "toxicity", 200),
    ("serving", "reranker", 700),
)
PICTURES = (
    ("dashboard-list", "", "light", WIDE),
    ("dashboard-model", "#/ml/minilm", "light", WIDE),
    ("dashboard-parity-failed", "#/ml/support-intent", "dark", WIDE),
    ("dashboard-rollout", "#/ml/qa-handbook", "light", WIDE),
    ("dashboard-phone", "#/ml/support-intent", "light", PHONE),
)


def picture(page: Page, name: str) -> None:
    drawn = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    small = drawn.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    path = FOLDER / f"{name}.png"
    small.save(path, optimize=True)
    sys.stdout.write(f"{path.name}: {drawn.width} x {drawn.height}, {path.stat().st_size // 1024} KiB\n")


def pictures(found: Running, browser: Browser) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, place, scheme, options in PICTURES:
        context = browser.new_context(color_scheme=scheme, **options)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(f"{found.url}{place}")
        page.locator(".conditions table" if place else "a.row").first.wait_for(state="attached")
        picture(page, name)
        context.close()


def times(found: Running, browser: Browser, count: int) -> None:
    """Milliseconds until models are drawn, from the request for the page, and for one search."""
    page = browser.new_page()
    page.goto(found.url)
    page.wait_for_function("count => document.querySelectorAll('a.row').length === count", arg=count)
    script = """async () => {
      const drawn = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
      const search = document.getElementById("search");
      const began = performance.now();
      search.value = "failed";
      search.dispatchEvent(new Event("input"));
      await drawn();
      const searched = performance.now() - began;
      search.value = "";
      const again = performance.now();
      search.dispatchEvent(new Event("input"));
      await drawn();
      const all = performance.now() - again;
      return [performance.getEntriesByName("told")[0].startTime, performance.getEntriesByName("take")[0].duration,
        searched, all];
    }"""
    whole, take, searched, every = page.evaluate(script)
    sys.stdout.write(
        f"{count} models: shown {whole:.0f} ms after the request, of which {take:.0f} ms in the page's own code; "
        f"a search {searched:.0f} ms, all of them again {every:.0f} ms\n"
    )
    page.close()


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        api_server.serving() as server,
        running(server, Path(folder)) as found,
        chromium.browser() as browser,
    ):
        cluster = Cluster(server)
        for state, name, hours in MODELS:
            cluster.add(state, name, hours=hours)
        pictures(found, browser)
    with (
        tempfile.TemporaryDirectory() as folder,
        api_server.serving() as server,
        running(server, Path(folder), "--all-namespaces") as found,
        chromium.browser() as browser,
    ):
        Cluster(server).add_fleet(500)
        for _ in range(3):
            times(found, browser, 500)


if __name__ == "__main__":
    main()
