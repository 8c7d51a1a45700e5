"""Argo CD's health and actions for a model, run by Lua 5.1 on a model in every state. UPDATE_GOLDEN=1 writes anew."""

from __future__ import annotations

import copy
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from tests.golden.chart.rendering import _BlockDumper
from tests.unit import workers
from tests.unit.argocd_lua import act, run
from tests.unit.model_states import STATES, recorded, updated
from tests.unit.test_summary import kstatus
from tests.unit.world import World
from torchscript_operator.api.v1alpha1.status import TargetState
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.controller.model import RETRY_ANNOTATION, ROLLBACK_ANNOTATION

Json = dict[str, Any]
FOLDER = Path(__file__).resolve().parents[2] / "examples/gitops/argocd"
SCRIPTS = FOLDER / "resource_customizations/torchscript.dev/TorchScriptModel"
ACTIONS = ("retry", "suspend", "resume", "rollback", "undo-rollback")
HEALTH = {
    "unseen": "Progressing",
    "exporting": "Progressing",
    "verifying": "Progressing",
    "export_failed": "Degraded",
    "parity_failed": "Degraded",
    "first_rollout": "Progressing",
    "serving": "Healthy",
    "serving_two_targets": "Healthy",
    "exported_only": "Healthy",
    "edited": "Progressing",
    "update_exporting": "Progressing",
    "update_failed": "Degraded",
    "update_rolling": "Progressing",
    "updated": "Healthy",
    "update_rolled_back": "Degraded",
    "pinned": "Healthy",
    "pinned_to_unknown": "Degraded",
    "suspended": "Suspended",
    "serving_suspended": "Suspended",
    "name_conflict": "Degraded",
    "no_store": "Degraded",
    "child_rejected": "Degraded",
    "invalid_spec": "Degraded",
    "deleting": "Progressing",
}
FAILED = {"suspend", "retry"}
ENABLED = {
    **{name: {"suspend"} for name in HEALTH},
    "export_failed": FAILED,
    "parity_failed": FAILED,
    "update_failed": FAILED,
    # What serves is the artifact before already.
    "update_rolled_back": FAILED,
    "name_conflict": FAILED,
    "no_store": FAILED,
    "child_rejected": FAILED,
    "invalid_spec": FAILED,
    "updated": {"suspend", "rollback"},
    "pinned": {"suspend", "undo-rollback"},
    "pinned_to_unknown": {"suspend", "retry", "undo-rollback"},
    "suspended": {"resume"},
    "serving_suspended": {"resume"},
}
KSTATUS = {"Current": {"Healthy"}, "Failed": {"Degraded"}, "InProgress": {"Progressing"}}


def script(path: str) -> str:
    return (SCRIPTS / path).read_text()


def health(body: Json) -> Json:
    return run(script("health.lua"), body)


def stored(path: Path, text: str) -> None:
    """Compare with a file, or write it."""
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text, f"{path} changed; if that is meant, run with UPDATE_GOLDEN=1"


def dumped(value: Any) -> str:
    return yaml.dump(value, Dumper=_BlockDumper, sort_keys=False, width=120, allow_unicode=True)


def test_every_state_is_judged() -> None:
    assert HEALTH.keys() == STATES.keys() == ENABLED.keys()
    worlds = [make() for make in STATES.values()]
    seen = {
        target.state
        for world in worlds
        if "carrierPigeon" not in str(world.body)
        for target in world.model.status.targets
    }
    assert seen == set(get_args(TargetState)) - {"Pending"}


@pytest.mark.parametrize("name", STATES)
def test_recorded_state_is_what_the_planner_says(name: str) -> None:
    stored(SCRIPTS / "testdata" / f"{name}.yaml", dumped(recorded(STATES[name]())))


@pytest.mark.parametrize("name", STATES)
def test_health_of_a_state(name: str) -> None:
    body = yaml.safe_load(script(f"testdata/{name}.yaml"))
    found = health(body)
    assert found["status"] == HEALTH[name]
    assert found["message"]


def test_cases_are_recorded_in_argo_cds_own_form() -> None:
    cases = [
        {"healthStatus": health(recorded(make())), "inputPath": f"testdata/{state}.yaml"}
        for state, make in STATES.items()
    ]
    stored(SCRIPTS / "health_test.yaml", dumped({"tests": cases}))


@pytest.mark.parametrize("name", [name for name in STATES if name not in {"deleting", "unseen", "invalid_spec"}])
def test_health_agrees_with_kstatus(name: str) -> None:
    world = STATES[name]()
    if world.body["spec"].get("suspend"):
        assert kstatus(world) in {"Current", "InProgress"}
    else:
        assert HEALTH[name] in KSTATUS[kstatus(world)]


@pytest.mark.parametrize("reason", list(FailureReason))
def test_every_failure_is_degraded_with_its_next_step(reason: FailureReason) -> None:
    world = World()
    world.settle()
    world.export_fails(CLASSES[reason].exit_code, workers.failed(reason))
    world.settle()
    found = health(recorded(world))
    assert found["status"] == "Degraded"
    assert CLASSES[reason].advice in found["message"]


def test_model_without_any_status_is_progressing() -> None:
    body = recorded(World())
    del body["status"]
    assert health(body)["status"] == "Progressing"


