"""What a pass reads: the children that matter to it, live; all of them, for a decision on what is not there."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from torchscript_operator.controller import scaling, serving
from torchscript_operator.controller.children import KINDS, PLURALS, Children
from torchscript_operator.controller.closer import CloserLooks
from torchscript_operator.controller.cluster import Cluster
from torchscript_operator.controller.model import Json, Model
from torchscript_operator.controller.observed import Observed, ended
from torchscript_operator.controller.queue import Key

WARNING_FIELDS = "type=Warning,involvedObject.name="
"""Events that say why a Job has no pod or a pod does not start."""


@dataclass(frozen=True)
class Reader:
    """Reads for one pass at a time of each model."""

    cluster: Cluster
    children: Children
    looks: CloserLooks = field(default_factory=CloserLooks)

    async def observe(self, model: Model) -> Observed:
        """Read the children that matter to a pass, live and at once; a cache could show what is no longer there."""
        names = self.children.to_read(model)
        known = dict(self.children.of("jobs", Key(model.namespace, model.name)))
        service = serving.service(model) if model.served else None
        if service is not None and self.children.is_as_applied(service):
            names["services"] = []
        else:
            service = None
        kinds = ("jobs", "pods", "deployments", "services")
        found = await asyncio.gather(*(self._find(kind, model.namespace, names[kind]) for kind in kinds))
        jobs, pods, deployments, services = found
        observed = Observed(jobs, pods, deployments, next(iter(services), service))
        awaited = {target.job for target in model.status.targets}
        for job in filter(ended, jobs):
            name = job["metadata"]["name"]
            # A Job that has ended since it was last heard of: its pods were left out as those of one that runs. Or one
            # of whose pods not all have been heard of: what it ended with would be told without its cause.
            if not known[name].over or (name in awaited and observed.lacks_pods(job)):
                return await self.look(model)
        return await self._accompanied(model, observed)

    async def _find(self, plural: str, namespace: str, names: Iterable[str]) -> tuple[Json, ...]:
        finds = (self.cluster.find(KINDS[plural], plural, namespace, name) for name in names)
        return tuple(item for item in await asyncio.gather(*finds) if item is not None)

    async def _accompanied(self, model: Model, observed: Observed) -> Observed:
        """Add what stands beside Deployments, where something may."""
        names = scaling.looked_for(model, observed.deployments)
        if not names:
            return observed
        autoscalers = await self._find("horizontalpodautoscalers", model.namespace, names)
        budgets = await self._find("poddisruptionbudgets", model.namespace, names)
        return replace(observed, autoscalers=autoscalers, budgets=budgets)

    async def look(self, model: Model) -> Observed:
        """List all children, for a decision that rests on what is not there."""
        cluster, namespace, name = self.cluster, model.namespace, model.name
        jobs, pods, deployments, service = await asyncio.gather(
            cluster.children("batch/v1", "jobs", namespace, name),
            cluster.children("v1", "pods", namespace, name),
            cluster.children("apps/v1", "deployments", namespace, name),
            cluster.find("v1", "services", namespace, name),
        )
        # Items of a list carry no kind of their own.
        for items, api_version, kind in ((jobs, "batch/v1", "Job"), (deployments, "apps/v1", "Deployment")):
            for item in items:
                item |= {"apiVersion": api_version, "kind": kind}
        return await self._accompanied(model, Observed(jobs, pods, deployments, service))

    async def with_strangers(self, applied: Iterable[Json], observed: Observed) -> Observed:
        """Add what bears a new child's name without being known: somebody else's, or ours of which no event told."""
        for body in applied:
            namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
            if not observed.lacks(body):
                continue
            found = await self._find(PLURALS[body["kind"]], namespace, [name])
            if body["kind"] == "Deployment":
                observed = replace(observed, deployments=observed.deployments + found)
            else:
                observed = replace(observed, service=next(iter(found), None))
        return observed

    async def with_events(self, model: Model, observed: Observed, names: Iterable[str]) -> Observed:
        """Add the warnings about some of a model's objects, by name."""
        found = [
            await self.cluster.list("v1", "events", model.namespace, fields=WARNING_FIELDS + name) for name in names
        ]
        return replace(observed, events=tuple(event for events in found for event in events))
