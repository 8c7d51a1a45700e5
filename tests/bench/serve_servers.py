"""The servers of the benchmark: how each is installed, started and asked, and where the vector is in its answer."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from tests.bench.export import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PEERS = ROOT / "tests/bench/peers"
"""Their programs, and NAME.txt with the pinned requirements of each environment."""
ENVIRONMENTS = ROOT / "build/bench/peers"
START_SECONDS = 180
"""Until a server must have answered for the first time."""
STOP_SECONDS = 20
POLL_SECONDS = 0.01
CORES = len(os.sched_getaffinity(0))


class LeftOutError(Exception):
    """A peer that cannot be installed or started here; the message says why."""


@dataclass(frozen=True)
class Site:
    """What the servers serve."""

    folder: Path
    """The model's source."""
    traced: Path
    """Our TorchScript file in float32, which the peers load too."""
    work: Path
    """For files of the servers."""


@dataclass(frozen=True)
class Server:
    """One server."""

    name: str
    setup: str
    """In words, for the reader of the figures."""
    command: Callable[[Site, int], list[str]]
    """From the site and the port."""
    path: str
    body: Callable[[str], Any]
    vector: Callable[[Any], Any]
    """From the decoded answer."""
    environment: dict[str, str] = field(default_factory=dict)
    peer: str = ""
    """Name of the peer's environment; empty: ours."""
    ready: str = ""
    """Path that answers 200 when requests may come; empty: the first request that is answered."""
    prepare: Callable[[Site], None] = lambda _site: None


@dataclass
class Running:
    """A started server."""

    process: subprocess.Popen[bytes]
    port: int
    cold_start: float
    """Seconds from its start until it was ready."""

    def peak_memory(self) -> int:
        """Bytes resident at most, as the kernel counted, of the process and all below it together."""
        return sum(map(peak, family(self.process.pid)))


def family(pid: int) -> list[int]:
    """A process and its descendants, those too that were not started by a first thread."""
    children = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            children += path.read_text().split()
    return [pid, *(other for child in children for other in family(int(child)))]


def peak(pid: int) -> int:
    """Bytes that a process had resident at most; zero for one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def python(peer: str) -> str:
    """The interpreter of a peer's environment."""
    return str(ENVIRONMENTS / peer / "bin/python") if peer else sys.executable


def install(peer: str) -> None:
    """Make a peer's environment from its pinned requirements, unless it is there.

    Raises LeftOutError with the installer's last line.
    """
    pinned = PEERS / f"{peer}.txt"
    done = ENVIRONMENTS / peer / ".done"
    if done.exists() and done.read_text() == pinned.read_text():
        return
    uv = ROOT / "build/uv/bin/uv"
    try:
        for command in (
            [uv, "venv", "--quiet", "--clear", "--python", "3.11", ENVIRONMENTS / peer],
            [uv, "pip", "sync", "--quiet", "--python", python(peer), pinned],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [str(error)]
        raise LeftOutError(f"cannot be installed: {lines[-1]}") from error
    done.write_text(pinned.read_text())


@contextmanager
def started(server: Server, site: Site) -> Iterator[Running]:
    """Start a server and wait until it is ready; it and all its children are gone afterwards.

    Raises LeftOutError when it ends or is not ready in time.
    """
    site.work.mkdir(parents=True, exist_ok=True)
    server.prepare(site)
    temporary = site.work / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    port = free_port()
    log = site.work / f"{server.name}.log"
    variables = {
        **os.environ,
        "PYTHONPATH": str(PEERS if server.peer else ROOT / "operator"),
        "PATH": f"{Path(python(server.peer)).parent}:{os.environ['PATH']}",
        "MINILM_FOLDER": str(site.folder),
        "MINILM_TRACED": str(site.traced),
        "HF_HUB_OFFLINE": "1",
        "PORT": str(port),
        # TorchServe notes there that it runs, and a killed one never takes the note away.
        "TMPDIR": str(temporary),
        **server.environment,
    }
    command = server.command(site, port)
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=site.work, env=variables, stdout=output, stderr=output, start_new_session=True
        )
    try:
        while not _answers(server, port):
            if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                raise LeftOutError("does not start: " + " | ".join(log.read_text(errors="replace").splitlines()[-3:]))
            time.sleep(POLL_SECONDS)
        yield Running(process, port, time.perf_counter() - began)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    # The group is the server's own: whatever it started ends with it.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answers(server: Server, port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    try:
        if server.ready:
            connection.request("GET", server.ready)
        else:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", server.path, orjson.dumps(server.body("is it there")), headers)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return False
    else:
        return response.status == http.HTTPStatus.OK
    finally:
        connection.close()


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def ours(name: str, uri: str, digest: str) -> Server:
    """Our server, of one artifact in a local folder, with its defaults."""
    request = {"model": "bench/minilm", "target": "cpu", "artifact": {"uri": uri}, "digest": digest}

    def prepare(site: Site) -> None:
        # A pod starts with an empty scratch volume.
        shutil.rmtree(site.work / f"{name}-scratch", ignore_errors=True)

    def command(site: Site, port: int) -> list[str]:
        variables = {
            "TSM_SERVE_REQUEST": json.dumps(request),
            "TSM_SCRATCH_PATH": str(site.work / f"{name}-scratch"),
            "TSM_TERMINATION_LOG": str(site.work / f"{name}-termination-log"),
            "TSM_SERVE_HOST": "127.0.0.1",
            "TSM_SERVE_PORT": str(port),
            "TSM_SERVE_GRPC_PORT": "0",
            "TSM_SERVE_LINGER_SECONDS": "0",
        }
        return ["env", *(f"{key}={value}" for key, value in variables.items()), *_OURS]

    return Server(
        name,
        f"this project, the artifact of precision {name.rpartition('-')[2]}, defaults",
        command,
        "/v1/embeddings",
        lambda text: {"model": "minilm", "input": text},
        lambda answer: answer["data"][0]["embedding"],
        ready="/v2/health/ready",
        prepare=prepare,
    )


