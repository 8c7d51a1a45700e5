"""Whether a live child is what was applied: a comparison that costs no write."""

from typing import Any

from kubernetes.utils.quantity import parse_quantity

from torchscript_operator.controller.model import APPLIED_ANNOTATION, Json


def _same_quantity(wanted: Any, live: Any) -> bool:
    try:
        return bool(parse_quantity(wanted) == parse_quantity(live))  # type: ignore[no-untyped-call]
    except ValueError:
        return False


def contains(live: Any, wanted: Any, *, quantities: bool = False) -> bool:
    """Whether all that is wanted is in the live value; what the API server added by default is passed over.

    Below `requests` and `limits` 0.5 and 500m are the same, since the API server rewrites quantities.
    """
    if isinstance(wanted, dict):
        if live is None:
            return not wanted
        return isinstance(live, dict) and all(
            contains(live.get(key), value, quantities=key in {"requests", "limits"} or quantities)
            for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        if live is None:
            return not wanted
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(contains(seen, item, quantities=quantities) for seen, item in zip(live, wanted, strict=True))
        )
    return bool(live == wanted) or (quantities and _same_quantity(wanted, live))


def drifted(live: Json | None, wanted: Json) -> bool:
    """Whether a child has to be applied: it is absent, was applied from something else, or was edited by hand."""
    if live is None:
        return True
    applied = live["metadata"].get("annotations", {}).get(APPLIED_ANNOTATION)
    return applied != wanted["metadata"]["annotations"][APPLIED_ANNOTATION] or not contains(live, wanted)
