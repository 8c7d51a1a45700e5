"""What the operator listens to. Each handler turns an event into a key and does nothing else."""

import time
from typing import Any

import kopf

from torchscript_operator.api.v1alpha1 import GROUP, PLURAL, VERSION
from torchscript_operator.controller import metrics
from torchscript_operator.controller.model import MODEL_LABEL, Json
from torchscript_operator.controller.queue import Key, Queue

CHILDREN = (("batch", "v1", "jobs"), ("apps", "v1", "deployments"), ("", "v1", "pods"), ("", "v1", "services"))
"""Children whose events ask for a pass over their model."""


def wish(body: Json) -> tuple[object, ...]:
    """What of a model asks for a pass: not its status, or every status write would ask for another."""
    metadata = body["metadata"]
    return metadata["uid"], metadata["generation"], metadata.get("deletionTimestamp"), metadata.get("annotations")


class Listener:
    """Remembers what was last asked of each model, and hands keys to the queue."""

    def __init__(self, queue: Queue) -> None:
        """Take the queue that keys go to."""
        self.queue = queue
        self.wishes: dict[Key, tuple[object, ...]] = {}

    async def model_event(self, event: Any, **_: Any) -> None:
        """A TorchScriptModel came, changed or went."""
        metrics.LAST_EVENT.labels(resource=PLURAL).set(time.time())
        body: Json = event["object"]
        key = Key(body["metadata"]["namespace"], body["metadata"]["name"])
        if event["type"] == "DELETED":
            self.wishes.pop(key, None)
            return
        wanted = wish(body)
        if self.wishes.get(key) != wanted:
            self.wishes[key] = wanted
            self.queue.add(key)

    async def child_event(self, event: Any, resource: Any, **_: Any) -> None:
        """A Job, Deployment, pod or Service of a model came, changed or went."""
        metrics.LAST_EVENT.labels(resource=resource.plural).set(time.time())
        metadata = event["object"]["metadata"]
        name = metadata.get("labels", {}).get(MODEL_LABEL)
        if name:
            self.queue.add(Key(metadata["namespace"], name))


async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Log in as the pod's ServiceAccount, or outside a cluster as the kubeconfig says."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


def register(registry: kopf.OperatorRegistry, listener: Listener) -> None:
    """Subscribe. Low-level event handlers only: kopf then stores nothing in the objects and sets no finalizer."""
    kopf.on.event(GROUP, VERSION, PLURAL, registry=registry, id="model")(listener.model_event)
    for group, version, plural in CHILDREN:
        kopf.on.event(group, version, plural, registry=registry, id=plural)(listener.child_event)
    kopf.on.login(registry=registry)(login)


def configure(settings: kopf.OperatorSettings) -> None:
    """Make kopf a plain watcher: no scanning, no peering, no events or annotations of its own."""
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.watching.connect_timeout = 30
    # The server ends a watch after this time, so a deaf connection is noticed at the latest then.
    settings.watching.server_timeout = 300
    settings.watching.chunk_size = 500
    for child in CHILDREN:
        settings.watching.label_selectors[child] = MODEL_LABEL
