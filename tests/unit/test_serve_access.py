"""Tokens and certificates: who is let in, and what happens when the files are renewed."""

import os
import ssl
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme

from tests.unit.serving import live, serving
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.serve.access import Tls, Tokens
from torchscript_operator.serve.openinference import open_inference_pb2 as messages
from torchscript_operator.serve.rpc import SERVICE

TOKEN = "a-long-token"  # noqa: S105 - of this test


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\nsecond\n")
    return path


def rewrite(path: Path, text: str) -> None:
    """As the kubelet does: another file in its place, with another time."""
    other = path.with_suffix(".new")
    other.write_text(text)
    os.utime(other, ns=(1, path.stat().st_mtime_ns + 1))
    other.replace(path)


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}", "Bearer second"])
async def test_a_token_of_the_file_is_let_in(token_file: Path, header: str) -> None:
    async with serving(token_file=str(token_file)) as (client, _):
        assert (await client.get("/v2", headers={"Authorization": header})).status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", "Bearer wrong", TOKEN, f"Bearer {TOKEN}x"]
)
@pytest.mark.parametrize("path", ["/v2", "/v1/models", "/metrics", "/openapi.json", "/nowhere"])
async def test_everybody_else_is_401(token_file: Path, path: str, header: str) -> None:
    async with serving(token_file=str(token_file)) as (client, _):
        response = await client.get(path, headers={"Authorization": header} if header else {})
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert TOKEN not in response.text
    error = response.json()["error"]
    assert (error["code"] if path.startswith("/v1") else error) in {
        "invalid_api_key",
        "a bearer token of this server is needed",
    }


async def test_health_needs_no_token(token_file: Path) -> None:
    async with serving(token_file=str(token_file)) as (client, _):
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await client.get("/v2/health/ready")).status_code == 200


def test_a_renewed_file_holds_at_once_and_an_emptied_one_locks_nobody_out(token_file: Path) -> None:
    tokens = Tokens(token_file)
    rewrite(token_file, "third\n")
    assert tokens.allow(b"Bearer third")
    assert not tokens.allow(f"Bearer {TOKEN}".encode())
    rewrite(token_file, "\n")
    assert tokens.allow(b"Bearer third")
    assert not tokens.allow(b"Bearer ")
    token_file.unlink()
    assert tokens.allow(b"Bearer third")


@pytest.mark.parametrize("content", [None, "", "\n \n"])
def test_without_a_token_nothing_starts(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)
    with pytest.raises(WorkerError) as raised:
        Tokens(tmp_path / "token")
    assert raised.value.reason == FailureReason.INVALID_REQUEST


def ready(address: str, credentials: Any = None, metadata: Any = ()) -> bool:
    """Whether a call that needs a token is answered; RpcError when not."""
    channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with channel:
        call = channel.unary_unary(
            f"/{SERVICE}/ModelReady",
            request_serializer=messages.ModelReadyRequest.SerializeToString,
            response_deserializer=messages.ModelReadyResponse.FromString,
        )
        return bool(call(messages.ModelReadyRequest(name="toy"), timeout=10, metadata=metadata).ready)


def test_grpc_takes_the_same_tokens(token_file: Path) -> None:
    with live(token_file=str(token_file)) as server:
        assert ready(server.grpc, metadata=[("authorization", f"Bearer {TOKEN}")])
        with pytest.raises(grpc.RpcError) as raised:
            ready(server.grpc, metadata=[("authorization", "Bearer wrong")])
        error: Any = raised.value
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        with grpc.insecure_channel(server.grpc) as channel:
            live_call = channel.unary_unary(f"/{SERVICE}/ServerLive")
            assert live_call(b"", timeout=10) == messages.ServerLiveResponse(live=True).SerializeToString()


