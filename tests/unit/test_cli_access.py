"""Calls to an API server that answers what a test says, and what a person is told when it says no."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.http_server import listening
from torchscript_operator.cli.cluster import access
from torchscript_operator.cli.cluster.access import ApiError, Cluster, Options, connect
from torchscript_operator.cli.cluster.kubeconfig import RENEWAL_SECONDS
from torchscript_operator.cli.errors import CliError

Json = dict[str, Any]


@dataclass
class Server:
    """What it was asked, and what it answers."""

    answer: Callable[[str], tuple[int, bytes]]
    port: int = 0
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Method, path, Authorization and Content-Type of each request."""
    headers: list[list[tuple[str, str]]] = field(default_factory=list)
    """Those of each request by which a user acts as another."""


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            given = (self.headers.get("Authorization", ""), self.headers.get("Content-Type", ""))
            server.asked.append((self.command, self.path, *given))
            server.headers.append([(n, v) for n, v in self.headers.items() if n.startswith("Impersonate-")])
            status, body = server.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = reply  # noqa: N815 - the library's names

    return Handler


@contextmanager
def serving(answer: Callable[[str], tuple[int, bytes]]) -> Iterator[Server]:
    server = Server(answer)
    with listening(handler(server)) as server.port:
        yield server


def kubeconfig(folder: Path, port: int, **user: object) -> str:
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    contexts = [
        {"name": "main", "context": {"cluster": "c", "user": "u", "namespace": "ml"}},
        {"name": "bare", "context": {"cluster": "c", "user": "u"}},
    ]
    found = {"current-context": "main", "clusters": [cluster], "contexts": contexts}
    path = folder / "config"
    path.write_text(yaml.safe_dump({**found, "users": [{"name": "u", "user": user or {"token": "t0ken"}}]}))
    return str(path)


@contextmanager
def cluster_of(server: Server, folder: Path, **options: Any) -> Iterator[Cluster]:
    with connect(Options(kubeconfig=kubeconfig(folder, server.port), **options)) as found:
        yield found


def status(code: int, message: str) -> Callable[[str], tuple[int, bytes]]:
    return lambda _path: (code, json.dumps({"kind": "Status", "message": message}).encode())


def test_lists_are_read_page_by_page_with_kinds(tmp_path: Path) -> None:
    def answer(path: str) -> tuple[int, bytes]:
        more = "continue=next" not in path
        page: Json = {"kind": "JobList", "metadata": {"continue": "next" if more else ""}, "items": [{"n": int(more)}]}
        return 200, json.dumps(page).encode()

    with serving(answer) as server, cluster_of(server, tmp_path) as cluster:
        found = cluster.list("batch/v1", "jobs", "ml", "a=b")
    assert found == [
        {"apiVersion": "batch/v1", "kind": "Job", "n": 1},
        {"apiVersion": "batch/v1", "kind": "Job", "n": 0},
    ]
    assert server.asked[0][1] == "/apis/batch/v1/namespaces/ml/jobs?limit=500&labelSelector=a%3Db"
    assert {asked[2] for asked in server.asked} == {"Bearer t0ken"}


def test_changes_are_merge_patches_under_a_name_of_their_own(tmp_path: Path) -> None:
    with serving(lambda _: (200, b"{}")) as server, cluster_of(server, tmp_path) as cluster:
        cluster.merge("torchscript.dev/v1alpha1", "torchscriptmodels", "ml", "x", {"spec": {}})
    assert server.asked[0][0] == "PATCH"
    assert server.asked[0][1].endswith("/torchscriptmodels/x?fieldManager=tsm")
    assert server.asked[0][3] == "application/merge-patch+json"


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    with serving(status(404, "not found")) as server, cluster_of(server, tmp_path) as cluster:
        assert cluster.get("v1", "pods", "ml", "x") is None


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (401, "Unauthorized", "does not know you"),
        (403, 'pods is forbidden: User "u" cannot list', "forbids it: pods is forbidden"),
        (500, "etcd is down", "says: etcd is down"),
    ],
)
def test_refusals_are_told_in_the_servers_words(tmp_path: Path, code: int, message: str, words: str) -> None:
    with (
        serving(status(code, message)) as server,
        cluster_of(server, tmp_path) as cluster,
        pytest.raises(ApiError) as caught,
    ):
        cluster.list("v1", "pods", "ml")
    assert words in caught.value.message
    assert (caught.value.status, caught.value.exit_code) == (code, 1)


