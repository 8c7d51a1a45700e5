"""The operator's process: connection, queue, watcher, full looks, health. It ends when any of them ends."""

import asyncio
import logging
import os
import random
import signal
import time
import warnings
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

import kopf

from torchscript_operator.api.v1alpha1 import API_VERSION, PLURAL
from torchscript_operator.controller import handlers, health, metrics, tracing
from torchscript_operator.controller.calls import Calls
from torchscript_operator.controller.children import KINDS, Children
from torchscript_operator.controller.cluster import Cluster, collection, connect
from torchscript_operator.controller.connection import ApiError
from torchscript_operator.controller.lease import Alone, Elector, Leadership, namespace_of
from torchscript_operator.controller.queue import Key, Queue, Rank
from torchscript_operator.controller.reconcile import Reconciler
from torchscript_operator.controller.settings import Settings
from torchscript_operator.controller.shown import Shown
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


async def full_look(
    cluster: Cluster, listener: handlers.Listener, settings: Settings, rank: Rank, *, everything: bool, keep: bool
) -> None:
    """Queue every model, or only those that are not at rest, or are not as the last event told. Raises ApiError.

    keep: models at rest are kept as they are for their first pass.
    """
    gone = set(listener.wishes)
    for namespace in settings.watch_namespaces or (None,):
        async for bodies, _ in cluster.pages(API_VERSION, PLURAL, namespace):
            for body in bodies:
                key = Key(body["metadata"]["namespace"], body["metadata"]["name"])
                gone.discard(key)
                news = listener.is_news(key, body, keep=keep)
                if everything or news or not handlers.at_rest(body):
                    listener.queue.add(key, Rank.REPORTED if news else rank)
    # A watch that begins anew with a list says nothing of what went in between.
    for key in gone:
        listener.forget(key)
    metrics.LAST_RESYNC.set(time.time())


async def resync(
    cluster: Cluster, listener: handlers.Listener, settings: Settings, state: health.Health, leading: asyncio.Event
) -> None:
    """Look at everything at the start and once this operator leads, and then every so often at what is not at rest."""
    looks = 0
    while True:
        led = leading.is_set()
        try:
            # What has happened before this operator led, nothing else tells it.
            rank = Rank.LOOK if looks else Rank.REPORTED
            everything, keep = looks % LOOKS_TO_EVERYTHING == 0, led and looks == 0
            await full_look(cluster, listener, settings, rank, everything=everything, keep=keep)
            if keep:
                listener.shown.close()
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND and not state.started:
                # kopf would wait silently for a resource that is not there.
                msg = f"the resource {PLURAL}.{API_VERSION} does not exist: install the CRD, then start the operator"
                raise MissingResourceError(msg) from error
            logger.warning("the full look failed: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
            continue
        state.resynced()
        if not led:
            # The queue has taken nothing: the first look that counts is the one as leader.
            await leading.wait()
            continue
        looks += 1
        spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 -- spreads load, hides nothing
        await asyncio.sleep(settings.resync_seconds * spread)


async def watch(listener: handlers.Listener, settings: Settings, calls: Calls, stop: asyncio.Event) -> None:
    """Run kopf's watchers until they end.

    kopf takes SIGTERM and SIGINT for itself, and would wait for tasks that are not its own: they are taken back.
    """
    registry = kopf.OperatorRegistry()
    handlers.register(registry, listener, handlers.Login(calls.trace()))
    kopf_settings = kopf.OperatorSettings()
    handlers.configure(kopf_settings)
    before = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=kopf_settings,
        standalone=True,
        clusterwide=not settings.watch_namespaces,
        namespaces=list(settings.watch_namespaces),
    )
    _end_at_signals(stop)
    await kopf.run_tasks(tasks, ignored=before)


def hush() -> None:
    """End quietly: kopf, cut off half-way, reports its own closed connections as errors, and asyncio its generators."""
    logging.getLogger("kopf").setLevel(logging.CRITICAL)
    # aiohttp waits for no TLS connection that a cut-off request leaves: the system closes it with the process.
    warnings.simplefilter("ignore", ResourceWarning)
    asyncio.get_running_loop().set_exception_handler(lambda _, said: logger.debug("while ending: %s", said["message"]))


def _end_at_signals(stop: asyncio.Event) -> None:
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


def watched(settings: Settings) -> list[str]:
    """Paths of all watches that the operator keeps."""
    kinds = {PLURAL: API_VERSION, **KINDS}
    spaces = settings.watch_namespaces or (None,)
    return [collection(version, space, plural) for plural, version in kinds.items() for space in spaces]


def leadership(cluster: Cluster, settings: Settings) -> Leadership:
    """How this process comes to lead. Raises NoNamespaceError."""
    terms = settings.leader_election
    return Elector(cluster, terms, namespace_of(terms)) if terms.enabled else Alone()


async def run(settings: Settings, port: int = health.PORT) -> None:
    """Run until SIGTERM or SIGINT.

    Raises what ended a part before its time, MissingResourceError and LeaseLostError among them, or NoNamespaceError.
    """
    stop = asyncio.Event()
    _end_at_signals(stop)
    paths = watched(settings)
    calls = Calls(paths)
    async with connect(calls.trace(), watches=len(paths)) as cluster, AsyncExitStack() as stack:
        tracer = stack.enter_context(tracing.exporting(os.environ))
        turn = leadership(cluster, settings)
        children = Children()
        shown = Shown()
        reconciler = Reconciler.over(replace(cluster, may_write=turn.leads), settings, children, shown=shown)
        queue = Queue(tracing.traced(reconciler, tracer), settings.workers, turn.leading.is_set)
        # Else a model whose pass has failed meanwhile would wait for minutes that nobody needs.
        calls.at_return = queue.relieve
        listener = handlers.Listener(queue, shown)
        watches = [
            Watch(cluster, queue, children, plural, namespace, settings.resync_seconds)
            for plural in KINDS
            for namespace in settings.watch_namespaces or (None,)
        ]

        async def known() -> None:
            for it in watches:
                await it.listed.wait()
            await turn.leading.wait()

        metrics.observe(queue.oldest_seconds, {plural: partial(calls.age, plural) for plural in (PLURAL, *KINDS)})
        state = health.Health(queue.stuck_seconds, settings.resync_seconds, turn, calls)
        async with metrics.told(listener.census), health.serve(state, port):
            writers = {
                asyncio.create_task(queue.run(known), name="queue"),
                asyncio.create_task(resync(cluster, listener, settings, state, turn.leading), name="resync"),
            }
            others = {
                *(asyncio.create_task(it.run(), name=f"watch of {it.plural}") for it in watches),
                asyncio.create_task(turn.run(), name="lease"),
                asyncio.create_task(stop.wait(), name="stop"),
            }
            others.add(asyncio.create_task(watch(listener, settings, calls, stop), name="watch"))
            done, _ = await asyncio.wait(writers | others, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                hush()
            # Whoever waits may lead as soon as nothing is written here, before kopf has taken its time to end.
            await _end(writers)
            await turn.release()
            await _end(others)
    for task in done:
        logger.info("the operator ends since its part %r ended", task.get_name())
    for task in done:
        task.result()


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