class Files:
    """An authority, a server's files and a client's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.renew()
        client = self.authority.issue_cert("client@toy")
        (folder / "client.pem").write_bytes(client.private_key_and_cert_chain_pem.bytes())
        self.client = client
        (folder / "authority.pem").write_bytes(self.authority.cert_pem.bytes())

    def renew(self) -> str:
        """Another certificate in the same places; its serial number."""
        certificate = self.authority.issue_cert("127.0.0.1", "localhost")
        for name, blob in (("tls.key", certificate.private_key_pem), ("tls.crt", certificate.cert_chain_pems[0])):
            path = self.folder / name
            path.write_bytes(blob.bytes())
            os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
        return certificate.cert_chain_pems[0].bytes().decode()

    def tls(self, *, mutual: bool) -> Tls:
        authority = self.folder / "authority.pem" if mutual else None
        return Tls(self.folder / "tls.crt", self.folder / "tls.key", authority)

    def context(self, *, with_certificate: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "authority.pem"))
        if with_certificate:
            context.load_cert_chain(self.folder / "client.pem")
        return context

    def credentials(self, *, with_certificate: bool) -> Any:
        authority = self.authority.cert_pem.bytes()
        if not with_certificate:
            return grpc.ssl_channel_credentials(authority)
        chain = self.client.cert_chain_pems[0].bytes()
        return grpc.ssl_channel_credentials(authority, self.client.private_key_pem.bytes(), chain)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_both_ports_speak_tls(files: Files) -> None:
    with live(tls=files.tls(mutual=False)) as server:
        assert httpx.get(f"{server.url}/v2", verify=files.context(with_certificate=False)).status_code == 200
        assert ready(server.grpc, files.credentials(with_certificate=False))
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url.replace("https", "http"))


def test_mutual_tls_wants_a_clients_certificate(files: Files) -> None:
    with live(tls=files.tls(mutual=True)) as server:
        assert httpx.get(f"{server.url}/v2", verify=files.context(with_certificate=True)).status_code == 200
        assert ready(server.grpc, files.credentials(with_certificate=True))
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/v2", verify=files.context(with_certificate=False))
        with pytest.raises(grpc.RpcError):
            ready(server.grpc, files.credentials(with_certificate=False))


def test_a_renewed_certificate_is_used_for_new_connections(files: Files) -> None:
    tls = files.tls(mutual=False)
    with live(tls=tls) as server:
        renewed = files.renew()
        tls.renew()
        host, port = server.address
        shown = ssl.get_server_certificate((host, port))
        assert ssl.PEM_cert_to_DER_cert(shown) == ssl.PEM_cert_to_DER_cert(renewed)


def test_a_renewed_authority_lets_its_clients_in_and_no_others(files: Files) -> None:
    tls = files.tls(mutual=True)
    with live(tls=tls) as server:
        known = files.context(with_certificate=True)
        assert httpx.get(f"{server.url}/v2", verify=known).status_code == 200
        other = trustme.CA()
        path = files.folder / "authority.pem"
        path.write_bytes(other.cert_pem.bytes())
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
        tls.renew()
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/v2", verify=known)
        stranger = ssl.create_default_context(cadata=files.authority.cert_pem.bytes().decode())
        other.issue_cert("client@other").configure_cert(stranger)
        assert httpx.get(f"{server.url}/v2", verify=stranger).status_code == 200


def test_a_certificate_that_cannot_be_used_leaves_the_last(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    tls = files.tls(mutual=False)
    with live(tls=tls) as server:
        (files.folder / "tls.crt").write_text("no certificate")
        os.utime(files.folder / "tls.crt", ns=(1, 1))
        tls.renew()
        assert "cannot be used" in caplog.text
        assert httpx.get(f"{server.url}/v2", verify=files.context(with_certificate=False)).status_code == 200


@pytest.mark.parametrize("spoiled", ["tls.crt", "tls.key", "authority.pem"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_files_that_do_not_work_end_the_start(files: Files, spoiled: str, content: str | None) -> None:
    path = files.folder / spoiled
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(WorkerError) as raised:
        files.tls(mutual=True)
    assert raised.value.reason == FailureReason.INVALID_REQUEST
    assert str(files.folder) not in raised.value.message