def test_refusal_that_is_no_json_is_told_too(tmp_path: Path) -> None:
    with (
        serving(lambda _: (502, b"<html>")) as server,
        cluster_of(server, tmp_path) as cluster,
        pytest.raises(ApiError, match="Bad Gateway"),
    ):
        cluster.version()


def test_cluster_without_the_resource_says_what_to_install(tmp_path: Path) -> None:
    answer = status(404, "the server could not find the requested resource")
    with (
        serving(answer) as server,
        cluster_of(server, tmp_path) as cluster,
        pytest.raises(ApiError, match="has no resource") as caught,
    ):
        cluster.list("torchscript.dev/v1alpha1", "torchscriptmodels", "ml")
    assert "Install the chart" in caught.value.advice


def test_lines_of_a_log_come_one_by_one(tmp_path: Path) -> None:
    with serving(lambda _: (200, "ä\nb\nc".encode())) as server, cluster_of(server, tmp_path) as cluster:
        assert list(cluster.log("ml", "pod", follow=True, tailLines=3, previous=None)) == ["ä", "b", "c"]
    assert server.asked[0][1] == "/api/v1/namespaces/ml/pods/pod/log?follow=true&tailLines=3"


def test_server_that_does_not_answer_is_one_message(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    options = Options(kubeconfig=kubeconfig(tmp_path, port))
    with connect(options) as cluster, pytest.raises(ApiError, match="does not answer") as caught:
        cluster.version()
    assert caught.value.status == 0
    assert "kubectl cluster-info" in caught.value.advice


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "ml"),
        ({"namespace": "other"}, "other"),
        ({"context": "bare"}, "default"),
        ({"namespace": ""}, "ml"),
        ({"all_namespaces": True, "namespace": "other"}, None),
    ],
)
def test_namespace_is_as_kubectl_has_it(tmp_path: Path, options: Json, expected: str | None) -> None:
    with connect(Options(kubeconfig=kubeconfig(tmp_path, 1), **options)) as cluster:
        assert cluster.namespace == expected


@pytest.mark.parametrize("namespace", ["a b", "a/../b", "A"])
def test_what_is_no_namespace_asks_no_cluster(tmp_path: Path, namespace: str) -> None:
    options = Options(kubeconfig=kubeconfig(tmp_path, 1), namespace=namespace)
    with pytest.raises(CliError, match="is no namespace"), connect(options):
        pass


def test_unknown_context_names_those_there_are(tmp_path: Path) -> None:
    options = Options(kubeconfig=kubeconfig(tmp_path, 1), context="missing")
    with pytest.raises(CliError, match="no context 'missing'") as caught, connect(options):
        pass
    assert "main, bare" in caught.value.advice


@pytest.mark.parametrize("text", [None, "", "not: a kubeconfig", ": {"])
def test_kubeconfig_that_is_none_is_one_message(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CliError, match="no usable kubeconfig"), connect(Options(kubeconfig=str(path))):
        pass


def test_kubeconfig_of_the_environment_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path, 1))
    with connect(Options()) as cluster:
        assert cluster.context == "main"


def named(path: Path, context: str, *, current: str | None) -> str:
    """A kubeconfig with one context, and perhaps a current one."""
    found: Json = {"clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}], "users": []}
    found["contexts"] = (
        [{"name": context, "context": {"cluster": "c", "namespace": f"of-{context}"}}] if context else []
    )
    path.write_text(yaml.safe_dump(found | ({} if current is None else {"current-context": current})))
    return str(path)


@pytest.mark.parametrize("current", [None, "", "gone"])
def test_context_that_is_named_needs_no_current_one(tmp_path: Path, current: str | None) -> None:
    path = named(tmp_path / "config", "one", current=current)
    with connect(Options(kubeconfig=path, context="one")) as cluster:
        assert (cluster.context, cluster.namespace) == ("one", "of-one")


@pytest.mark.parametrize(("current", "words"), [(None, "no current context"), ("", "no current"), ("gone", "'gone'")])
def test_without_a_current_context_those_there_are_are_named(tmp_path: Path, current: str | None, words: str) -> None:
    path = named(tmp_path / "config", "one", current=current)
    with pytest.raises(CliError, match=words) as caught, connect(Options(kubeconfig=path)):
        pass
    assert "one" in caught.value.advice


def test_first_of_several_kubeconfigs_says_which_context_is_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").touch()
    parts = [
        str(tmp_path / "empty"),
        str(tmp_path / "missing"),
        named(tmp_path / "a", "one", current="one"),
        named(tmp_path / "b", "two", current="two"),
    ]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(parts))
    for options, expected in ((Options(), "one"), (Options(context="two"), "two")):
        with connect(options) as cluster:
            assert (cluster.context, cluster.namespace) == (expected, f"of-{expected}")


