"""As much of an API server as a reader needs: lists, watches that go on, logs; over objects that a test changes."""

import json
import queue
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.http_server import listening

Json = dict[str, Any]
PATH = re.compile(r"/(?:api|apis)/(?P<version>v1|[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)")
KINDS = {
    "torchscriptmodels": "TorchScriptModel",
    "jobs": "Job",
    "pods": "Pod",
    "deployments": "Deployment",
    "services": "Service",
    "events": "Event",
}


class ApiServer:
    """Objects by kind, and who watches them."""

    def __init__(self) -> None:
        self.port = 0
        self.forbidden: set[str] = set()
        self.down = False
        self.logs: dict[tuple[str, str], list[str]] = {}
        """Lines by namespace and pod."""
        self.asked: list[str] = []
        self._objects: dict[str, dict[tuple[str, str], Json]] = {plural: {} for plural in KINDS}
        self._watches: list[tuple[str, queue.Queue[Json | None]]] = []
        self._version = 1
        self._lock = threading.Lock()

    def put(self, plural: str, item: Json) -> None:
        with self._lock:
            self._version += 1
            item["metadata"]["resourceVersion"] = str(self._version)
            key = (item["metadata"]["namespace"], item["metadata"]["name"])
            kind = "MODIFIED" if key in self._objects[plural] else "ADDED"
            self._objects[plural][key] = item
            self._tell(plural, kind, item)

    def delete(self, plural: str, namespace: str, name: str) -> None:
        with self._lock:
            self._version += 1
            item = self._objects[plural].pop((namespace, name))
            item["metadata"]["resourceVersion"] = str(self._version)
            self._tell(plural, "DELETED", item)

    def get(self, plural: str, namespace: str, name: str) -> Json:
        with self._lock:
            found: Json = json.loads(json.dumps(self._objects[plural][namespace, name]))
            return found

    def clear(self) -> None:
        """Delete everything."""
        for plural, held in self._objects.items():
            for namespace, name in list(held):
                self.delete(plural, namespace, name)

    def expire(self) -> None:
        """End every watch as one whose version is no longer known."""
        gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
        with self._lock:
            for _, told in self._watches:
                told.put({"type": "ERROR", "object": gone})
                told.put(None)

    def close(self) -> None:
        """End every watch."""
        with self._lock:
            for _, told in self._watches:
                told.put(None)

    def _tell(self, plural: str, kind: str, item: Json) -> None:
        for watched, told in self._watches:
            if watched == plural:
                told.put({"type": kind, "object": {"apiVersion": "v1", "kind": KINDS[plural], **item}})

    def refusal(self, plural: str) -> tuple[int, Json] | None:
        """Why it does not answer, as status and body."""
        if self.down:
            return 503, {"kind": "Status", "message": "the server is restarting"}
        if plural in self.forbidden:
            return 403, {"kind": "Status", "message": f'{plural} is forbidden: User "reader" cannot list'}
        return None

    def page(self, plural: str, namespace: str | None) -> Json:
        with self._lock:
            items = [item for key, item in self._objects[plural].items() if namespace in {None, key[0]}]
            metadata = {"resourceVersion": str(self._version)}
            return {"kind": f"{KINDS[plural]}List", "metadata": metadata, "items": items}

    @contextmanager
    def watching(self, plural: str, version: int) -> Iterator["queue.Queue[Json | None]"]:
        told: queue.Queue[Json | None] = queue.Queue()
        with self._lock:
            for item in self._objects[plural].values():
                # What came between the list and the watch.
                if int(item["metadata"]["resourceVersion"]) > version:
                    told.put({"type": "MODIFIED", "object": item})
            self._watches.append((plural, told))
        try:
            yield told
        finally:
            with self._lock:
                self._watches.remove((plural, told))


def handler(server: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.asked.append(self.path)
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            found = PATH.match(parts.path)
            assert found is not None, self.path
            refusal = server.refusal(found["plural"])
            if refusal is not None:
                self.answer(*refusal)
            elif parts.path.endswith("/log"):
                lines = server.logs.get((found["namespace"], parts.path.split("/")[-2]), [])
                self.send("".join(f"{line}\n" for line in lines).encode(), "text/plain")
            elif "watch" in query:
                self.watch(found["plural"], found["namespace"], int(query["resourceVersion"]))
            else:
                self.answer(200, server.page(found["plural"], found["namespace"]))

        def answer(self, status: int, body: Json) -> None:
            self.send(json.dumps(body).encode(), "application/json", status)

        def send(self, body: bytes, kind: str, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def watch(self, plural: str, namespace: str | None, version: int) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with server.watching(plural, version) as told:
                while (event := told.get()) is not None:
                    if event["type"] != "ERROR" and namespace not in {None, event["object"]["metadata"]["namespace"]}:
                        continue
                    line = json.dumps(event).encode() + b"\n"
                    self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")

    return Handler


@contextmanager
def serving() -> Iterator[ApiServer]:
    server = ApiServer()
    with listening(handler(server)) as server.port:
        try:
            yield server
        finally:
            server.close()
