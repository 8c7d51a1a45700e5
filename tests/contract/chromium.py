"""Debian's Chromium without a window, driven by Playwright; a page of it keeps what a test judges it by."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.cluster import packages

LOCAL = {"127.0.0.1", "localhost"}


@dataclass
class Seen:
    """What a page has done that nobody asked for."""

    errors: list[str] = field(default_factory=list)
    """Of the console: breaches of the policy, exceptions, files that are missing."""
    elsewhere: list[str] = field(default_factory=list)
    """Requests to other machines."""
    interrupted: list[str] = field(default_factory=list)
    """What Chromium has given up since the machine's network changed, as other tests' clusters do beside this one."""

    def hear(self, said: ConsoleMessage) -> None:
        """Keep what the console says."""
        if "ERR_NETWORK_CHANGED" in said.text:
            self.interrupted.append(said.text)
        elif said.type in {"error", "warning"}:
            self.errors.append(said.text)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start the browser, which is installed where it is missing."""
    packages.require("chromium", "/usr/bin/chromium")
    path = shutil.which("chromium")
    with sync_playwright() as playwright:
        # Root has no sandbox, and what is looked at here is our own. A container's /dev/shm is small.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield running
        finally:
            running.close()


def watch(page: Page) -> Seen:
    """Keep what a page does."""
    seen = Seen()
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", seen.hear)
    page.on(
        "request",
        lambda asked: None if urlsplit(asked.url).hostname in LOCAL else seen.elsewhere.append(asked.url),
    )
    return seen