def test_credentials_plugin_that_fails_is_one_message(tmp_path: Path) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "false", "interactiveMode": "Never"}
    path = kubeconfig(tmp_path, 1, exec=plugin)
    with pytest.raises(CliError), connect(Options(kubeconfig=path)) as cluster:
        cluster.version()


def test_connection_that_dies_unnoticed_is_found_dead(tmp_path: Path) -> None:
    # A log that is followed has no time limit, and a machine that slept sends no word when it wakes.
    with serving(lambda _: (200, b'{"gitVersion": "v1"}')) as server, cluster_of(server, tmp_path) as cluster:
        cluster.version()
        options = cluster.client.rest_client.pool_manager.connection_pool_kw["socket_options"]
    assert (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1) in options


def test_user_that_acts_as_another_does_so(tmp_path: Path) -> None:
    person = {"as": "viewer", "as-uid": "7", "as-groups": ["team-a", "team-b"], "as-user-extra": {"ex/a": ["1"]}}
    with serving(lambda _: (200, b'{"gitVersion": "v1"}')) as server:
        path = kubeconfig(tmp_path, server.port, **OLD, **person)
        with connect(Options(kubeconfig=path)) as cluster:
            cluster.within("other").version()
    assert server.headers == [
        [
            ("Impersonate-User", "viewer"),
            ("Impersonate-Uid", "7"),
            ("Impersonate-Group", "team-a"),
            ("Impersonate-Group", "team-b"),
            ("Impersonate-Extra-ex%2Fa", "1"),
        ]
    ]


OLD, NEW = {"token": "old"}, {"token": "new"}


def test_token_of_a_later_login_is_found(tmp_path: Path) -> None:
    def answer(_path: str) -> tuple[int, bytes]:
        return (401, b"{}") if server.asked[-1][2] == "Bearer old" else (200, b'{"gitVersion": "v1"}')

    with serving(answer) as server:
        path = kubeconfig(tmp_path, server.port, **OLD)
        with connect(Options(kubeconfig=path)) as cluster:
            with pytest.raises(ApiError, match="does not know you"):
                cluster.version()
            assert [asked[2] for asked in server.asked] == ["Bearer old"]
            kubeconfig(tmp_path, server.port, **NEW)
            assert cluster.renewal is not None
            cluster.renewal._asked -= RENEWAL_SECONDS
            assert cluster.version() == "v1"
            assert cluster.within("other").version() == "v1"
    assert [asked[2] for asked in server.asked[1:]] == ["Bearer old", "Bearer new", "Bearer new"]


def test_kubeconfig_is_not_read_again_at_each_refusal(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, 1, **OLD)
    with connect(Options(kubeconfig=path)) as cluster:
        assert cluster.renewal is not None
        assert not cluster.renewal.renew("Bearer old")
        kubeconfig(tmp_path, 1, **NEW)
        assert not cluster.renewal.renew("Bearer old")
        # Another thread's look has found one meanwhile.
        assert cluster.renewal.renew("Bearer older")


def test_token_of_a_credentials_plugin_is_used(tmp_path: Path) -> None:
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "from-plugin"},
    }
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "echo",
        "args": [json.dumps(credential)],
        "interactiveMode": "Never",
    }
    with serving(lambda _: (200, b'{"gitVersion": "v1"}')) as server:
        path = kubeconfig(tmp_path, server.port, exec=plugin)
        with connect(Options(kubeconfig=path)) as cluster:
            assert cluster.version() == "v1"
    assert server.asked[0][2] == "Bearer from-plugin"


def test_path_of_a_resource() -> None:
    assert access.path("v1", None, "nodes") == "/api/v1/nodes"
    assert access.path("apps/v1", "ml", "deployments", "x") == "/apis/apps/v1/namespaces/ml/deployments/x"
