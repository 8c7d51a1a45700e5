"""What Prometheus scrapes from a serving pod."""

from collections.abc import Sequence
from functools import cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Buckets from one short text on a fast core to the request deadline."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Buckets of batch sizes."""
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 0.9, 1.0)
"""Buckets of the padding's share of a batch."""
PROBES = ("/v2/health/", "/metrics")
"""Paths that are asked every few seconds."""
OTHER_ROUTE = "other"
"""Label of every path that is no route, so that scanners cannot fill the metrics."""
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""Of the exposition."""


class Metrics:
    """One registry for a process, so that tests can have several. Implements engine.Observer."""

    def __init__(self) -> None:
        """Register all metrics; label sets are bounded by the routes and status codes."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        registry = self.registry
        # Memory, processor time and open files, under the names that every dashboard knows.
        ProcessCollector(registry=registry)
        self.requests = Counter("tsm_requests", "Requests answered.", ("route", "code"), registry=registry)
        self.request_seconds = Histogram(
            "tsm_request_seconds",
            "From a request's head to its answer.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self.refused_connections = Counter(
            "tsm_refused_connections",
            "Connections that were given up: a slow or large head, a slow reader, no HTTP, or no room.",
            ("reason",),
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "tsm_queue_seconds", "A text's wait for its pass.", buckets=SECONDS, registry=registry
        )
        self.compute_seconds = Histogram("tsm_compute_seconds", "One forward pass.", buckets=SECONDS, registry=registry)
        self.batch_rows = Histogram("tsm_batch_rows", "Texts in one forward pass.", buckets=ROWS, registry=registry)
        self.padding = Histogram(
            "tsm_batch_padding_ratio", "Padding's share of a pass.", buckets=SHARES, registry=registry
        )
        self.tokens = Counter("tsm_tokens", "Tokens computed that clients asked for.", registry=registry)
        self.padding_tokens = Counter("tsm_padding_tokens", "Tokens computed that were padding.", registry=registry)
        self.queue_rows = Gauge("tsm_queue_rows", "Texts that wait.", registry=registry)
        self.queue_tokens = Gauge("tsm_queue_tokens", "Tokens that wait.", registry=registry)
        self.ready = Gauge("tsm_ready", "1 while the pod is ready.", registry=registry)
        self.stage_seconds = Gauge(
            "tsm_load_stage_seconds", "Duration of a stage of loading.", ("stage",), registry=registry
        )
        # labels() takes a lock and makes strings each time; each pair of route and status is looked up once.
        self.requests_of = cache(self.requests.labels)
        self.seconds_of = cache(self.request_seconds.labels)
        self.artifact = Gauge(
            "tsm_artifact_info",
            "The artifact that is served; always 1.",
            ("model", "target", "digest", "key", "task", "compiler", "precision"),
            registry=registry,
        )

    def batch(self, *, rows: int, tokens: int, padded_tokens: int, seconds: float, waited: Sequence[float]) -> None:
        """Count one forward pass."""
        self.batch_rows.observe(rows)
        self.compute_seconds.observe(seconds)
        self.padding.observe(1.0 - tokens / padded_tokens)
        self.tokens.inc(tokens)
        self.padding_tokens.inc(padded_tokens - tokens)
        for wait in waited:
            self.queue_seconds.observe(wait)

    def expose(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)
