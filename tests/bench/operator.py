"""`make bench-operator`: what the operator costs at 100, 1,000 and 10,000 models, and what others cost beside it.

Every measurement has an API server of its own, made anew, with the same limits. Writes build/bench/operator.json and
operator.svg.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.bench import operator_plot
from tests.bench.operator_figures import READS, WRITES, Run, calls, cpu_seconds, peak_mib, percentile, read
from tests.bench.operator_site import (
    DEPLOYMENTS,
    JOBS,
    MODELS,
    REPLICA_SETS,
    connected,
    deployment,
    model,
    site,
)
from tests.integration.conftest import SETTINGS, install_rights
from tests.integration.harness import ROOT, Operator, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.cluster.controlplane import ControlPlane

Json = dict[str, Any]

OUTPUT = ROOT / "build" / "bench"
COMPARED = 1000
"""Models at which others are measured too."""
QUIET_SECONDS = 10
"""From the last Ready to the beginning of the idle time."""
REST_SECONDS = 60
"""From the last Ready to a restart."""
CALM_SECONDS = 2.0
CALM_FRACTION = 0.02
"""Share of a core below which a process is done."""
HOME = "default"
"""Where the plain kopf operator has its account."""
DEPLOYMENT_CONTROLLER = "system:serviceaccount:kube-system:deployment-controller"


def patience(count: int) -> float:
    """Seconds to wait for that many models before a run has failed, on a machine that others use too."""
    return 300 + count * 1.0


@contextmanager
def folder() -> Iterator[Path]:
    """A folder on the checkout's disk for one control plane; its audit log is large."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="plane-", dir=OUTPUT))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def say(text: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def write_settings(path: Path) -> Path:
    """The chart's defaults."""
    file = path / "settings.yaml"
    file.write_text(
        yaml.safe_dump({"workerImage": SETTINGS["workerImage"], "artifactStore": SETTINGS["artifactStore"]})
    )
    return file


def metric(operator: Operator, name: str) -> float:
    """The sum of a metric's series."""
    return total(operator.get("/metrics") or "", name)


def total(text: str, name: str) -> float:
    """The sum of a metric's series in an answer to a scrape."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def restart(operator: Operator, count: int) -> float:
    """Seconds from the start of the process until it has passed over every model and nothing waits."""
    operator.kill(signal.SIGTERM)
    started = time.monotonic()
    operator.start()
    while True:
        # Of ten thousand models each scrape costs the operator some 40 ms.
        said = operator.get("/metrics") or ""
        if total(said, "tsm_reconcile_total") >= count and not total(said, "tsm_queue_depth"):
            return time.monotonic() - started
        if time.monotonic() - started > patience(count):
            msg = f"not all {count} models were looked at again within {patience(count):.0f} s"
            raise TimeoutError(msg)
        time.sleep(1)


def idle(operator: Operator, plane: ControlPlane, user: str, seconds: float) -> Json:
    """What the operator does while nothing happens."""
    assert operator.process is not None
    time.sleep(QUIET_SECONDS)
    offset, used = plane.audit_log.stat().st_size, cpu_seconds(operator.process.pid)
    time.sleep(seconds)
    used = cpu_seconds(operator.process.pid) - used
    seen = [call for call in calls(plane.audit_log, offset) if call.user == user]
    return {
        "seconds": seconds,
        "writes": sum(call.verb in WRITES for call in seen),
        "reads": sum(call.verb in READS for call in seen),
        "cpu_fraction": round(used / seconds, 5),
    }


def per_model(run: Run, verbs: frozenset[str], count: int) -> float:
    """Calls of some verbs for each model."""
    return round(sum(run.by_verb[verb] for verb in verbs) / count, 2)


async def life(plane: ControlPlane, operator: Operator, count: int) -> tuple[float, float]:
    """Create models and wait until all are Ready; returns seconds for loading, and the operator's CPU seconds."""
    assert operator.process is not None
    used = cpu_seconds(operator.process.pid)
    async with connected(plane.kubeconfig) as api:
        ready = asyncio.create_task(api.until_ready(count, patience(count)))
        loading = await api.load(MODELS, model, count)
        await ready
    return loading, cpu_seconds(operator.process.pid) - used


