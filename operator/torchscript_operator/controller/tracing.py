"""OpenTelemetry, where it is installed and its environment variables ask for it: a span for each pass over a model.

The SDK reads OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and the others by itself.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from torchscript_operator.controller.queue import Key, Later, Rest, Slow

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Environment variables of which one says where spans go; without them there are none."""
NAME_VARIABLE = "OTEL_SERVICE_NAME"
SERVICE = "torchscript-operator"

Pass = Callable[[Key], Awaitable[Later | Rest]]


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the environment asks for spans."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return any(environment.get(name) for name in ENDPOINTS)


@contextmanager
def exporting(environment: Mapping[str, str]) -> Iterator["trace.Tracer | None"]:
    """A tracer whose spans are sent away, the last ones at the end; None where none is wanted or can be had."""
    if not is_wanted(environment):
        yield None
        return
    try:
        provider = _provider(environment)
    except ImportError:
        logger.warning("%s is set, but the extra `tracing` is not installed: there are no spans", ENDPOINTS[0])
        yield None
        return
    try:
        yield provider.get_tracer(__name__)
    finally:
        provider.shutdown()


def _provider(environment: Mapping[str, str]) -> "TracerProvider":
    """Raises ImportError. Imported here: whoever wants no spans need not have the library, nor its memory."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create({} if environment.get(NAME_VARIABLE) else {SERVICE_NAME: SERVICE})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def traced(reconcile: Pass, tracer: "trace.Tracer | None") -> Pass:
    """Passes with a span each; what is left of a pass for later has one of its own."""
    if tracer is None:
        return reconcile

    async def rest(key: Key, left: Rest) -> Later:
        with tracer.start_as_current_span("tell", attributes=_attributes(key)):
            return await left()

    async def one(key: Key) -> Later | Rest:
        with tracer.start_as_current_span("reconcile", attributes=_attributes(key)):
            later = await reconcile(key)
        if callable(later):
            wrapped = partial(rest, key, later)
            return Slow(wrapped) if isinstance(later, Slow) else wrapped
        return later

    return one


def _attributes(key: Key) -> dict[str, str]:
    return {"k8s.namespace.name": key.namespace, "torchscript.model": key.name}
