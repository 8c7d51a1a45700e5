"""Image archives, certificates and the state folder of the embedded cluster."""

from __future__ import annotations

import json
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.cluster import machine, network, pki, scratch
from tests.cluster.components import Plane
from tests.cluster.processes import ClusterError

if TYPE_CHECKING:
    from pathlib import Path


def image(path: Path, content: bytes = b"1") -> Path:
    files: dict[str, Path | str | bytes] = {"/bin/tool": content, "/bin/link": "tool"}
    return scratch.scratch_image("localhost/tool:1", files, ["/bin/tool"], archive=path)


def test_an_image_describes_itself(tmp_path: Path) -> None:
    name, digest = scratch.describe(image(tmp_path / "a.tar"))
    assert name == "localhost/tool:1"
    assert digest.startswith("sha256:")


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    assert image(tmp_path / "a.tar").read_bytes() == image(tmp_path / "b.tar").read_bytes()


def test_other_files_give_another_image(tmp_path: Path) -> None:
    assert scratch.describe(image(tmp_path / "a.tar")) != scratch.describe(image(tmp_path / "b.tar", b"2"))


def test_an_image_runs_as_nobody_with_executables_kept(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    archive = scratch.scratch_image("localhost/p:1", {"/p": program}, ["/p"], archive=tmp_path / "p.tar")
    with tarfile.open(archive) as tar:
        blobs = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        configs = [json.load(blob) for blob in blobs.values() if blob and blob.peek(1)[:1] == b"{"]  # type: ignore[attr-defined]
    config = next(c["config"] for c in configs if "rootfs" in c)
    assert config["User"] == "65532:65532"
    with tarfile.open(archive) as tar:
        layers = [tar.extractfile(m) for m in tar if m.isfile() and m.size > 5000]
        with tarfile.open(fileobj=layers[0]) as layer:
            assert layer.getmember("p").mode == 0o755


def test_what_is_no_image_archive_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"\0" * 20_000)
    with pytest.raises(ValueError, match="is no OCI archive"):
        scratch.describe(other)


def test_certificates_are_made_once_and_signed_by_the_authority(tmp_path: Path) -> None:
    wanted = [pki.Certificate("server", "/CN=server", ["DNS:localhost", "IP:127.0.0.1"])]
    first = pki.ensure(tmp_path, wanted)
    assert pki.ensure(tmp_path, wanted) == first
    verify = ["openssl", "verify", "-CAfile", str(tmp_path / "ca.crt"), str(tmp_path / "server.crt")]
    assert subprocess.run(verify, check=False, capture_output=True).returncode == 0


def test_a_missing_certificate_is_made_anew_under_the_same_authority(tmp_path: Path) -> None:
    wanted = [pki.Certificate("server", "/CN=server")]
    first = pki.ensure(tmp_path, wanted)
    authority = (tmp_path / "ca.crt").read_bytes()
    (tmp_path / "server.crt").unlink()
    assert pki.ensure(tmp_path, wanted) != first
    assert (tmp_path / "ca.crt").read_bytes() == authority


def test_a_certificate_about_to_expire_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [pki.Certificate("server", "/CN=server")]
    monkeypatch.setattr(pki, "DAYS", 3)
    first = pki.ensure(tmp_path, wanted)
    monkeypatch.setattr(pki, "DAYS", 365)
    second = pki.ensure(tmp_path, wanted)
    assert second != first
    assert pki.ensure(tmp_path, wanted) == second


def test_another_name_is_another_certificate(tmp_path: Path) -> None:
    first = pki.ensure(tmp_path, [pki.Certificate("server", "/CN=server")])
    assert pki.ensure(tmp_path, [pki.Certificate("server", "/CN=server", ["DNS:other"])]) != first


def test_a_kubeconfig_is_for_its_owner_only(tmp_path: Path) -> None:
    pki.ensure(tmp_path, [pki.Certificate("admin", "/CN=admin")])
    pki.write_kubeconfig(tmp_path / "kubeconfig", tmp_path, "admin", "https://127.0.0.1:1")
    assert (tmp_path / "kubeconfig").stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "kubeconfig").read_text())["current-context"]


def test_the_api_server_serves_every_name_that_clients_use(tmp_path: Path) -> None:
    certificates = {c.name: c for c in Plane(tmp_path, bind="127.0.0.1").certificates()}
    names = certificates["apiserver"].names
    assert {"DNS:kubernetes", "DNS:kubernetes.default.svc", "DNS:kubernetes.default.svc.cluster.local"} <= set(names)
    assert {"IP:127.0.0.1", f"IP:{network.API_SERVICE_ADDRESS}", f"IP:{network.NODE_ADDRESS}"} <= set(names)
    assert len(names) == len(set(names))


def test_a_folder_with_other_files_is_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ClusterError, match="not empty"):
        machine.claim(tmp_path)
    assert not machine.ours(tmp_path)


def test_a_claimed_folder_is_deleted_whole(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    machine.claim(folder)
    machine.claim(folder)
    (folder / "deep" / "er").mkdir(parents=True)
    machine.disclaim(folder)
    assert not folder.exists()


def test_one_command_at_a_time(tmp_path: Path) -> None:
    with machine.exclusive(tmp_path), pytest.raises(ClusterError, match="at work"), machine.exclusive(tmp_path, 0.1):
        pass
    with machine.exclusive(tmp_path, 0.1):
        pass


def test_free_ports_differ_and_are_none_of_the_full_cluster() -> None:
    ports = network.free_ports(50)
    assert len(set(ports)) == 50
    assert network.API_PORT not in ports