def ours(count: int, idle_seconds: float, profile: Path | None = None) -> Json:
    """The operator over some number of models: apply to Ready, idle, restart."""
    with folder() as path, site(path, count) as plane:
        kubeconfig, user = install_rights(plane, path)
        operator = Operator(kubeconfig, write_settings(path), path / "operator.log")
        operator.start()
        try:
            eventually(lambda: operator.get("/readyz"), "the operator to be ready")
            started = time.time()
            with profiled(operator, profile):
                loading, used = asyncio.run(life(plane, operator, count))
            run = read(calls(plane.audit_log), user, "torchscriptmodels", "jobs")
            seconds_to_ready = time.time() - run.first
            assert operator.process is not None
            found: Json = {
                "load_seconds": round(loading, 2),
                "seconds_to_jobs": round(run.seconds_to_all, 2),
                "seconds_to_ready": round(seconds_to_ready, 2),
                "cpu_seconds": round(used, 2),
                "cpu_milliseconds_per_model": round(1000 * used / count, 2),
                "rss_mib": round(peak_mib(operator.process.pid), 1),
                "writes_per_model": per_model(run, WRITES, count),
                "reads_per_model": per_model(run, READS, count),
                "calls": dict(sorted(run.by_resource.items())),
                "event_to_status_p50": percentile(run.latencies, 0.5),
                "event_to_status_p99": percentile(run.latencies, 0.99),
                "load_average": os.getloadavg(),
                "started": started,
            }
            if idle_seconds:
                found["idle"] = idle(operator, plane, user, idle_seconds)
            # What Kubernetes' own controllers still have to do is no part of it.
            time.sleep(REST_SECONDS)
            found["restart_seconds"] = round(restart(operator, count), 2)
            found["rss_mib"] = max(found["rss_mib"], round(peak_mib(operator.process.pid), 1))
        finally:
            if operator.alive:
                operator.kill(signal.SIGTERM)
        found["errors_logged"] = operator.log.read_text().count('"level": "error"')
    say(f"operator, {count} models: {json.dumps(found)}")
    return found


@contextmanager
def profiled(operator: Operator, output: Path | None) -> Iterator[None]:
    """Let py-spy look on, where it is installed and asked for."""
    if output is None:
        yield
        return
    assert operator.process is not None
    command = ["py-spy", "record", "--format=raw", "--rate=200", f"--output={output}", f"--pid={operator.process.pid}"]
    recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.wait(60)


def kube_controller_manager(count: int) -> Json:
    """The kube-controller-manager: a ReplicaSet for each Deployment, whose pods start as a Job's would."""

    async def go(plane: ControlPlane) -> float:
        async with connected(plane.kubeconfig) as api:
            loading = await api.load(DEPLOYMENTS, deployment, count)
            await api.until_count(REPLICA_SETS, count, patience(count))
        return loading

    with folder() as path, site(path, count) as plane:
        loading = asyncio.run(go(plane))
        run = read(calls(plane.audit_log), DEPLOYMENT_CONTROLLER, "deployments", "replicasets")
    found = {
        "load_seconds": round(loading, 2),
        "seconds": round(run.seconds_to_all, 2),
        "load_average": os.getloadavg(),
    }
    say(f"kube-controller-manager, {count} Deployments: {json.dumps(found)}")
    return found


def account(plane: ControlPlane, path: Path, name: str) -> tuple[Path, str]:
    """A ServiceAccount with all rights: the API server's priorities put it where they put any operator."""
    plane.kubectl.run("create", "serviceaccount", name, f"--namespace={HOME}")
    binding = ("create", "clusterrolebinding", name, "--clusterrole=cluster-admin")
    plane.kubectl.run(*binding, f"--serviceaccount={HOME}:{name}")
    token = plane.kubectl.run("create", "token", name, f"--namespace={HOME}", "--duration=2h").strip()
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    kubeconfig = path / f"{name}.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    return kubeconfig, f"system:serviceaccount:{HOME}:{name}"


def await_calm(pid: int) -> None:
    """Wait until a process has next to nothing to do: kopf notes in every object that it has been handled."""
    before, now = -1.0, cpu_seconds(pid)
    while now - before > CALM_FRACTION * CALM_SECONDS:
        time.sleep(CALM_SECONDS)
        before, now = now, cpu_seconds(pid)


