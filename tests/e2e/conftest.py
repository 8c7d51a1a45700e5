"""The embedded cluster with the operator installed by its chart; each test has a namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.e2e import site as sites

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.s3 import S3

Json = dict[str, Any]
EXPORT_SECONDS = 240
"""Longest time that an export with its rollout takes on two busy cores."""


@pytest.fixture(scope="session")
def site() -> sites.Site:
    """The cluster stays up after the tests, so that the next run starts at once."""
    built = sites.embedded(lambda text: sys.stderr.write(f"e2e: {text}\n"))
    sites.install(built)
    return built


@pytest.fixture(scope="session")
def s3(site: sites.Site) -> S3:
    """The cluster's S3 with the real model in it."""
    return sites.provide_s3(site)


class Models:
    """Models of one namespace."""

    def __init__(self, site: sites.Site, namespace: str) -> None:
        self.site, self.kubectl, self.namespace = site, site.kubectl, namespace

    def apply(self, name: str, change: Callable[[Json], None] | None = None) -> None:
        """examples/minilm.yaml under another name, changed."""
        body: Json = yaml.safe_load((sites.ROOT / "examples" / "minilm.yaml").read_text())
        body["metadata"]["name"] = name
        if change is not None:
            change(body)
        flags = ("--server-side", "--force-conflicts", f"--namespace={self.namespace}", "--filename=-")
        self.kubectl.run("apply", *flags, stdin=json.dumps(body))

    def tsm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line as a person has it, told of this namespace."""
        command = [str(Path(sys.executable).with_name("tsm")), *arguments, "--namespace", self.namespace]
        environment = os.environ | {"KUBECONFIG": str(self.site.kubeconfig)}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=EXPORT_SECONDS, check=False
        )

    def get(self, name: str) -> Json | None:
        found: Json | None = self.kubectl.get("torchscriptmodel", name, f"--namespace={self.namespace}")
        return found

    def children(self, kind: str, name: str) -> list[Json]:
        listed = self.kubectl.get(kind, f"--namespace={self.namespace}", f"--selector=torchscript.dev/model={name}")
        items: list[Json] = (listed or {}).get("items", [])
        return items

    def url(self, name: str) -> str:
        """The Service's own address, which the node reaches through kube-proxy as pods do."""
        service = self.kubectl.get("service", name, f"--namespace={self.namespace}")
        return f"http://{service['spec']['clusterIP']}"

    def condition(self, name: str, kind: str) -> Json:
        """A condition that is about the present spec; empty before."""
        model = self.get(name) or {}
        conditions = model.get("status", {}).get("conditions", [])
        found: Json = next((item for item in conditions if item["type"] == kind), {})
        return found if found.get("observedGeneration") == model.get("metadata", {}).get("generation") else {}

    def until(self, look: Callable[[], Any], what: str, seconds: float = EXPORT_SECONDS) -> Any:
        """Wait until a look finds something; what the namespace holds is shown when it does not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(0.5)
        shown = self.kubectl.run("get", "tsm,jobs,pods,deployments", f"--namespace={self.namespace}", "--output=wide")
        events = self.kubectl.run("get", "events", f"--namespace={self.namespace}", "--sort-by=.lastTimestamp")
        raise AssertionError(f"not within {seconds} s: {what}\n{shown}\n{events}")

    def settled(self, name: str) -> Json:
        """Wait until a model is Ready with nothing under way."""

        def look() -> Json | None:
            quiet = self.condition(name, "Reconciling").get("status") == "False"
            return self.get(name) if quiet and self.condition(name, "Ready").get("status") == "True" else None

        found: Json = self.until(look, f"{name} Ready")
        return found

    def reason(self, name: str, kind: str, reason: str, seconds: float = EXPORT_SECONDS) -> Json:
        """Wait until a condition has a reason."""

        def look() -> Json | None:
            found = self.condition(name, kind)
            return found if found.get("reason") == reason else None

        condition: Json = self.until(look, f"{name} {kind}={reason}", seconds)
        return condition


@pytest.fixture
def models(site: sites.Site, s3: S3, request: pytest.FixtureRequest) -> Iterator[Models]:
    """A namespace that admits restricted pods only, deleted after the test."""
    words = request.node.name.removeprefix("test_").partition("[")[0].replace("_", "-")[:40].rstrip("-")
    namespace = f"e2e-{words}-{zlib.crc32(request.node.name.encode()):08x}"
    site.kubectl.run("delete", "namespace", namespace, "--ignore-not-found", "--wait=true", "--timeout=90s")
    sites.provide_namespace(site, namespace, s3)
    yield Models(site, namespace)
    site.kubectl.run("delete", "namespace", namespace, "--wait=false")
