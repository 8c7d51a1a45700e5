"""Worker code in a private network: private certificates, a proxy, a mirror of the Hub, by environment alone.

Each look runs in a process of its own, as libraries read these variables once.
"""

import http.server
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.contract import hub
from torchscript_operator.controller.pods import CA_FILE, CA_VARIABLES, PodParts
from torchscript_operator.controller.settings import CaBundle, Proxy

LOOK = """
import json, os, sys
from pathlib import Path
from torchscript_operator.artifact.failures import WorkerError
from torchscript_operator.artifact.request import HuggingFaceSource, StoreLocation
from torchscript_operator.artifact.store import Credentials, open_store
from torchscript_operator.export.source import resolve
try:
    if sys.argv[1] == "hub":
        source = HuggingFaceSource(repository="owner/tiny", endpoint=os.environ.get("ENDPOINT"))
        print(resolve(source, Path(sys.argv[2]), os.environ).identity.location)
    else:
        location = StoreLocation(uri="s3://models/a", endpoint=os.environ["ENDPOINT"])
        print(open_store(location, Credentials("a", "b")).read_bytes("b").decode())
except WorkerError as error:
    print(error.reason.value)
"""


def variables(parts: PodParts) -> dict[str, str]:
    """A pod's variables."""
    return {item["name"]: item["value"] for item in parts.environment}


def look(what: str, tmp_path: Path, environment: dict[str, str]) -> str:
    """What worker code finds, or why it finds nothing."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, what, str(tmp_path / "scratch")],
        env={"PATH": "/usr/bin", "HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Objects(http.server.BaseHTTPRequestHandler):
    """An S3 server with one object in every place."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: Any) -> None:
        """Keep the test's output to itself."""


@contextmanager
def listening(
    handler: type[http.server.BaseHTTPRequestHandler], context: ssl.SSLContext | None = None
) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if context else 'http'}://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def context(authority: trustme.CA) -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(found)
    return found


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """The variables of a pod that trusts the authority."""
    path = tmp_path / "bundle.pem"
    authority.cert_pem.write_to_path(str(path))
    parts = PodParts()
    parts.ca_bundle(CaBundle(config_map="ca"))
    assert variables(parts) == dict.fromkeys(CA_VARIABLES, CA_FILE)
    return dict.fromkeys(CA_VARIABLES, str(path))


def test_a_hub_with_a_private_certificate_is_read_by_who_trusts_it(
    tiny_folder: Path, tmp_path: Path, context: ssl.SSLContext, bundle: dict[str, str]
) -> None:
    with listening(hub.handler(hub.Hub(tiny_folder)), context) as endpoint:
        assert look("hub", tmp_path, {"ENDPOINT": endpoint}) == "SourceUnreachable"
        found = look("hub", tmp_path, {"ENDPOINT": endpoint, **bundle})
    assert found == f"hf://{hub.REPOSITORY}@{hub.COMMIT}"


def test_a_store_with_a_private_certificate_is_read_by_who_trusts_it(
    tmp_path: Path, context: ssl.SSLContext, bundle: dict[str, str]
) -> None:
    with listening(Objects, context) as endpoint:
        assert look("store", tmp_path, {"ENDPOINT": endpoint, **bundle}) == "hello"


def test_a_mirror_is_read_where_the_source_names_none(tiny_folder: Path, tmp_path: Path) -> None:
    with hub.serving(tiny_folder) as mirror:
        found = look("hub", tmp_path, {"HF_ENDPOINT": mirror.endpoint})
        assert any(each.startswith("GET /api/models/") for each in mirror.requests)
    assert found == f"hf://{hub.REPOSITORY}@{hub.COMMIT}"


@contextmanager
def proxy(target: str, asked: list[str]) -> Iterator[str]:
    """A proxy that knows one server, by whatever name."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked.append(self.path)
            path = "/" + self.path.split("/", 3)[3]
            request = urllib.request.Request(target + path, method=self.command)  # noqa: S310 -- our own URL
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
                content = response.read()
                self.send_response(response.status)
                for name in ("ETag", "X-Repo-Commit", "Content-Type", "Content-Length"):
                    if name in response.headers:
                        self.send_header(name, response.headers[name])
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Keep the test's output to itself."""

    with listening(Handler) as url:
        yield url


def through(url: str, *excluded: str) -> dict[str, str]:
    parts = PodParts()
    parts.proxy(Proxy(http=url, https=url, excluded=excluded))
    return variables(parts)


def test_a_proxy_is_the_way_to_hub_and_store(tiny_folder: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    with hub.serving(tiny_folder) as server, proxy(server.endpoint, asked) as url:
        found = look("hub", tmp_path, {"ENDPOINT": "http://hub.invalid", **through(url)})
    assert found == f"hf://{hub.REPOSITORY}@{hub.COMMIT}"
    assert all(each.startswith("http://hub.invalid/") for each in asked)
    with listening(Objects) as server_url, proxy(server_url, asked) as url:
        assert look("store", tmp_path, {"ENDPOINT": "http://s3.invalid", **through(url)}) == "hello"
    assert asked[-1] == "http://s3.invalid/models/a/b"


def test_what_is_excluded_is_reached_without_the_proxy(tiny_folder: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    with hub.serving(tiny_folder) as server, listening(Objects) as store, proxy(server.endpoint, asked) as url:
        environment = through(url, "localhost", "127.0.0.1")
        found = look("hub", tmp_path, {"ENDPOINT": server.endpoint, **environment})
        assert look("store", tmp_path, {"ENDPOINT": store, **environment}) == "hello"
    assert found == f"hf://{hub.REPOSITORY}@{hub.COMMIT}"
    assert asked == []
