"""A model behind TLS, client certificates and tokens, from Secrets that the kubelet mounts."""

from __future__ import annotations

import base64
import json
import ssl
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import trustme

from tests.e2e import site as sites
from tests.e2e.reference import SENTENCES, TOLERANCE, eager

if TYPE_CHECKING:
    from tests.e2e.conftest import Models

TOKEN = "of-this-test-only"  # noqa: S105 -- it is


def secret(models: Models, name: str, **data: bytes) -> None:
    encoded = {key.replace("_", "."): base64.b64encode(value).decode() for key, value in data.items()}
    metadata = {"name": name, "namespace": models.namespace}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}
    models.kubectl.run("apply", "--server-side", "--filename=-", stdin=json.dumps(body))


def test_guarded_model_answers_over_tls_whoever_has_a_certificate_and_a_token(models: Models) -> None:
    host = f"guarded.{models.namespace}.svc"
    authority = trustme.CA()
    certificate = authority.issue_cert(host)

    def guard(body: dict[str, Any]) -> None:
        body["spec"]["serving"] |= {
            "access": {"tokenSecret": {"name": "clients", "key": "tokens"}},
            "tls": {"secretName": "guarded-tls", "clientAuthority": {"name": "clients-ca", "key": "ca.crt"}},
        }

    secret(models, "clients", tokens=f"{TOKEN}\n".encode())
    secret(models, "clients-ca", ca_crt=authority.cert_pem.bytes())
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    secret(models, "guarded-tls", tls_crt=chain, tls_key=certificate.private_key_pem.bytes())
    models.apply("guarded", guard)
    model = models.settled("guarded")
    assert model["status"]["serving"]["url"].startswith(f"https://{host}")

    service = models.kubectl.get("service", "guarded", f"--namespace={models.namespace}")
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    authority.issue_cert("client@e2e").configure_cert(context)
    with httpx.Client(base_url=f"https://{service['spec']['clusterIP']}", verify=context, timeout=60) as client:

        def ask(**headers: str) -> httpx.Response:
            body = {"model": "guarded", "input": list(SENTENCES)}
            return client.post("/v1/embeddings", json=body, headers=headers, extensions={"sni_hostname": host})

        assert ask().status_code == 401
        answer = ask(Authorization=f"Bearer {TOKEN}").raise_for_status().json()
    vectors = np.array([item["embedding"] for item in answer["data"]])
    np.testing.assert_allclose(vectors, eager(sites.model_folder()), atol=TOLERANCE)
