"""What the process is doing: loading, ready, draining, or failed. Written by few, read by every route."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torchscript_operator.artifact import digest as digests
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.artifact.request import ServeRequest
from torchscript_operator.serve.buckets import Buckets
from torchscript_operator.serve.engine import Engine
from torchscript_operator.serve.metrics import Metrics
from torchscript_operator.serve.settings import Settings
from torchscript_operator.serve.tasks.base import Task
from torchscript_operator.serve.tokenizing import Tokenizing

if TYPE_CHECKING:
    from torchscript_operator.serve.tracing import Tracing

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """The loaded model as routes see it."""

    manifest: Manifest
    task: Task
    tokenizing: Tokenizing
    buckets: Buckets
    engine: Engine


@dataclass
class State:
    """One for a process."""

    request: ServeRequest
    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)
    stage: str = "start"
    """The stage of loading, then `serve`, then `drain`."""
    model: Model | None = None
    started: float = field(default_factory=time.time)
    """Unix time of the start, for /v1/models."""
    executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "work"))
    """For tokenising and encoding that would hold up the event loop."""
    secured: bool = False
    """Whether clients need a token, for the OpenAPI document."""
    tracing: "Tracing | None" = None
    """Makes spans; None where none are asked for."""
    documents: dict[tuple[str, bool], bytes] = field(default_factory=dict)
    """The API's descriptions, by their kind and by whether the model was there."""
    buffered_bytes: int = 0
    """Request bodies held now."""
    _stage_began: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """The model's name in URLs."""
        return self.request.name

    @property
    def version(self) -> str:
        """The model's version in URLs: the first 12 characters of the manifest's SHA-256."""
        return self.request.digest.removeprefix(digests.PREFIX)[:12]

    @property
    def draining(self) -> bool:
        """Whether the pod was told to end."""
        return self.stage == "drain"

    @property
    def ready(self) -> bool:
        """Whether new clients may be sent here."""
        return self.stage == "serve" and self.model is not None and self.model.engine.complaint() is None

    def enter(self, stage: str) -> None:
        """Go to a stage; draining is never left."""
        if self.draining:
            return
        now = time.monotonic()
        if self.stage != "serve":
            self.metrics.stage_seconds.labels(self.stage).set(now - self._stage_began)
        self.stage, self._stage_began = stage, now
        self.metrics.ready.set(stage == "serve")
        LOGGER.info("stage %s", stage, extra={"stage": stage})
