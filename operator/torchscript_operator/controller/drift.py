"""Whether a live child is what was applied: a comparison that costs no write."""

from typing import Any

from kubernetes.utils.quantity import parse_quantity

from torchscript_operator.controller.model import APPLIED_ANNOTATION, Json


def _same_quantity(wanted: Any, live: Any) -> bool:
    try:
        return bool(parse_quantity(wanted) == parse_quantity(live))  # type: ignore[no-untyped-call]
    except ValueError:
        return False


QUANTITIES = frozenset({"requests", "limits", "target"})
"""Fields below which values may be quantities: a container's resources, and what an autoscaler aims at."""
WHOLE = frozenset({"selector", "labelSelector", "matchLabels", "nodeSelector", "secretKeyRef", "configMapKeyRef"})
"""Maps that belong to one manager as a whole (mapType or structType atomic in Kubernetes' API): a key more is a change,
such as one that leaves a Service without pods."""
LEFT_OUT = frozenset({"paused"})
"""Fields of our children that the API server leaves out where they are false."""
MERGE_KEYS = ("mountPath", "uid", "name", "topologyKey")
"""Fields by which the API server tells the items of a list apart, the first that all items have."""


def _merge_key(items: list[Any]) -> str | None:
    return next(
        (key for key in MERGE_KEYS if items and all(isinstance(item, dict) and key in item for item in items)), None
    )


def _contains_items(live: list[Any], wanted: list[Any], *, quantities: bool) -> bool:
    """Compare lists: of named items ours must be there beside others' own, any other list is ours as a whole."""
    key = _merge_key(wanted)
    if key is None:
        pairs = zip(live, wanted, strict=False)
        return len(live) == len(wanted) and all(contains(seen, item, quantities=quantities) for seen, item in pairs)
    by_key = {seen[key]: seen for seen in live if isinstance(seen, dict) and key in seen}
    return all(contains(by_key.get(item[key]), item, quantities=quantities) for item in wanted)


def _has_more(live: Any, wanted: Any) -> bool:
    return isinstance(live, dict) and isinstance(wanted, dict) and not live.keys() <= wanted.keys()


def contains(live: Any, wanted: Any, *, quantities: bool = False) -> bool:
    """Whether all that is wanted is in the live value; what the API server added by default is passed over.

    Below QUANTITIES 0.5 and 500m are the same, since the API server rewrites quantities.
    """
    if live is None:
        # Go leaves empty fields out.
        return wanted is None or wanted in ("", {}, [])
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(
            contains(
                live.get(key, False if key in LEFT_OUT else None), value, quantities=quantities or key in QUANTITIES
            )
            and not (key in WHOLE and _has_more(live.get(key), value))
            for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(live, list) and _contains_items(live, wanted, quantities=quantities)
    return bool(live == wanted) or (quantities and _same_quantity(wanted, live))


def drifted(live: Json | None, wanted: Json) -> bool:
    """Whether a child has to be applied: it is absent, was applied from something else, or was edited by hand."""
    if live is None:
        return True
    applied = live["metadata"].get("annotations", {}).get(APPLIED_ANNOTATION)
    return applied != wanted["metadata"]["annotations"][APPLIED_ANNOTATION] or not contains(live, wanted)
