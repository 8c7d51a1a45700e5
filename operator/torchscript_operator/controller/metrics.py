"""Prometheus metrics of the operator's own work; those of the models are in census.py."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.registry import Collector

RECONCILES = Counter("tsm_reconcile", "Passes over a model.", ["result"])
RECONCILE_SECONDS = Histogram("tsm_reconcile_duration_seconds", "Time of one pass over a model.", ["result"])
QUEUE_DEPTH = Gauge("tsm_queue_depth", "Models that wait for a pass.")
QUEUE_OLDEST = Gauge(
    "tsm_queue_oldest_seconds", "For how long a change at the head of the queue has waited for its pass."
)
QUEUE_SECONDS = Histogram("tsm_queue_latency_seconds", "Time from a change to the pass it asked for.")
RETRIES = Counter("tsm_queue_retries", "Passes that are tried again after an error.")
API_CALLS = Counter("tsm_api_calls", "Requests to the API server; code 0 is no answer.", ["verb", "code"])
API_SECONDS = Histogram(
    "tsm_api_call_duration_seconds", "Time until the API server begins to answer a request.", ["verb"]
)
LAST_RESYNC = Gauge("tsm_last_resync_timestamp_seconds", "When all models were last looked at.")
WATCH_AGE = Gauge(
    "tsm_watch_age_seconds",
    "Time since the API server last accepted a watch, which is renewed every five minutes.",
    ["resource"],
)
LAST_EVENT = Gauge("tsm_last_event_timestamp_seconds", "When the last watch event came.", ["resource"])
LEADER = Gauge("tsm_leader", "Whether this operator leads: 1, or 0 while it waits for another to end.")


def observe(oldest_seconds: Callable[[], float], ages: Mapping[str, Callable[[], float]]) -> None:
    """Take figures that are only known when somebody asks: the queue's age, and that of each resource's watches."""
    QUEUE_OLDEST.set_function(oldest_seconds)
    for resource, age in ages.items():
        WATCH_AGE.labels(resource=resource).set_function(age)


@asynccontextmanager
async def told(collector: Collector) -> AsyncIterator[None]:
    """Answer scrapes from a collector too, as long as the context lasts."""
    REGISTRY.register(collector)
    try:
        yield
    finally:
        REGISTRY.unregister(collector)