_OURS = [sys.executable, "-m", "torchscript_operator.serve"]


def _uvicorn(workers: int) -> Callable[[Site, int], list[str]]:
    return lambda _site, port: [
        python("fastapi"),
        *("-m", "uvicorn", "fastapi_app:app", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", str(workers), "--log-level", "warning", "--no-access-log"),
    ]


def _infinity(site: Site, port: int) -> list[str]:
    return [
        str(ENVIRONMENTS / "infinity/bin/infinity_emb"),
        *("v2", "--model-id", str(site.folder), "--served-model-name", "minilm", "--engine", "torch"),
        *("--device", "cpu", "--dtype", "float32", "--no-bettertransformer", "--no-model-warmup"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
    ]


def _archive(site: Site) -> None:
    store = site.work / "torchserve"
    store.mkdir(exist_ok=True)
    archiver = [
        *(python("torchserve"), "-m", "model_archiver.model_packaging", "--model-name", "minilm", "--version", "1.0"),
        *("--handler", str(PEERS / "torchserve_handler.py"), "--extra-files", str(PEERS / "minilm.py")),
        *("--export-path", str(store), "--force"),
    ]
    subprocess.run(archiver, check=True, capture_output=True, cwd=store)


def _torchserve(site: Site, port: int) -> list[str]:
    store = site.work / "torchserve"
    model = {"minilm": {"1.0": {"marName": "minilm.mar", "minWorkers": CORES, "maxWorkers": CORES, "batchSize": 8}}}
    model["minilm"]["1.0"] |= {"defaultVersion": True, "maxBatchDelay": 5, "responseTimeout": 60}
    settings = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"http://127.0.0.1:{free_port()}",
        "metrics_address": f"http://127.0.0.1:{free_port()}",
        "model_store": str(store),
        "disable_token_authorization": "true",
        "enable_envvars_config": "true",
        "load_models": "minilm.mar",
        "job_queue_size": "1000",
        "models": json.dumps(model),
    }
    config = store / "config.properties"
    config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    return [
        str(ENVIRONMENTS / "torchserve/bin/torchserve"),
        *("--start", "--foreground", "--ncs", "--ts-config", str(config)),
    ]


def _text(text: str) -> Any:
    return {"text": text}


def _embedding(answer: Any) -> Any:
    return answer["embedding"]


ONE_THREAD = {"MINILM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Where there is a process for each core, one that uses several would only be in the others' way."""

PEER_SERVERS = (
    Server(
        "fastapi-eager",
        "FastAPI on uvicorn, eager model, no batching: what a user writes first",
        _uvicorn(1),
        "/embed",
        _text,
        _embedding,
        {"MINILM_KIND": "eager"},
        "fastapi",
    ),
    Server(
        "fastapi-traced",
        f"FastAPI on uvicorn with {CORES} workers of one thread, traced model, no batching",
        _uvicorn(CORES),
        "/embed",
        _text,
        _embedding,
        {"MINILM_KIND": "traced", **ONE_THREAD},
        "fastapi",
    ),
    Server(
        "infinity",
        "infinity-emb, torch engine, its batching by length",
        _infinity,
        "/embeddings",
        lambda text: {"model": "minilm", "input": text},
        lambda answer: answer["data"][0]["embedding"],
        {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"},
        "infinity",
    ),
    Server(
        "litserve",
        "LitServe, batches of 32 within 5 ms, traced model",
        lambda _site, _port: [python("litserve"), str(PEERS / "litserve_app.py")],
        "/predict",
        _text,
        _embedding,
        {},
        "litserve",
    ),
    Server(
        "bentoml",
        "BentoML, adaptive batching, traced model",
        lambda _site, port: [
            python("bentoml"),
            *("-m", "bentoml", "serve", "bentoml_service:Minilm", "--working-dir", str(PEERS)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        "/embed",
        lambda text: {"texts": [text]},
        lambda answer: answer[0],
        {"BENTOML_DO_NOT_TRACK": "True"},
        "bentoml",
    ),
    Server(
        "torchserve",
        f"TorchServe, {CORES} workers of one thread, batches of 8 within 5 ms, traced model",
        _torchserve,
        "/predictions/minilm",
        _text,
        lambda answer: answer,
        ONE_THREAD,
        "torchserve",
        prepare=_archive,
    ),
    Server(
        "kserve",
        "KServe's Python server, one process as by default, traced model, no batching",
        lambda _site, _port: [python("kserve"), str(PEERS / "kserve_app.py")],
        "/v1/models/minilm:predict",
        lambda text: {"instances": [text]},
        lambda answer: answer["predictions"][0],
        {},
        "kserve",
    ),
)
