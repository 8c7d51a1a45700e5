"""A Git repository served over HTTP by git's own backend, for clients that pull as from any forge."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@example.com",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@example.com",
}
"""The same commits whatever the machine's user has configured."""


class Repository:
    """A work tree whose branch `main` is served."""

    def __init__(self, folder: Path, url: str) -> None:
        """Use served_repository() instead."""
        self.folder, self.url = folder, url

    def commit(self, message: str, files: dict[str, str | None]) -> str:
        """Writes files, deletes those that are None, commits; returns the commit's name."""
        for name, text in files.items():
            path = self.folder / name
            if text is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", f"--message={message}")
        return self.git("rev-parse", "HEAD")

    def revert(self) -> str:
        """Takes the last commit back by another one; returns its name."""
        self.git("revert", "--no-edit", "HEAD")
        return self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        """Runs git in the work tree."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env=os.environ | _ENVIRONMENT,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()


@contextmanager
def served_repository(folder: Path, address: str) -> Iterator[Repository]:
    """A new repository below `folder`, served at a free port of `address` for as long as the block runs."""

    class Handler(_Handler):
        root = folder

    server = ThreadingHTTPServer((address, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    tree = folder / "models"
    tree.mkdir(parents=True)
    repository = Repository(tree, f"http://{address}:{server.server_port}/models/.git")
    repository.git("init", "--quiet", "--initial-branch=main")
    thread.start()
    try:
        yield repository
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Git's smart protocol, which `git http-backend` speaks as a CGI program."""

    root: Path

    def do_GET(self) -> None:
        """The list of references."""
        self._answer(b"")

    def do_POST(self) -> None:
        """The objects that a client lacks."""
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, *_: Any) -> None:
        """Nothing: a test's output is its own."""

    def _answer(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        environment = (
            os.environ
            | _ENVIRONMENT
            | {
                "GIT_PROJECT_ROOT": str(self.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_ADDR": cast("str", self.client_address[0]),
            }
        )
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=environment, capture_output=True, timeout=60, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line]
        status = next((value for key, value in fields if key == "Status"), "200 OK" if fields else "500 failed")
        self.send_response(int(status.split()[0]))
        for key, value in fields:
            if key != "Status":
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
