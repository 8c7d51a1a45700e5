"""A certificate authority for one cluster, its certificates and kubeconfigs, made by the openssl command."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAYS = 365
"""Validity of every certificate."""

AUTHORITY_DAYS = 3650
"""Validity of the authority, which pods that run hold in memory: it should outlive them."""

RENEWAL = 7 * 24 * 3600
"""Seconds before its end at which a certificate counts as expired."""

_CONFIG = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = unused
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign, digitalSignature
[leaf]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
"""


@dataclass(frozen=True)
class Certificate:
    """One key pair to be signed by the cluster's authority."""

    name: str
    """Of its files: `<name>.crt`, `<name>.key`."""
    subject: str
    """As openssl writes it; Kubernetes takes CN for the user, O for the groups."""
    names: Sequence[str] = ()
    """Where it serves: DNS names and IP addresses, as `DNS:…` and `IP:…`."""


def ensure(folder: Path, certificates: Sequence[Certificate]) -> str:
    """Makes what is missing, about to expire or described differently now; returns a fingerprint of the set.

    The authority and the service accounts' key stay as long as they are valid, because running pods rely on them.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "openssl.cnf").write_text(_CONFIG)
    plan = json.dumps([[c.name, c.subject, list(c.names)] for c in certificates])
    files = [folder / f"{c.name}.crt" for c in certificates]
    mark = folder / "plan.json"
    authority = _valid(folder / "ca.crt")
    whole = authority and mark.exists() and mark.read_text() == plan
    if not (whole and all(_valid(file) for file in files)):
        mark.unlink(missing_ok=True)
        if not authority:
            _request(folder, "ca", "/CN=torchscript-operator test cluster", "authority", AUTHORITY_DAYS)
        for certificate in certificates:
            _sign(folder, certificate)
        mark.write_text(plan)  # last: its presence proves a whole set
    if not (folder / "service-accounts.pub").exists():
        _service_account_key(folder)
    return hashlib.sha256(b"".join(file.read_bytes() for file in [folder / "ca.crt", *files])).hexdigest()


def write_kubeconfig(file: Path, folder: Path, user: str, server: str) -> None:
    """A kubeconfig for the certificate `user`, self-contained and readable by its owner only."""

    def data(name: str) -> str:
        return base64.b64encode((folder / name).read_bytes()).decode()

    name = "torchscript-operator"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": data(f"{user}.crt"),
                    "client-key-data": data(f"{user}.key"),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    }
    text = json.dumps(content, indent=2) + "\n"  # JSON is YAML
    if not file.exists() or file.read_text() != text:
        file.touch(mode=0o600)
        file.write_text(text)


def _sign(folder: Path, certificate: Certificate) -> None:
    signer = ["-CA", str(folder / "ca.crt"), "-CAkey", str(folder / "ca.key")]
    if certificate.names:
        signer += ["-addext", f"subjectAltName={','.join(certificate.names)}"]
    _request(folder, certificate.name, certificate.subject, "leaf", DAYS, *signer)


def _service_account_key(folder: Path) -> None:
    private = folder / "service-accounts.key"
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(private))
    _openssl("pkey", "-in", str(private), "-pubout", "-out", str(folder / "service-accounts.pub"))


def _request(folder: Path, name: str, subject: str, extensions: str, days: int, *more: str) -> None:
    _openssl(
        *("req", "-x509", "-config", str(folder / "openssl.cnf"), "-extensions", extensions),
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", str(days)),
        *("-subj", subject, "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt")),
        *more,
    )


def _valid(file: Path) -> bool:
    check = ["openssl", "x509", "-in", str(file), "-noout", "-checkend", str(RENEWAL)]
    return file.exists() and subprocess.run(check, capture_output=True, check=False).returncode == 0


def _openssl(*arguments: str) -> None:
    if shutil.which("openssl") is None:
        raise RuntimeError("openssl (3.0 or newer) is not on PATH: install the package `openssl`")
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"openssl {arguments[0]} failed: {done.stderr.strip()}"
        raise RuntimeError(msg)
