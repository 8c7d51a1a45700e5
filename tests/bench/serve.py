"""Our server against others, and against what the machine gives without a server. Writes build/bench/serve.json.

Each server runs alone as processes of its own, all in turn, and the turns are repeated in the other direction, so that
whatever else the machine does slows all of them; medians count. Clients wait for their answer before they ask again.
The answers of the first turn are compared with eager's, every one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from tests.bench.export import ROOT, model_folder
from tests.bench.operator_plot import svg
from tests.bench.serve_client import Measured, load, request
from tests.bench.serve_figures import (
    AT_LEAST,
    AT_MOST,
    AUTO,
    FLOAT32,
    best_peer,
    compared,
    medians,
    missed,
    percentile,
    ratios,
)
from tests.bench.serve_servers import PEER_SERVERS, LeftOutError, Running, Server, Site, install, ours, started
from tests.bench.serve_texts import texts

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Json = dict[str, Any]
OUTPUT = ROOT / "build/bench"
WORK = OUTPUT / "serve"
SHAPES = [{"batch": 1, "sequence": 128}, {"batch": 8, "sequence": 128}]
"""The API's defaults."""
CLIENTS = (1, 8, 32, 128)
WARM_UP = (32, 2.0)
"""Clients and seconds before anything counts."""
PRECISIONS = {FLOAT32: "float32", AUTO: "auto"}
LOOSEST = {"absolute": 1e-4, "relative": 1e-4, "minimum_cosine": 0.999}
"""How far a peer in float32 may be from eager."""


