"""`python -m torchscript_operator.controller.release`: take the operator's finalizer from all models.

The chart runs it before it is uninstalled: a finalizer that nobody is left to act on would keep each model, and its
namespace, from ever going. Artifacts stay in their stores. With `--stop` the operator is ended first, which would else
set the finalizer again. An operator that is installed again does so too.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from torchscript_operator import __version__
from torchscript_operator.api.v1alpha1 import API_VERSION, PLURAL
from torchscript_operator.artifact import logs
from torchscript_operator.controller.cluster import Cluster, connect
from torchscript_operator.controller.connection import ApiError
from torchscript_operator.controller.model import FINALIZER, Json

logger = logging.getLogger(__name__)
NOT_FOUND = 404
LOOK_SECONDS = 1.0
"""Between two looks at an operator that ends."""
MARGIN_SECONDS = 30.0
"""Time for an operator to end, beyond what its pods have for that."""
ENDED = frozenset({"Succeeded", "Failed"})
"""Phases of pods in which nothing runs any more."""


def _selector(deployment: Json) -> str:
    return ",".join(f"{key}={value}" for key, value in deployment["spec"]["selector"]["matchLabels"].items())


async def _is_up(cluster: Cluster, namespace: str, name: str) -> bool:
    deployment = await cluster.find("apps/v1", "deployments", namespace, name)
    if deployment is None:
        return False
    status = deployment.get("status", {})
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"] or status.get("replicas"):
        return True
    # Pods that are ending are no longer counted.
    pods = await cluster.list("v1", "pods", namespace, _selector(deployment))
    return any(pod.get("status", {}).get("phase") not in ENDED for pod in pods)


async def stop(cluster: Cluster, namespace: str, name: str) -> bool:
    """Scale the operator's Deployment to zero; returns whether its pods have ended in their time. Raises ApiError."""
    deployment = await cluster.scale(namespace, name, 0)
    if deployment is None:
        return True
    grace = deployment["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 0)
    try:
        async with asyncio.timeout(grace + MARGIN_SECONDS):
            while await _is_up(cluster, namespace, name):  # noqa: ASYNC110 -- another process
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        # As on a node that is lost: an uninstall must not wait for that.
        return False
    return True


async def release(cluster: Cluster) -> int:
    """Release all models; returns how many had to be. Raises ApiError."""
    count = 0
    try:
        async for bodies, _ in cluster.pages(API_VERSION, PLURAL):
            for body in bodies:
                metadata = body["metadata"]
                if FINALIZER in metadata.get("finalizers", ()):
                    await cluster.apply_finalizers(metadata["namespace"], metadata["name"], metadata["uid"], ())
                    count += 1
    except ApiError as error:
        # Without the definition there are no models either.
        if error.status != NOT_FOUND:
            raise
    return count


async def _run(operator: tuple[str, str] | None) -> None:
    async with connect() as cluster:
        if operator is not None and not await stop(cluster, *operator):
            logger.warning("pods of the operator do not end; one that still works may set its finalizer again")
        logger.info("%d models are released; their artifacts stay in their stores", await release(cluster))


def _operator(text: str) -> tuple[str, str]:
    namespace, _, name = text.partition("/")
    if not namespace or not name or "/" in name:
        raise argparse.ArgumentTypeError(f"{text} is not NAMESPACE/NAME")
    return namespace, name


def main(arguments: Sequence[str] | None = None) -> int:
    """Release, and say in one line why that failed."""
    parser = argparse.ArgumentParser(prog="release", description="Take the operator's finalizer from all models.")
    parser.add_argument("--stop", type=_operator, metavar="NAMESPACE/NAME", help="the operator's Deployment")
    chosen = parser.parse_args(arguments)
    logs.configure({"operator": __version__}, os.environ)
    try:
        asyncio.run(_run(chosen.stop))
    except ApiError as error:
        logger.error("the models cannot be released: %s", error)  # noqa: TRY400 -- one line, no trace
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
