"""A proxy before a real S3 server that does to requests and answers what networks and busy servers do to them."""

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.contract.s3 import S3Server

BUSY = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
HOP = {"connection", "expect", "transfer-encoding"}
"""Headers that are between two neighbours."""


@dataclass(frozen=True)
class Request:
    """What the proxy saw of a request."""

    method: str
    path: str
    """With bucket and query."""
    attempt: int
    """1 when this method and path come for the first time."""


Fault = Callable[[Request], str | None]
"""What is done to a request: busy (503), hang (no answer), cut (half of the answer), alter (one byte of it)."""


@dataclass
class Proxy:
    """A running proxy; `fault` may be changed while it runs."""

    server: S3Server
    """The server as it is seen through the proxy."""
    fault: Fault = lambda _: None
    done: list[str] = field(default_factory=list)
    """Method and path of each request that the real server has answered, in the order of the answers."""
    hanging: threading.Event = field(default_factory=threading.Event)
    """Set when a request hangs."""
    ended: threading.Event = field(default_factory=threading.Event)
    _seen: dict[tuple[str, str], int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def see(self, method: str, path: str) -> Request:
        with self._lock:
            self._seen[method, path] = self._seen.get((method, path), 0) + 1
            return Request(method, path, self._seen[method, path])

    def written(self) -> list[str]:
        """Paths of what was written, in order."""
        return [line.partition(" ")[2].partition("?")[0] for line in self.done if line.startswith("PUT ")]


@contextmanager
def before(server: S3Server) -> Iterator[Proxy]:
    """Run a proxy before a server on a free port."""
    listener = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    listener.daemon_threads = True
    # What hangs is not waited for.
    listener.block_on_close = False
    proxy = Proxy(S3Server(f"http://127.0.0.1:{listener.server_port}", server.folder))
    listener.RequestHandlerClass = _handler(proxy, urlsplit(server.endpoint).netloc)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        listener.shutdown()
        listener.server_close()
        thread.join()


def _handler(proxy: Proxy, upstream: str) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - a class around one proxy
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

        def pass_on(self) -> None:
            request = proxy.see(self.command, self.path)
            fault = proxy.fault(request)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if fault == "hang":
                proxy.hanging.set()
                proxy.ended.wait()
                self.close_connection = True
                return
            if fault == "busy":
                self.answer(503, [("Content-Type", "application/xml")], BUSY, None)
                return
            connection = http.client.HTTPConnection(upstream)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            given = connection.getresponse()
            content = given.read()
            connection.close()
            proxy.done.append(f"{self.command} {self.path}")
            self.answer(given.status, given.getheaders(), content, fault)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on  # noqa: N815 - the base class looks for these

        def answer(self, status: int, headers: list[tuple[str, str]], content: bytes, fault: str | None) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in HOP | {"content-length"}:
                    self.send_header(name, value)
            length = next((value for name, value in headers if name.lower() == "content-length"), None)
            self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(content)))
            self.end_headers()
            if fault == "cut":
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif fault == "alter":
                middle = len(content) // 2
                self.wfile.write(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
            else:
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Keep the test's output to itself."""

    return Handler