def plain_kopf(count: int) -> Json:
    """The plain kopf operator: one Job for each object."""

    async def go(plane: ControlPlane) -> float:
        async with connected(plane.kubeconfig) as api:
            loading = await api.load(MODELS, model, count)
            await api.until_count(JOBS, count, patience(count))
        return loading

    with folder() as path, site(path, count) as plane:
        kubeconfig, user = account(plane, path, "plain-kopf")
        environment = os.environ | {"KUBECONFIG": str(kubeconfig)}
        command = [sys.executable, "-m", "tests.bench.plain_kopf"]
        running = subprocess.Popen(command, env=environment, cwd=ROOT)
        try:
            time.sleep(QUIET_SECONDS)
            used = cpu_seconds(running.pid)
            loading = asyncio.run(go(plane))
            await_calm(running.pid)
            used = cpu_seconds(running.pid) - used
            rss = peak_mib(running.pid)
        finally:
            running.kill()
            running.wait()
        run = read(calls(plane.audit_log), user, "torchscriptmodels", "jobs")
    found = {
        "load_seconds": round(loading, 2),
        "seconds": round(run.seconds_to_all, 2),
        "cpu_seconds": round(used, 2),
        "rss_mib": round(rss, 1),
        "load_average": os.getloadavg(),
    }
    say(f"plain kopf, {count} objects: {json.dumps(found)}")
    return found


def by_size(found: dict[int, Json], key: str) -> Json:
    """One figure of every size."""
    return {str(size): figures[key] for size, figures in found.items()}


def summary(found: dict[int, Json], manager: Json, plain: Json) -> Json:
    """The figures that targets are set for."""
    largest = found[max(found)]
    at = found.get(COMPARED, largest)
    return {
        "ratios": {
            "jobs_vs_kube_controller_manager": round(at["seconds_to_jobs"] / manager["seconds"], 3),
            "jobs_vs_plain_kopf": round(at["seconds_to_jobs"] / plain["seconds"], 3),
            "cpu_vs_plain_kopf": round(at["cpu_seconds"] / plain["cpu_seconds"], 3),
        },
        **{
            key: by_size(found, key)
            for key in (
                *("writes_per_model", "reads_per_model", "cpu_milliseconds_per_model", "rss_mib"),
                *("seconds_to_jobs", "seconds_to_ready", "restart_seconds"),
                *("event_to_status_p50", "event_to_status_p99"),
            )
        },
        "idle": at["idle"],
        "runs": {str(size): figures for size, figures in found.items()},
        "kube_controller_manager": manager,
        "plain_kopf": plain,
        "cores": os.cpu_count(),
    }


def plot(found: dict[int, Json]) -> str:
    """Time, CPU and memory against the number of models."""

    def series(*keys: str) -> operator_plot.Series:
        return {key.replace("_", " "): {size: figures[key] for size, figures in found.items()} for key in keys}

    return operator_plot.svg(
        {
            "seconds": series("seconds_to_ready", "seconds_to_jobs", "restart_seconds"),
            "CPU seconds of the operator": series("cpu_seconds"),
            "MiB, peak": series("rss_mib"),
        }
    )


def write(found: dict[int, Json], manager: Json, plain: Json) -> None:
    """Write the figures and the plot."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "operator.json").write_text(json.dumps(summary(found, manager, plain), indent=1) + "\n")
    (OUTPUT / "operator.svg").write_text(plot(found))
    say(f"written: {OUTPUT / 'operator.json'}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 models, 30 s of idle time")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of models")
    parser.add_argument("--alone", action="store_true", help="only the operator, and print instead of writing")
    parser.add_argument("--profile", type=Path, help="with --alone: where py-spy's raw samples go")
    parser.add_argument("--idle", type=float, help="seconds of idle time at 1,000 models")
    chosen = parser.parse_args(arguments)
    sizes = chosen.sizes or ([100, 1000] if chosen.quick else [100, 1000, 10000])
    seconds = chosen.idle if chosen.idle is not None else 30.0 if chosen.quick else 300.0
    compared = COMPARED if COMPARED in sizes else max(sizes)
    if chosen.alone:
        for size in sizes:
            ours(size, seconds if size == compared else 0, chosen.profile)
        return
    # Those that are compared run one after the other, and the largest last: what was measured before it is written.
    found = {size: ours(size, seconds if size == compared else 0) for size in sizes if size <= compared}
    manager, plain = kube_controller_manager(compared), plain_kopf(compared)
    write(found, manager, plain)
    for size in sizes:
        if size > compared:
            found[size] = ours(size, 0)
            write(found, manager, plain)


if __name__ == "__main__":
    main()
