"""The yardstick: an operator as kopf's tutorial would have it. One change handler makes one Job for an object.

`KUBECONFIG=… python -m tests.bench.plain_kopf`; it writes no status and looks at no child.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import kopf
from kubernetes.aio import client, config


class Plain:
    """The operator: a client that lives as long as it, and a handler."""

    def __init__(self) -> None:
        self.jobs: client.BatchV1Api | None = None

    async def connect(self, **_: Any) -> None:
        await config.load_kube_config()
        self.jobs = client.BatchV1Api(client.ApiClient())

    async def created(self, name: str, namespace: str, **_: Any) -> None:
        container = {"name": "export", "image": "worker:test", "command": ["python", "-m", "export"]}
        body: dict[str, Any] = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"{name}-export"},
            "spec": {"template": {"spec": {"containers": [container], "restartPolicy": "Never"}}},
        }
        kopf.adopt(body)
        assert self.jobs is not None
        await self.jobs.create_namespaced_job(namespace, body)


def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_kubeconfig(**kwargs)


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    plain = Plain()
    registry = kopf.OperatorRegistry()
    kopf.on.startup(registry=registry)(plain.connect)
    kopf.on.login(registry=registry)(login)
    kopf.on.create("torchscript.dev", "v1alpha1", "torchscriptmodels", registry=registry)(plain.created)
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    asyncio.run(kopf.operator(registry=registry, settings=settings, standalone=True, clusterwide=True))


if __name__ == "__main__":
    main()