def say(text: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def export(precision: str) -> Json:
    """Run the export Job's process. Returns the artifact's uri, digest, file and tolerances.

    Raises CalledProcessError.
    """
    out = WORK / precision
    (out / "scratch").mkdir(parents=True, exist_ok=True)
    asked = {
        "model": "bench/minilm",
        "target": "cpu",
        "source": {"kind": "Folder", "path": str(model_folder())},
        "task": "feature-extraction",
        "shapes": SHAPES,
        "compilation": {"precision": precision},
        "store": {"uri": f"file://{out}/store"},
    }
    variables = {
        "TSM_EXPORT_REQUEST": json.dumps(asked),
        "TSM_SCRATCH_PATH": str(out / "scratch"),
        "TSM_TERMINATION_LOG": str(out / "termination-log"),
        "PYTHONPATH": str(ROOT / "operator"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "torchscript_operator.export"]
    subprocess.run(command, env=os.environ | variables, check=True, capture_output=True)
    outcome = json.loads((out / "termination-log").read_text())
    folder = out / "store" / outcome["key"]
    manifest = json.loads((folder / "manifest.json").read_text())
    file = next(entry for entry in manifest["files"] if entry["role"] == "model")
    allowed = manifest["parity"]["tolerances"]
    return {
        "uri": outcome["artifact"]["uri"],
        "digest": outcome["artifact"]["digest"],
        "file": folder / file["sha256"] / file["name"],
        "precision": manifest["precision"],
        "tolerances": {
            "absolute": float(allowed["absoluteTolerance"]),
            "relative": float(allowed["relativeTolerance"]),
            "minimum_cosine": float(allowed["minimumCosineSimilarity"]),
        },
    }


def eager() -> NDArray[np.float32]:
    """The vectors of all texts, each computed alone by the eager model."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    # Several threads wait for one another at every step where something else runs too.
    torch.set_num_threads(1)
    model = AutoModel.from_pretrained(model_folder()).eval()
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vectors = []
    with torch.inference_mode():
        for text in texts():
            ids = torch.tensor([tokenizer.encode(text).ids])
            mean = model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1)
            vectors.append(torch.nn.functional.normalize(mean)[0].numpy())
    return np.stack(vectors)


def bare(kind: str, file: Path, seconds: float) -> Json:
    """One kind of serve_bare in a process of its own. Adds the seconds that the process took."""
    command = [sys.executable, "-m", "tests.bench.serve_bare", kind, str(file), "--folder", str(model_folder())]
    began = time.perf_counter()
    output = subprocess.run(
        [*command, "--seconds", str(seconds)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "operator")},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ).stdout
    return {**json.loads(output), "seconds": time.perf_counter() - began}


def figures(run: Measured, server: Running) -> dict[str, float]:
    """One run's figures."""
    return {
        "throughput": len(run.answers) / run.seconds,
        "p50_ms": percentile(run.latencies, 0.5) * 1000,
        "p99_ms": percentile(run.latencies, 0.99) * 1000,
        "peak_rss_mb": server.peak_memory() / 2**20,
        "cold_start_s": server.cold_start,
        "client_cpu_share": run.cpu_share,
        "errors": len(run.errors),
    }


class Bench:
    """All that is measured, repeat by repeat."""

    def __init__(self, seconds: float, clients: tuple[int, ...], repeats: int) -> None:
        self.seconds, self.clients, self.repeats = seconds, clients, repeats
        self.artifacts = {name: export(precision) for name, precision in PRECISIONS.items()}
        say("exported; computing eager's vectors")
        self.expected = eager()
        say("servers, each alone in turn")
        site = Site(model_folder(), self.artifacts[FLOAT32]["file"], WORK / "work")
        self.site = site
        own = [ours(name, found["uri"], found["digest"]) for name, found in self.artifacts.items()]
        self.servers: dict[str, Server] = {server.name: server for server in [*own, *PEER_SERVERS]}
        self.left_out: dict[str, str] = {}
        self.runs: dict[str, dict[int, list[dict[str, float]]]] = {}
        self.answers: dict[str, Json] = {}
        self.bare: list[dict[str, float]] = []
        self.limits: dict[str, list[Json]] = {name: [] for name in self.artifacts}

    def turn(self, repeat: int) -> None:
        """Everything once."""
        names = list(self.servers)
        for name in names if repeat % 2 == 0 else reversed(names):
            if name in self.left_out:
                continue
            try:
                self._measure(name, keep=repeat == 0)
            except LeftOutError as error:
                if self.servers[name].peer == "":
                    raise
                self.left_out[name] = str(error)
                say(f"{name}: left out, {error}")
            if name in self.limits:
                self._measure_bare(name)

    def _measure(self, name: str, *, keep: bool) -> None:
        server = self.servers[name]
        if server.peer:
            install(server.peer)
        requests = [request(server.path, orjson.dumps(server.body(text))) for text in texts()]
        answers: list[tuple[int, bytes]] = []
        with started(server, self.site) as running:
            load(running.port, requests, *WARM_UP)
            for clients in self.clients:
                run = load(running.port, requests, clients, self.seconds)
                found = figures(run, running)
                if run.errors:
                    say(f"{name}: {len(run.errors)} errors at {clients} clients, the first {run.errors[0]!r}")
                if not run.answers:
                    raise LeftOutError(f"answers nothing at {clients} clients: {run.errors[:1]!r}")
                self.runs.setdefault(name, {}).setdefault(clients, []).append(found)
                say(
                    f"{name}, {clients} clients: {found['throughput']:.1f} texts/s, p50 {found['p50_ms']:.1f} ms, "
                    f"p99 {found['p99_ms']:.1f} ms"
                )
                answers += run.answers
        if keep:
            allowed = self.artifacts[name]["tolerances"] if name in self.artifacts else LOOSEST
            self.answers[name] = compared(
                answers, self.expected, lambda body: server.vector(orjson.loads(body)), allowed
            )
            say(f"{name}: {self.answers[name]}")

    def _measure_bare(self, name: str) -> None:
        file = self.artifacts[name]["file"]
        found = bare("limit", file, self.seconds)
        self.limits[name].append(found)
        say(f"limit of {name}: {found['throughput']:.1f} texts/s ({found['way']})")
        if name == FLOAT32:
            process, forward = bare("bare", file, 0), bare("forward", file, self.seconds)
            self.bare.append(
                {
                    "cold_start_s": process["seconds"],
                    "peak_rss_mb": process["peak_rss_mb"],
                    "p50_ms": forward["p50_ms"],
                }
            )
            say(f"bare: {self.bare[-1]}")

    def result(self) -> Json:
        """What the file holds."""
        servers: Json = {}
        for name, runs in self.runs.items():
            servers[name] = {
                "setup": self.servers[name].setup,
                "clients": {str(clients): medians(found) for clients, found in runs.items()},
                "answers": self.answers.get(name),
            }
            if name in self.artifacts:
                servers[name]["precision"] = self.artifacts[name]["precision"]
        servers[AUTO]["minimum_cosine"] = self.answers[AUTO]["minimum_cosine"]
        limits = {name: statistics.median(run["throughput"] for run in found) for name, found in self.limits.items()}
        process = medians(self.bare)
        compared_ratios = ratios(servers, process, limits)
        return {
            "model": "all-MiniLM-L6-v2",
            "texts": len(texts()),
            "seconds": self.seconds,
            "repeats": self.repeats,
            "cores": len(os.sched_getaffinity(0)),
            "ratios": compared_ratios,
            "missed": missed(compared_ratios),
            "best_peer": best_peer(servers),
            "servers": servers,
            "left_out": self.left_out,
            "limit": {
                name: {"throughput": round(limits[name], 2), "way": found[0]["way"], "tried": found[0]["tried"]}
                for name, found in self.limits.items()
            },
            "bare": process,
        }


def main() -> int:
    """Measure, write the file and the plot, print the ratios. A missed target is a finding, and no failure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1 and 32 clients, once, seconds each: some minutes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each number of clients")
    parser.add_argument("--only", default="", help="names of peers, by commas; default all")
    given = parser.parse_args()
    if not given.quick:
        shutil.rmtree(WORK, ignore_errors=True)
    bench = Bench(min(given.seconds, 4.0), (1, 32), 1) if given.quick else Bench(given.seconds, CLIENTS, given.repeats)
    if given.only:
        kept = {*bench.artifacts, *given.only.split(",")}
        bench.servers = {name: server for name, server in bench.servers.items() if name in kept}
    for repeat in range(bench.repeats):
        bench.turn(repeat)
    result = bench.result()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "serve.json").write_text(json.dumps(result, indent=2) + "\n")
    (OUTPUT / "serve.svg").write_text(plot(result["servers"]))
    for name, value in result["ratios"].items():
        target = f" (target: at least {AT_LEAST[name]})" if name in AT_LEAST else ""
        target = f" (target: at most {AT_MOST[name]})" if name in AT_MOST else target
        sys.stdout.write(f"{name}: {value}{target}\n")
    return 0


def plot(servers: Json) -> str:
    """Throughput and the 99th percentile over the number of clients."""
    panels = {
        title: {
            name: {int(clients): run[figure] for clients, run in server["clients"].items()}
            for name, server in servers.items()
        }
        for title, figure in (("texts a second by clients", "throughput"), ("p99 in ms by clients", "p99_ms"))
    }
    return svg(panels)


if __name__ == "__main__":
    sys.exit(main())
