"""The operator's process: how it starts, what it answers, and how it ends."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.controlplane import ControlPlane, control_plane
from tests.integration import faults
from tests.integration.conftest import SETTINGS
from tests.integration.harness import ROOT, Models, Operator, eventually
from tests.integration.lives import World
from tests.integration.proxy import Exchange

RULES = "charts/torchscript-operator/templates/prometheusrule.yaml"
GRACE_SECONDS = 20
"""Well below the 30 s that the kubelet gives a pod; kopf alone may take five, and a busy machine more."""


def run(kubeconfig: Path, settings: str, *, seconds: float = 30) -> subprocess.CompletedProcess[str]:
    """Run the operator until it ends by itself."""
    environment = os.environ | {"KUBECONFIG": str(kubeconfig), "TSM_SETTINGS": settings, "TSM_HEALTH_PORT": "0"}
    command = [sys.executable, "-m", "torchscript_operator.controller"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)


@pytest.mark.parametrize("text", ["workerImage: [unclosed", "workers: 1", "workerImage: w\nunknown: 1", ""])
def test_bad_settings_end_it_with_one_line_and_code_2(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    done = run(tmp_path / "unused", str(path))
    assert done.returncode == 2
    assert "the settings file (TSM_SETTINGS) is bad" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_absent_settings_end_it_with_code_2(tmp_path: Path) -> None:
    assert run(tmp_path / "unused", str(tmp_path / "absent.yaml")).returncode == 2


def test_absent_definition_ends_it_with_one_line_and_code_3(tmp_path: Path, settings_file: Path) -> None:
    with control_plane(tmp_path / "bare") as bare:
        done = run(bare.kubeconfig, str(settings_file))
    assert done.returncode == 3
    last = done.stderr.splitlines()[-1]
    assert "install the CRD, then start the operator" in last
    assert "Traceback" not in done.stderr


def test_it_answers_health_and_metrics(operator: Operator, models: Models) -> None:
    models.create()
    models.awaits_job()
    assert operator.get("/healthz") == "ok"
    assert operator.get("/readyz") == "ok"
    metrics = operator.get("/metrics") or ""
    for name in ("tsm_reconcile_total", "tsm_queue_depth", "tsm_api_calls_total", "tsm_last_event_timestamp_seconds"):
        assert name in metrics


def test_every_series_that_an_alert_asks_for_is_there(operator: Operator, models: Models) -> None:
    models.create()
    models.awaits_job()
    models.awaits("Ready", "False")
    asked = set(re.findall(r"tsm_\w+", (ROOT / RULES).read_text()))
    assert len(asked) > 5
    # Of models that are stalled there are none.
    absent = {
        name
        for name in asked
        if f"\n{name}{{" not in (text := operator.get("/metrics") or "") and f"\n{name} " not in text
    }
    assert absent <= {"tsm_model_stalled"}


def test_sigterm_ends_it_within_its_grace_period_with_code_0_and_no_warning(
    rights: tuple[Path, str], settings_file: Path, models: Models, tmp_path: Path
) -> None:
    operator = Operator(rights[0], settings_file, tmp_path / "operator.log")
    operator.start()
    models.create()
    for plural in ("torchscriptmodels", "jobs"):  # kopf waits 5 s for what it has only begun to watch
        eventually(
            lambda heard=f'resource="{plural}"': heard in (operator.get("/metrics") or ""), f"a watch of {plural}"
        )
    started = time.monotonic()
    assert operator.kill(signal.SIGTERM) == 0
    assert time.monotonic() - started < GRACE_SECONDS
    assert [line for line in operator.lines() if line["level"] not in {"debug", "info"}] == []


def ends_at_call(world: World, nth: int) -> list[Any]:
    """Start an operator over a model, and end it at its n-th call; returns what is wrong with its end."""
    site = world.open()
    site.models.create()
    code: Future[int] = Future()

    async def end(exchange: Exchange) -> Any:
        ending = asyncio.create_task(asyncio.to_thread(site.operator.kill, signal.SIGTERM))
        ending.add_done_callback(lambda ended: code.set_result(ended.result()))
        return await faults.forward(exchange)

    site.line.rule(faults.every, end, nth=nth)
    with site:
        found: list[Any] = [code.result(120)]
    return [it for it in found if it] + [
        line for line in site.operator.lines() if line["level"] not in {"debug", "info"}
    ]


def test_sigterm_in_the_middle_of_any_call_ends_it_quietly(world: World) -> None:
    undisturbed = world.open()
    undisturbed.models.create()
    with undisturbed:
        undisturbed.models.awaits_job()
        undisturbed.settle()
    # Not to the last: how many there are depends a little on what comes together.
    calls = range(1, len(undisturbed.line.calls) * 3 // 4, 2)
    with ThreadPoolExecutor(8) as pool:
        ends = dict(zip(calls, pool.map(partial(ends_at_call, world), calls), strict=True))
    assert {nth: wrong for nth, wrong in ends.items() if wrong} == {}


def test_watched_namespaces_are_the_only_ones(
    plane: ControlPlane, models: Models, only_operator: Operator, tmp_path: Path
) -> None:
    if only_operator.alive:
        only_operator.kill(signal.SIGTERM)
    outside = Models(models.api, "default")
    settings = tmp_path / "settings.yaml"
    # So many that their watches alone are more connections than an operator of all namespaces has.
    watched = [*(f"team-{number}" for number in range(40)), models.namespace]
    settings.write_text(yaml.safe_dump({**SETTINGS, "watchNamespaces": watched}))
    scoped = Operator(plane.kubeconfig, settings, tmp_path / "operator.log")
    scoped.start()
    try:
        outside.create()
        models.create()
        models.serves("a")
        assert outside.jobs() == []
    finally:
        scoped.kill(signal.SIGTERM)
        outside.delete()
