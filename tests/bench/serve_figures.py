"""From what was measured to the figures of build/bench/serve.json: pure."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

Json = dict[str, Any]
FIGURES = ("throughput", "p50_ms", "p99_ms", "peak_rss_mb", "cold_start_s", "client_cpu_share")
"""Of each server at each number of clients."""
COMPARED_AT = "32"
"""Clients at which the ratios are taken."""
FLOAT32, AUTO = "ours-float32", "ours-auto"
AT_LEAST = {"float32_vs_best_peer": 2.2, "float32_vs_limit": 0.95, "auto_vs_best_peer": 4.0}
AT_MOST = {"p50_one_client_vs_bare_forward": 1.15, "p99_vs_p50": 2.5, "cold_start_vs_bare": 1.3, "rss_vs_bare": 1.2}
"""The targets of the ratios."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over the repeats."""
    return {name: round(statistics.median(run[name] for run in runs), 4) for name in runs[0]}


def compared(
    answers: Sequence[tuple[int, bytes]],
    expected: NDArray[np.float32],
    vector: Callable[[bytes], Any],
    tolerances: Mapping[str, float],
) -> Json:
    """How answers differ from eager's vectors; an answer is `different` when any of the tolerances is exceeded.

    tolerances: absolute, relative and minimum_cosine, the first two as numpy.isclose takes them.
    """
    different, largest, smallest = 0, 0.0, 1.0
    for number, body in answers:
        found, wanted = np.asarray(vector(body), dtype=np.float64), expected[number].astype(np.float64)
        if found.shape != wanted.shape or not np.isfinite(found).all():
            different += 1
            continue
        cosine = float(found @ wanted / (np.linalg.norm(found) * np.linalg.norm(wanted)))
        close = np.isclose(found, wanted, rtol=tolerances["relative"], atol=tolerances["absolute"]).all()
        different += int(not close or cosine < tolerances["minimum_cosine"])
        largest, smallest = max(largest, float(np.abs(found - wanted).max())), min(smallest, cosine)
    return {
        "answers": len(answers),
        "different": different,
        "maximum_difference": float(f"{largest:.3g}"),
        "minimum_cosine": round(smallest, 7),
    }


def best_peer(servers: Mapping[str, Json]) -> str:
    """The peer with the highest throughput."""
    peers = [name for name in servers if name not in {FLOAT32, AUTO}]
    return max(peers, key=lambda name: float(servers[name]["clients"][COMPARED_AT]["throughput"]))


def ratios(servers: Mapping[str, Json], bare: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """What speed is judged by. bare: p50_ms, cold_start_s and peak_rss_mb. limits: by our servers' names."""
    float32, auto = (servers[name]["clients"][COMPARED_AT] for name in (FLOAT32, AUTO))
    peer = servers[best_peer(servers)]["clients"][COMPARED_AT]["throughput"]
    one = servers[FLOAT32]["clients"]["1"]
    memory = max(run["peak_rss_mb"] for run in servers[FLOAT32]["clients"].values())
    found = {
        "float32_vs_best_peer": float32["throughput"] / peer,
        "float32_vs_limit": float32["throughput"] / limits[FLOAT32],
        "auto_vs_best_peer": auto["throughput"] / peer,
        "auto_vs_limit": auto["throughput"] / limits[AUTO],
        "p50_one_client_vs_bare_forward": one["p50_ms"] / bare["p50_ms"],
        "p99_vs_p50": float32["p99_ms"] / float32["p50_ms"],
        "cold_start_vs_bare": float32["cold_start_s"] / bare["cold_start_s"],
        "rss_vs_bare": memory / bare["peak_rss_mb"],
    }
    return {name: round(value, 3) for name, value in found.items()}


def missed(found: Mapping[str, float]) -> dict[str, str]:
    """Each target that was not reached, and by how much."""
    low = {
        name: f"{found[name]} instead of at least {wanted}" for name, wanted in AT_LEAST.items() if found[name] < wanted
    }
    high = {
        name: f"{found[name]} instead of at most {wanted}" for name, wanted in AT_MOST.items() if found[name] > wanted
    }
    return low | high
