"""The operator's process: connection, queue, watcher, full looks, health. It ends when any of them ends."""

import asyncio
import logging
import random
import signal
import time
from http import HTTPStatus

import kopf

from torchscript_operator.api.v1alpha1 import API_VERSION, PLURAL
from torchscript_operator.controller import handlers, health, metrics
from torchscript_operator.controller.children import KINDS, Children
from torchscript_operator.controller.cluster import ApiError, Cluster, connect
from torchscript_operator.controller.queue import Key, Queue
from torchscript_operator.controller.reconcile import Reconciler
from torchscript_operator.controller.settings import Settings
from torchscript_operator.controller.watch import Watch

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What ends the operator in good order. A pass may be cut off anywhere: the next one finds what it left."""
RETRY_SECONDS = 10.0
"""Time to the next full look after one that failed."""
LOOKS_TO_EVERYTHING = 12
"""One look in so many asks for a pass over every model; the others leave alone those that are at rest."""
JITTER = 0.1
"""Share by which the time between full looks varies."""


class MissingResourceError(Exception):
    """The CRD is not installed, or the operator may not read it."""


async def full_look(cluster: Cluster, queue: Queue, settings: Settings, *, everything: bool) -> None:
    """Queue every model, or only those that are not at rest: what events have missed, this finds. Raises ApiError."""
    count = 0
    for namespace in settings.watch_namespaces or (None,):
        async for bodies, _ in cluster.pages(API_VERSION, PLURAL, namespace):
            for body in bodies:
                if everything or not handlers.at_rest(body):
                    queue.add(Key(body["metadata"]["namespace"], body["metadata"]["name"]))
            count += len(bodies)
    metrics.MODELS.set(count)
    metrics.LAST_RESYNC.set(time.time())


async def resync(cluster: Cluster, queue: Queue, settings: Settings, state: health.Health) -> None:
    """Look at everything at the start, and then every so often at what is not at rest, for ever."""
    looks = 0
    while True:
        try:
            await full_look(cluster, queue, settings, everything=looks % LOOKS_TO_EVERYTHING == 0)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND and not state.started:
                # kopf would wait silently for a resource that is not there.
                msg = f"the resource {PLURAL}.{API_VERSION} does not exist: install the CRD, then start the operator"
                raise MissingResourceError(msg) from error
            logger.warning("the full look failed: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
            continue
        looks += 1
        state.resynced()
        spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 -- spreads load, hides nothing
        await asyncio.sleep(settings.resync_seconds * spread)


async def watch(listener: handlers.Listener, settings: Settings, stop: asyncio.Event) -> None:
    """Run kopf's watchers until they end.

    kopf takes SIGTERM and SIGINT for itself, and would wait for tasks that are not its own: they are taken back.
    """
    loop = asyncio.get_running_loop()
    registry = kopf.OperatorRegistry()
    handlers.register(registry, listener)
    kopf_settings = kopf.OperatorSettings()
    handlers.configure(kopf_settings)
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=kopf_settings,
        standalone=True,
        clusterwide=not settings.watch_namespaces,
        namespaces=list(settings.watch_namespaces),
    )
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    await kopf.run_tasks(tasks, ignored=others)


def hush() -> None:
    """End quietly: kopf, cut off half-way, reports its own closed connections as errors, and asyncio its generators."""
    logging.getLogger("kopf").setLevel(logging.CRITICAL)
    asyncio.get_running_loop().set_exception_handler(lambda _, said: logger.debug("while ending: %s", said["message"]))


async def run(settings: Settings, port: int = health.PORT) -> None:
    """Run until SIGTERM or SIGINT. Raises what ended a part before its time, MissingResourceError among them."""
    stop = asyncio.Event()
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with connect() as cluster:
        children = Children()
        queue = Queue(Reconciler(cluster, settings, children), settings.workers)
        watches = [
            Watch(cluster, queue, children, plural, namespace, settings.resync_seconds)
            for plural in KINDS
            for namespace in settings.watch_namespaces or (None,)
        ]

        async def known() -> None:
            for it in watches:
                await it.listed.wait()

        state = health.Health(queue.oldest_seconds, settings.resync_seconds)
        async with health.serve(state, port):
            parts = {
                asyncio.create_task(queue.run(known), name="queue"),
                *(asyncio.create_task(it.run(), name=f"watch of {it.plural}") for it in watches),
                asyncio.create_task(resync(cluster, queue, settings, state), name="resync"),
                asyncio.create_task(watch(handlers.Listener(queue), settings, stop), name="watch"),
                asyncio.create_task(stop.wait(), name="stop"),
            }
            done, pending = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                hush()
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()
        logger.info("the operator ends since its part %r ended", task.get_name())
