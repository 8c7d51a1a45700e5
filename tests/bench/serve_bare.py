"""What the hardware gives without a server: the bare process, one text at a time, and the limit of any batching.

Every kind is a process of its own, which prints one line of JSON.

- bare: import torch, torch.jit.load, one forward pass; nothing else. Its end is its cold start.
- forward: one text at a time, tokenised, with all threads: seconds a text.
- limit: texts a second when 32 texts are outstanding and are batched in the best way that was found, tokenised, without
  HTTP. Tried: batches of several sizes of the outstanding texts sorted by length, one batch with all threads or one
  batch on each, as the file is and frozen; and our own engine, which chooses from what is outstanding at any moment.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

OUTSTANDING = 32
"""Texts that wait or are computed at one time."""
BATCHES = (1, 2, 4, 8, 16, 32)
"""Sizes of batches that are tried."""
TRIAL_SHARE = 0.1
"""Part of the seconds in which each way is tried before the best two are measured in full."""
FINALISTS = 2


def bare(file: str) -> dict[str, float]:
    """Load, compute once."""
    import torch

    module = torch.jit.load(file).eval()
    ids = torch.ones((1, 16), dtype=torch.long)
    with torch.inference_mode():
        module(ids, ids, torch.zeros_like(ids))
    # Not getrusage: its maximum begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text().splitlines()
    return {"peak_rss_mb": next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024}


def forward(file: str, folder: str, seconds: float) -> dict[str, float]:
    """Median seconds of one text."""
    from tests.bench.serve_texts import texts

    compute = computing(file, folder, frozen=False)
    for text in texts()[:8]:
        compute([text])
    taken = []
    end = time.perf_counter() + seconds
    for text in itertools.cycle(texts()):
        began = time.perf_counter()
        if began > end:
            break
        compute([text])
        taken.append(time.perf_counter() - began)
    return {"p50_ms": statistics.median(taken) * 1000}


def computing(file: str, folder: str, *, frozen: bool) -> Callable[[list[str]], Any]:
    """A function from texts to vectors, as short as can be."""
    import torch
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    module = torch.jit.load(file).eval()
    if frozen:
        module = torch.jit.freeze(module)

    def compute(texts: list[str]) -> Any:
        encodings = tokenizer.encode_batch_fast(texts) if len(texts) > 1 else [tokenizer.encode(texts[0])]
        tensors = [
            torch.tensor([getattr(one, name) for one in encodings]) for name in ("ids", "attention_mask", "type_ids")
        ]
        with torch.inference_mode():
            return module(*tensors)[1].float().numpy()

    return compute


def batches(texts: Sequence[str], outstanding: int, size: int) -> Iterator[list[str]]:
    """Endless batches: the next texts sorted by length, cut into batches, the longest first."""
    source = itertools.cycle(texts)
    while True:
        taken = sorted(itertools.islice(source, outstanding), key=len, reverse=True)
        for start in range(0, outstanding, size):
            yield taken[start : start + size]


def rate(compute: Callable[[list[str]], Any], texts: Sequence[str], size: int, workers: int, seconds: float) -> float:
    """Texts a second. workers: batches at one time, with their share of the threads each."""
    import torch

    # What is computed elsewhere at the time is outstanding too.
    source = batches(texts, OUTSTANDING - size * (workers - 1), size)
    lock, counts = threading.Lock(), [0] * workers
    threads = torch.get_num_threads()
    began = time.perf_counter()

    def work(number: int) -> None:
        torch.set_num_threads(max(1, threads // workers))
        while time.perf_counter() - began < seconds:
            with lock:
                batch = next(source)
            compute(batch)
            counts[number] += len(batch)

    others = [threading.Thread(target=work, args=(number,)) for number in range(1, workers)]
    for other in others:
        other.start()
    work(0)
    for other in others:
        other.join()
    torch.set_num_threads(threads)
    return sum(counts) / (time.perf_counter() - began)


def engine_rate(manifest: str, file: str, folder: str, seconds: float) -> float:
    """Texts a second of the serving engine with its defaults, asked by so many coroutines of its own process."""
    import asyncio

    import torch
    import uvloop
    from tokenizers import Tokenizer

    from tests.bench.serve_texts import texts
    from torchscript_operator.artifact.manifest import Manifest
    from torchscript_operator.artifact.threads import available_threads
    from torchscript_operator.serve.engine import Engine, Limits
    from torchscript_operator.serve.runner import TorchRunner
    from torchscript_operator.serve.settings import Settings
    from torchscript_operator.serve.tasks import for_manifest
    from torchscript_operator.serve.tokenizing import Tokenizing

    found = Manifest.model_validate_json(Path(manifest).read_bytes())
    threads, settings = available_threads(), Settings()
    runner = TorchRunner(
        found,
        {None: torch.jit.load(file).eval()},
        for_manifest(found),
        pad_id=0,
        maximum_rows=OUTSTANDING,
        maximum_tokens=settings.batch_tokens,
        threads=threads,
        workers=threads,
    )
    tokenizing = Tokenizing(
        Tokenizer.from_file(f"{folder}/tokenizer.json"), [tensor.name for tensor in found.inputs], {}
    )
    given = itertools.cycle(texts())

    async def run() -> float:
        engine = Engine(runner, Limits(settings.queue_rows, settings.queue_tokens, workers=threads))
        engine.start(asyncio.get_running_loop())
        count = 0

        async def ask(end: float) -> None:
            nonlocal count
            while time.perf_counter() < end:
                await engine.compute(tokenizing.encode([next(given)]), 60)
                count += 1

        for span in (1.0, seconds):
            began, count = time.perf_counter(), 0
            await asyncio.gather(*(ask(began + span) for _ in range(OUTSTANDING)))
        taken = time.perf_counter() - began
        engine.stop(10)
        return count / taken

    return uvloop.run(run())


def limit(file: str, folder: str, seconds: float) -> dict[str, Any]:
    """The best rate, and every one that was tried."""
    import torch

    from tests.bench.serve_texts import texts

    given = texts()
    ways: dict[str, Callable[[float], float]] = {}
    for frozen in (False, True):
        compute = computing(file, folder, frozen=frozen)
        for source in itertools.islice(batches(given, OUTSTANDING, 8), 12):
            compute(source)
        for workers, size in itertools.product(sorted({1, torch.get_num_threads()}), BATCHES):
            if size * workers <= OUTSTANDING:
                name = f"{'frozen' if frozen else 'as it is'}, {workers} at one time, batches of {size}"
                ways[name] = lambda span, one=compute, size=size, workers=workers: rate(one, given, size, workers, span)
    manifest = str(Path(file).parents[1] / "manifest.json")
    ways["our engine"] = lambda span: engine_rate(manifest, file, folder, span)
    tried = {name: way(seconds * TRIAL_SHARE) for name, way in ways.items()}
    best = sorted(tried, key=lambda name: tried[name], reverse=True)[:FINALISTS]
    measured = {name: ways[name](seconds) for name in best}
    way = max(measured, key=lambda name: measured[name])
    return {"throughput": measured[way], "way": way, "tried": {name: round(tried[name], 1) for name in tried}}


def main() -> int:
    """One kind."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["bare", "forward", "limit"])
    parser.add_argument("file")
    parser.add_argument("--folder", default="")
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    if given.kind == "bare":
        found: Any = bare(given.file)
    else:
        found = (forward if given.kind == "forward" else limit)(given.file, given.folder, given.seconds)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
