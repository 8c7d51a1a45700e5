"""A local server that speaks as much of the Hugging Face Hub's API as snapshot_download uses."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.http_server import listening

REPOSITORY = "owner/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_test_token_value"  # noqa: S105 - opens nothing but this server


@dataclass
class Hub:
    """What the server holds and how it behaves; a test may change both while it runs."""

    folder: Path
    repository: str = REPOSITORY
    endpoint: str = ""
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, "v1": COMMIT, COMMIT: COMMIT})
    gated: bool = False
    """Only TOKEN may read; others hear that the repository is gated."""
    private: bool = False
    """Only TOKEN may read; others hear that there is nothing."""
    status: int | None = None
    """Answer everything with this status."""
    requests: list[str] = field(default_factory=list)

    def files(self) -> dict[str, Path]:
        return {
            path.relative_to(self.folder).as_posix(): path for path in sorted(self.folder.rglob("*")) if path.is_file()
        }


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - a class around one hub
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if hub.status is not None:
                self.send(hub.status, b"{}")
            elif hub.gated and not allowed:
                self.fail(403 if self.headers.get("Authorization") else 401, "GatedRepo")
            elif hub.private and not allowed:
                self.fail(401, "RepoNotFound")
            elif path.startswith(f"/api/models/{hub.repository}/tree/"):
                self.fail(404, "EntryNotFound")
            elif path.startswith(f"/api/models/{hub.repository}"):
                self.information(path)
            elif path.startswith(f"/{hub.repository}/resolve/"):
                revision, _, name = path.removeprefix(f"/{hub.repository}/resolve/").partition("/")
                self.file(revision, name)
            else:
                self.fail(404, "RepoNotFound")

        def information(self, path: str) -> None:
            revision = path.removeprefix(f"/api/models/{hub.repository}").removeprefix("/revision/") or "main"
            if revision not in hub.revisions:
                self.fail(404, "RevisionNotFound")
                return
            siblings = [{"rfilename": name} for name in hub.files()]
            value = {
                "id": hub.repository,
                "modelId": hub.repository,
                "sha": hub.revisions[revision],
                "siblings": siblings,
            }
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def file(self, revision: str, name: str) -> None:
            if revision not in hub.revisions:
                self.fail(404, "RevisionNotFound")
                return
            if name not in hub.files():
                self.fail(404, "EntryNotFound")
                return
            content = hub.files()[name].read_bytes()
            etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            self.send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": hub.revisions[revision]})

        def fail(self, status: int, code: str) -> None:
            self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "refused by the test"})

        def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    return Handler


@contextmanager
def serving(folder: Path, repository: str = REPOSITORY) -> Iterator[Hub]:
    """Serve a model folder as a repository on a free port."""
    hub = Hub(folder, repository)
    with listening(handler(hub)) as port:
        hub.endpoint = f"http://127.0.0.1:{port}"
        yield hub
