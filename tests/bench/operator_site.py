"""Where the benchmark runs: a real API server with controllers and scheduler, kwok's pods, and a fast loader."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import yaml

from tests.bench import operator_stages
from tests.cluster import binaries
from tests.cluster.controlplane import ControlPlane, control_plane
from tests.integration.harness import ROOT, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

Json = dict[str, Any]

MODELS_A_NAMESPACE = 100
"""Kubernetes' own controllers look through all of a namespace for much of what they do."""
AT_ONCE = 32
"""Objects that the loader creates at the same time."""
FAST = ("--kube-api-qps=1000", "--kube-api-burst=1000")
CONTROLLERS = (
    *FAST,
    "--concurrent-deployment-syncs=20",
    "--concurrent-job-syncs=20",
    "--concurrent-replicaset-syncs=20",
)
"""Limits of the controllers raised, so that what is measured is the operator and not what waits for them."""
AUDIT = ("--audit-log-maxsize=8000",)
"""Megabytes; the whole of a run has to be in one file."""
MODELS = "/apis/torchscript.dev/v1alpha1", "torchscriptmodels"
DEPLOYMENTS = "/apis/apps/v1", "deployments"
REPLICA_SETS = "/apis/apps/v1", "replicasets"
JOBS = "/apis/batch/v1", "jobs"
Kind = tuple[str, str]
"""The path of a group and version, and a resource in it."""


def home(number: int) -> str:
    """The namespace of an object."""
    return f"bench-{number // MODELS_A_NAMESPACE}"


def model(number: int) -> Json:
    """The least model. That two cores take long to start ten thousand pods is no failure of its rollout."""
    spec = {
        "source": {"s3": {"uri": f"s3://models/m{number}"}},
        "task": "feature-extraction",
        "serving": {"progressDeadlineSeconds": 7200},
    }
    return {
        "apiVersion": "torchscript.dev/v1alpha1",
        "kind": "TorchScriptModel",
        "metadata": {"name": f"m{number}", "namespace": home(number)},
        "spec": spec,
    }


def deployment(number: int) -> Json:
    """A Deployment of one pod, for the kube-controller-manager."""
    labels = {"app": f"m{number}"}
    pod = {"containers": [{"name": "server", "image": "worker:test"}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"m{number}", "namespace": home(number)},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


class Api:
    """The API server as its administrator, many calls at once."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def post(self, path: str, body: Json) -> None:
        headers = {"Content-Type": "application/json"}
        async with self.session.post(self.url + path, data=orjson.dumps(body), headers=headers) as answer:
            if not answer.ok:
                raise RuntimeError(await answer.text())
            await answer.read()

    async def load(self, kind: Kind, make: Callable[[int], Json], count: int) -> float:
        """Create objects as fast as the API server takes them; returns the seconds that took."""
        started = time.monotonic()
        numbers = iter(range(count))

        async def work() -> None:
            for number in numbers:
                await self.post(f"{kind[0]}/namespaces/{home(number)}/{kind[1]}", make(number))

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        return time.monotonic() - started

    async def count(self, kind: Kind) -> int:
        """How many objects there are, without fetching them."""
        async with self.session.get(f"{self.url}{'/'.join(kind)}?limit=1") as answer:
            page = orjson.loads(await answer.read())
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))

    async def until_count(self, kind: Kind, count: int, seconds: float) -> None:
        """Wait for that many objects."""
        async with asyncio.timeout(seconds):
            while await self.count(kind) < count:
                await asyncio.sleep(0.2)

    async def until_ready(self, count: int, seconds: float) -> None:
        """Wait until that many models are Ready and nothing of them is under way, by a watch from the beginning."""
        ready: set[str] = set()
        async with asyncio.timeout(seconds):
            while len(ready) < count:
                query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
                async with self.session.get(f"{self.url}{'/'.join(MODELS)}?{query}") as stream:
                    async for line in _lines(stream.content):
                        event = orjson.loads(line)
                        if event["type"] == "ERROR":
                            # A watch that could not keep up begins anew.
                            break
                        if is_ready(event["object"]):
                            ready.add(event["object"]["metadata"]["name"])
                        if len(ready) == count:
                            break


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in stream.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line


def is_ready(body: Json) -> bool:
    """Whether a model serves and nothing of it is under way."""
    found = {item["type"]: item["status"] for item in body.get("status", {}).get("conditions", ())}
    return found.get("Ready") == "True" and found.get("Reconciling") == "False"


@asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[Api]:
    """An administrator's client."""
    found = yaml.safe_load(kubeconfig.read_text())
    cluster, user = found["clusters"][0]["cluster"], found["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:
        pair.write(base64.b64decode(user["client-certificate-data"]))
        pair.write(b"\n" + base64.b64decode(user["client-key-data"]))
        pair.flush()
        context.load_cert_chain(pair.name)
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=2**22) as session:
        yield Api(session, cluster["server"])


@contextmanager
def site(folder: Path, count: int) -> Iterator[ControlPlane]:
    """A fresh control plane with the CRD, namespaces for that many objects, and a node whose pods kwok plays."""
    binaries.build(["kwok"])
    raised = {"extra_apiserver": AUDIT, "extra_controllers": CONTROLLERS, "extra_scheduler": FAST}
    with control_plane(folder, controllers=True, scheduler=True, **raised) as plane:
        plane.kubectl.run("apply", "--server-side", f"--filename={ROOT / 'crds'}")
        eventually(lambda: _is_served(plane), "the CRD to be served")
        homes = sorted({home(number) for number in range(count)})
        spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in homes]
        plane.kubectl.run("create", "--filename=-", stdin=yaml.safe_dump_all(spaces))
        config = folder / "stages.yaml"
        config.write_text(yaml.safe_dump_all(operator_stages.stages()))
        body = yaml.safe_dump(operator_stages.node())
        plane.kubectl.run("create", "--filename=-", stdin=body)
        patch = orjson.dumps({"status": operator_stages.node()["status"]}).decode()
        plane.kubectl.run("patch", "node", operator_stages.NODE, "--subresource=status", f"--patch={patch}")
        with kwok(plane, config, folder / "logs" / "kwok.log"):
            yield plane


def _is_served(plane: ControlPlane) -> bool:
    definition = plane.kubectl.get("crd", "torchscriptmodels.torchscript.dev") or {}
    found = (definition.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Established" and condition["status"] == "True" for condition in found)


@contextmanager
def kwok(plane: ControlPlane, config: Path, log: Path) -> Iterator[None]:
    """The simulator of kubelets."""
    command = [
        binaries.binary("kwok"),
        f"--kubeconfig={plane.kubeconfig}",
        f"--config={config}",
        "--manage-all-nodes",
        "--node-lease-duration-seconds=120",
        "--v=WARN",
    ]
    with log.open("ab") as output:
        running = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"HOME": str(log.parent)}
        )
    try:
        yield
    finally:
        running.terminate()
        running.wait(20)