@pytest.mark.parametrize("name", STATES)
def test_offered_actions_of_a_state(name: str) -> None:
    found = run(script("actions/discovery.lua"), recorded(STATES[name]()))
    assert found.keys() == set(ACTIONS)
    assert {action for action, said in found.items() if not said["disabled"]} == ENABLED[name]


@pytest.mark.parametrize("name", STATES)
def test_offered_action_changes_nothing_but_what_it_is_for(name: str) -> None:
    before = recorded(STATES[name]())
    for action in ENABLED[name]:
        after = act(script(f"actions/{action}/action.lua"), copy.deepcopy(before))
        for body in (before, after):
            body["metadata"].setdefault("annotations", {})
        touched = {"suspend": ("spec", "suspend"), "resume": ("spec", "suspend")}.get(
            action, ("metadata", "annotations")
        )
        assert after[touched[0]][touched[1]] != before[touched[0]].get(touched[1])
        after[touched[0]].pop(touched[1])
        expected = copy.deepcopy(before)
        expected[touched[0]].pop(touched[1], None)
        assert after == expected


def test_retry_gives_a_time_and_the_planner_starts_another_job() -> None:
    world = STATES["export_failed"]()
    after = act(script("actions/retry/action.lua"), recorded(world))
    value = after["metadata"]["annotations"][RETRY_ANNOTATION]
    assert abs((datetime.fromisoformat(value) - datetime.now(UTC)).total_seconds()) < 3600
    world.body["metadata"]["annotations"] = after["metadata"]["annotations"]
    world.settle()
    assert health(recorded(world))["status"] == "Progressing"
    assert len(world.created) == 2


def test_rollback_and_its_undoing_are_followed_by_the_planner() -> None:
    world = updated()
    world.body["metadata"]["annotations"] = act(script("actions/rollback/action.lua"), recorded(world))["metadata"][
        "annotations"
    ]
    world.settle()
    assert world.rolled() == workers.digest_of("a")
    world.rollout_ends()
    world.settle()
    assert health(recorded(world))["status"] == "Healthy"
    undone = act(script("actions/undo-rollback/action.lua"), recorded(world))["metadata"]["annotations"]
    assert undone == {ROLLBACK_ANNOTATION: ""}
    world.body["metadata"]["annotations"] = undone
    world.settle()
    assert world.rolled() == workers.digest_of("b")


def test_artifact_that_failed_parity_is_not_rolled_back_to() -> None:
    body = recorded(updated())
    body["status"]["targets"][0]["history"][0]["verdict"] = "Failed"
    assert run(script("actions/discovery.lua"), body)["rollback"]["disabled"]
    body["spec"]["parity"] = {"policy": "Warn"}
    assert not run(script("actions/discovery.lua"), body)["rollback"]["disabled"]


def test_suspended_and_resumed_model_is_as_before() -> None:
    world = STATES["serving"]()
    for action, status in (("suspend", "Suspended"), ("resume", "Healthy")):
        world.body["spec"] = act(script(f"actions/{action}/action.lua"), recorded(world))["spec"]
        world.body["metadata"]["generation"] += 1
        world.settle()
        assert health(recorded(world))["status"] == status


def test_config_map_holds_the_same_scripts() -> None:
    actions = {
        "discovery.lua": script("actions/discovery.lua"),
        "definitions": [{"name": action, "action.lua": script(f"actions/{action}/action.lua")} for action in ACTIONS],
    }
    key = "torchscript.dev_TorchScriptModel"
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "argocd-cm", "namespace": "argocd"},
        "data": {
            f"resource.customizations.health.{key}": script("health.lua"),
            f"resource.customizations.actions.{key}": dumped(actions),
        },
    }
    head = (
        "# What Argo CD needs to know about models, as a patch. Written by tests/unit/test_argocd.py from the scripts\n"
        "# in resource_customizations/.\n"
        "#   kubectl patch configmap argocd-cm --namespace argocd --patch-file examples/gitops/argocd/argocd-cm.yaml\n"
    )
    stored(FOLDER / "argocd-cm.yaml", head + dumped(body))


@pytest.mark.parametrize("name", ["serving", "serving_two_targets", "exporting", "pinned"])
def test_children_carry_nothing_that_argo_cd_tracks_by(name: str) -> None:
    """Or it would take them for resources that Git lacks, show them OutOfSync and prune them."""
    world = STATES[name]()
    tracking = {
        "labels": {"app.kubernetes.io/instance": "models", "argocd.argoproj.io/instance": "models"},
        "annotations": {
            "argocd.argoproj.io/tracking-id": "models:torchscript.dev/TorchScriptModel:ml/minilm",
            "argocd.argoproj.io/sync-wave": "1",
        },
    }
    fresh = World(world.body["spec"])
    fresh.body["metadata"].update(copy.deepcopy(tracking))
    fresh.settle()
    for target in fresh.model.spec.targets:
        fresh.export_ends(workers.proven("a"), target.name)
        fresh.settle()
    children = [*fresh.jobs.values(), *fresh.deployments.values(), fresh.service]
    assert len(children) > 2
    for child in children:
        assert child is not None
        metadata = [child["metadata"], child["spec"].get("template", {}).get("metadata", {})]
        for given in metadata:
            assert not re.search(r"argocd|models:", yaml.safe_dump(given))
            assert given.get("labels", {}).get("app.kubernetes.io/instance") != "models"
