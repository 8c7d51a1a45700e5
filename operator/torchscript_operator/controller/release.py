"""`python -m torchscript_operator.controller.release`: take the operator's finalizer from all models.

The chart runs it before it is uninstalled: a finalizer that nobody is left to act on would keep each model, and its
namespace, from ever going. Artifacts stay in their stores. An operator that is installed again sets it again.
"""

import asyncio
import logging
import os
import sys

from torchscript_operator import __version__
from torchscript_operator.api.v1alpha1 import API_VERSION, PLURAL
from torchscript_operator.artifact import logs
from torchscript_operator.controller.cluster import ApiError, Cluster, connect
from torchscript_operator.controller.model import FINALIZER

logger = logging.getLogger(__name__)
NOT_FOUND = 404


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


async def _run() -> None:
    async with connect() as cluster:
        logger.info("%d models are released; their artifacts stay in their stores", await release(cluster))


def main() -> int:
    """Release, and say in one line why that failed."""
    logs.configure({"operator": __version__}, os.environ)
    try:
        asyncio.run(_run())
    except ApiError as error:
        logger.error("the models cannot be released: %s", error)  # noqa: TRY400 -- one line, no trace
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
