"""tsm plan: what becomes of a file, against a cluster and against a base, as text, as JSON and as an exit code."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from tests.unit import views, workers
from tests.unit.views import OTHER, FakeCluster, connected, installed
from tests.unit.world import LEAST, SETTINGS, START, World, targets
from torchscript_operator.cli import plan_gather, plan_show, planning
from torchscript_operator.cli.cluster import access, nodes
from torchscript_operator.cli.cluster.read import ModelView
from torchscript_operator.cli.formats import Format
from torchscript_operator.cli.main import app
from torchscript_operator.cli.plan_facts import ModelPlan
from torchscript_operator.cli.planning import Surroundings
from torchscript_operator.controller.model import Model

Json = dict[str, Any]
NEURON = {"name": "inf2", "compiler": "neuronx", "precision": "bfloat16"}
HUB = {"huggingFace": {"repository": "owner/tiny"}}


def body(name: str = "minilm", **fields: Any) -> Json:
    return {
        "apiVersion": "torchscript.dev/v1alpha1",
        "kind": "TorchScriptModel",
        "metadata": {"name": name},
        "spec": {**LEAST, **fields},
    }


def model(**fields: Any) -> Model:
    found = body(**fields)
    return Model.parse({**found, "metadata": {"name": "minilm", "namespace": "ml", "uid": "", "generation": 1}})


def planned(wanted: Model, before: ModelView | None = None, **around: Any) -> ModelPlan:
    return planning.plan(wanted, before, Surroundings(SETTINGS, **around), START)


def text_of(*plans: ModelPlan) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=200, highlight=False, soft_wrap=True)
    plan_show.show(plans, (), Format.TABLE, console, console)
    return stream.getvalue()


def served(**fields: Any) -> ModelView:
    world = World({**LEAST, **fields})
    world.serves("a")
    return views.view(world)


def test_unchanged_file_does_nothing() -> None:
    plan = planned(model(), served())
    assert not plan.changes
    assert [(target.action, target.key) for target in plan.targets] == [("unchanged", "a" * 64)]
    assert plan_show.exit_code([plan], [], changes_ok=False) == 0


def test_new_model_is_exported_and_served_after_its_proof() -> None:
    plan = planned(model())
    assert (plan.new, plan.targets[0].action) == (True, "export")
    assert [(roll.name, roll.action) for roll in plan.rolls] == [("minilm-cpu", "after proof")]
    assert plan_show.exit_code([plan], [], changes_ok=False) == 2
    assert plan_show.exit_code([plan], [], changes_ok=True) == 0


@pytest.mark.parametrize(
    ("serving", "pods"),
    [
        ({}, "1 pod"),
        ({"replicas": 3}, "3 pods"),
        ({"autoscaling": {"minReplicas": 2, "maxReplicas": 8}}, "2 pods"),
        ({"autoscaling": {"maxReplicas": 8}}, "1 pod"),
    ],
)
def test_new_model_begins_with_as_many_pods_as_the_operator_gives_it(serving: Json, pods: str) -> None:
    (roll,) = planned(model(serving=serving)).rolls
    assert roll.why == f"{pods} once the artifact is proven"


def test_update_keeps_as_many_pods_as_the_autoscaler_has_set() -> None:
    scaled = {"autoscaling": {"minReplicas": 2, "maxReplicas": 8}}
    before = served(serving=scaled)
    (deployment,) = before.children.deployments
    deployment["spec"]["replicas"] = 5
    deployment["metadata"]["managedFields"] = [
        {"manager": "kube-controller-manager", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    ]
    plan = planned(model(source=OTHER, serving=scaled), before)
    assert [roll.why.partition(",")[0] for roll in plan.rolls if roll.action == "after proof"] == ["5 pods"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"source": OTHER}, "spec.source.uri"),
        ({"inputs": {"shapes": [{"batch": 1, "sequence": 64}]}}, "spec.inputs.shapes"),
        ({"parity": {"absoluteTolerance": "1e-3"}}, "spec.parity.absoluteTolerance"),
        ({"targets": [{"name": "cpu", "precision": "bfloat16"}]}, "spec.targets[cpu].precision"),
        ({"targets": [{"name": "cpu", "job": {"image": "other:1"}}]}, "worker image"),
        ({"task": "fill-mask"}, "spec.task"),
        ({"artifact": {"uri": "s3://elsewhere/x"}}, "spec.artifact.uri"),
    ],
)
def test_new_export_names_the_input_that_changed(fields: Json, path: str) -> None:
    (target,) = planned(model(**fields), served()).targets
    assert target.action == "export"
    assert [change.path for change in target.changes] == [path]


@pytest.mark.parametrize(
    ("fields", "name", "action"),
    [
        ({"serving": {"replicas": 3}}, "minilm-cpu", "scale"),
        ({"serving": {"resources": {"limits": {"cpu": "2"}}}}, "minilm-cpu", "roll"),
        ({"serving": {"targets": []}}, "minilm-cpu", "delete"),
    ],
)
def test_serving_changes_without_an_export(fields: Json, name: str, action: str) -> None:
    plan = planned(model(**fields), served())
    assert [target.action for target in plan.targets] == ["unchanged"]
    assert (name, action) in [(roll.name, roll.action) for roll in plan.rolls]


def test_another_default_image_of_the_operator_is_a_reason() -> None:
    settings = SETTINGS.model_copy(update={"worker_image": "worker:next"})
    plan = planning.plan(model(), served(), Surroundings(settings), START)
    assert [(change.path, change.before, change.after) for change in plan.targets[0].changes] == [
        ("worker image", "worker:test", "worker:next")
    ]
    assert plan.changes


def test_finished_job_of_an_earlier_spec_is_a_cache_hit() -> None:
    world = World()
    world.serves("a")
    world.edit(source=OTHER)
    world.serves("b")
    (target,) = planned(model(), views.view(world)).targets
    assert (target.action, target.key) == ("cached", "a" * 64)


def test_artifact_of_another_model_is_a_cache_hit() -> None:
    twin = served()
    other = replace(twin, model=replace(twin.model, name="twin"))
    (target,) = planned(model(), None, others=(other,)).targets
    assert (target.action, target.key) == ("cached", "a" * 64)
    assert "ml/twin" in target.why


def test_cache_hit_of_a_branch_says_that_it_may_move() -> None:
    twin = served(source=HUB)
    other = replace(twin, model=replace(twin.model, name="twin"))
    (target,) = planned(model(source=HUB), None, others=(other,)).targets
    assert "unless main of owner/tiny has moved" in target.why


def test_running_export_goes_on() -> None:
    (target,) = planned(model(), views.view(views.exporting())).targets
    assert target.action == "running"


def test_request_that_has_failed_is_not_tried_again() -> None:
    plan = planned(model(), views.view(views.parity_failed()))
    assert [target.action for target in plan.targets] == ["failed"]
    assert not plan.changes


def test_superseded_job_is_deleted() -> None:
    plan = planned(model(source=OTHER), views.view(views.exporting()))
    assert [(roll.kind, roll.action) for roll in plan.rolls if roll.action == "delete"] == [("Job", "delete")]


def test_suspended_file_starts_nothing() -> None:
    plan = planned(model(suspend=True, source=OTHER), served())
    assert [target.action for target in plan.targets] == ["suspended"]


def test_taken_away_target_loses_its_deployment() -> None:
    world = World()
    world.edit(targets=targets("cpu", "two"))
    world.settle()
    for name in ("cpu", "two"):
        world.export_ends(workers.proven("a"), name)
        world.settle()
        world.rollout_ends(name)
        world.settle()
    plan = planned(model(targets=targets("cpu")), views.view(world))
    assert ("minilm-two", "delete") in [(roll.name, roll.action) for roll in plan.rolls]


def test_node_of_the_wrong_kind_is_a_problem() -> None:
    wrong = {**NEURON, "job": {"nodeSelector": {"node.kubernetes.io/instance-type": "inf1.xlarge"}}}
    plan = planned(model(targets=[wrong]))
    assert plan.targets[0].action == "refused"
    assert "inf1.xlarge" in plan.problems[0]
    assert plan_show.exit_code([plan], [], changes_ok=True) == 1


def test_missing_store_is_a_problem() -> None:
    settings = SETTINGS.model_copy(update={"artifact_store": None})
    plan = planning.plan(model(), None, Surroundings(settings), START)
    assert "Set one of them" in plan.problems[0]
    assert plan_show.exit_code([plan], [], changes_ok=False) == 1


def test_two_steps_show_both_places() -> None:
    (target,) = planned(model(targets=[{**NEURON, "verify": {}}])).targets
    assert [place.kind for place in target.places] == ["export", "verify", "serving"]


def node(name: str, labels: Json | None = None, *, taints: list[Json] | None = None, **room: str) -> Json:
    allocatable = {"cpu": "4", "memory": "8Gi", **{key.replace("_", "/"): value for key, value in room.items()}}
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": taints or []},
        "status": {"allocatable": allocatable},
    }


def test_nodes_that_fit_are_counted_with_the_reasons_of_the_others() -> None:
    inf2 = node(
        "inf2",
        {"node.kubernetes.io/instance-type": "inf2.xlarge"},
        taints=[{"key": "aws.amazon.com/neuron", "effect": "NoSchedule"}],
        **{"aws.amazon.com_neuron": "1"},
    )
    (target,) = planned(model(targets=[NEURON]), nodes=(node("cpu"), inf2)).targets
    fit = target.places[0].fit
    assert fit is not None
    assert fit.fitting == ("inf2",)
    assert "instance-type In" in fit.reasons[0][0]


TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("scheduling", "resources", "expected"),
    [
        ({}, {}, "taint gpu=yes"),
        ({"tolerations": [{"key": "gpu", "operator": "Exists"}]}, {}, None),
        ({"tolerations": [{"operator": "Exists"}]}, {}, None),
        ({"tolerations": [{"key": "gpu", "value": "yes"}]}, {}, None),
        ({"tolerations": [{"key": "gpu", "value": "no"}]}, {}, "taint gpu=yes"),
        ({"tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}, {}, "taint gpu=yes"),
        ({"nodeSelector": {"disk": "ssd"}}, {}, "no label disk=ssd"),
        ({"tolerations": [{"operator": "Exists"}]}, {"requests": {"memory": "9Gi"}}, "memory 8Gi of 9Gi asked for"),
        ({"tolerations": [{"operator": "Exists"}]}, {"limits": {"cpu": "5"}, "requests": {"cpu": "500m"}}, None),
    ],
)
def test_a_node_takes_a_pod_as_the_scheduler_would_have_it(
    scheduling: Json, resources: Json, expected: str | None
) -> None:
    assert nodes.refusal(node("n", {"disk": "hdd"}, taints=[TAINT]), scheduling, resources) == expected


@pytest.mark.parametrize(
    ("operator", "values", "fits"),
    [
        ("In", ["4", "8"], True),
        ("NotIn", ["4"], False),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
        ("Gt", ["3"], True),
        ("Gt", ["4"], False),
        ("Lt", ["5"], True),
    ],
)
def test_required_affinity_is_judged(operator: str, values: list[str], fits: bool) -> None:
    term = {"matchExpressions": [{"key": "gen", "operator": operator, "values": values}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    found = nodes.refusal(node("n", {"gen": "4"}), {"affinity": {"nodeAffinity": required}}, {})
    assert (found is None) == fits


def test_text_says_the_change_once_and_the_reason_with_it() -> None:
    text = text_of(planned(model(source=OTHER), served()))
    assert "ml/minilm: changed" in text
    assert "target cpu: new export: other inputs than its artifact has" in text
    assert "s3://models/minilm → s3://models/other" in text
    assert text.splitlines()[-1].startswith("1 model: 1 to export")


def test_base_is_taken_to_be_rolled_out() -> None:
    plans = plan_gather.offline([(model(), True)], [model()], SETTINGS, None, START)
    assert not plans[0].changes
    assert [target.action for target in plans[0].targets] == ["unchanged"]
    assert plans[0].rolls == ()


@pytest.mark.parametrize(
    "serving",
    [{"replicas": 2}, {"autoscaling": {"maxReplicas": 3}}, {"resources": {"limits": {"cpu": "0.5"}}}, {"targets": []}],
)
def test_base_with_everything_beside_it_is_at_rest_too(serving: Json) -> None:
    wanted = model(serving=serving)
    (plan,) = plan_gather.offline([(wanted, True)], [wanted], SETTINGS, None, START)
    assert not plan.changes


def test_change_against_a_base_scales_without_an_export() -> None:
    (plan,) = plan_gather.offline([(model(serving={"replicas": 3}), True)], [model()], SETTINGS, None, START)
    assert ("minilm-cpu", "scale") in [(roll.name, roll.action) for roll in plan.rolls]
    assert [target.action for target in plan.targets] == ["unchanged"]


# The command.


def run(*arguments: str, **options: Any) -> Any:
    return CliRunner().invoke(app, ["plan", *arguments], **options)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(body()))
    return path


def test_new_file_exits_with_two(file: Path) -> None:
    result = run(str(file), "--offline")
    assert result.exit_code == 2, result.output
    assert "default/minilm: new" in result.stdout
    assert "not known here" in result.stdout


def test_file_like_its_base_exits_with_nothing(file: Path) -> None:
    result = run(str(file), "--base", str(file))
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.stdout


def test_changes_may_be_no_failure(file: Path) -> None:
    assert run(str(file), "--offline", "--changes-ok").exit_code == 0


@pytest.mark.parametrize("arguments", [["--nonsense"], []])
def test_wrong_command_line_is_not_taken_for_a_change(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 1


def test_all_problems_of_all_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(body(task="nonsense")))
    (tmp_path / "b.yml").write_text(yaml.safe_dump(body(serving={"targets": ["missing"]})))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"kind": "Deployment"}) + "---\n" + yaml.safe_dump(body("good")))
    result = run(str(tmp_path), "--offline")
    assert result.exit_code == 1
    assert "a.yaml:9: spec.task" in result.stderr
    assert "spec.serving.targets names a target that spec.targets does not have" in result.stderr
    assert "default/good: new" in result.stdout


def test_folder_without_a_model_is_invalid(tmp_path: Path) -> None:
    result = run(str(tmp_path), "--offline")
    assert result.exit_code == 1
    assert "There is no TorchScriptModel" in result.stderr


def test_standard_input_for_programs(file: Path) -> None:
    result = run("-", "--offline", "-o", "json", input=file.read_text())
    found = json.loads(result.stdout)
    assert (found["valid"], found["changes"]) == (True, True)
    assert found["models"][0]["targets"][0]["action"] == "export"
    assert found["models"][0]["targets"][0]["placement"][0]["for"] == "export"


def test_invalid_file_for_programs(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(body(task="nonsense")))
    result = run(str(tmp_path / "a.yaml"), "--offline", "-o", "json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["valid"] is False
    assert "spec.task" in found["errors"][0]


def test_settings_of_a_file_give_the_defaults(file: Path, tmp_path: Path) -> None:
    settings = {"workerImage": "worker:test", "artifactStore": {"uri": "s3://artifacts/models"}}
    holder = {"kind": "ConfigMap", "data": {"settings.yaml": yaml.safe_dump(settings)}}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(holder))
    result = run(str(file), "--offline", "--settings", str(tmp_path / "settings.yaml"))
    assert "not known here" not in result.stdout


def test_settings_that_are_none_are_told(file: Path) -> None:
    result = run(str(file), "--offline", "--settings", str(file))
    assert result.exit_code == 1
    assert "no settings of the operator" in result.stderr


def test_plan_against_a_cluster_uses_the_operators_own_settings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = installed(FakeCluster(served()))
    cluster.add("v1", "nodes", node("n", memory="64Gi"))
    monkeypatch.setattr(access, "connect", lambda _options: connected(cluster))
    result = run(str(file))
    assert result.exit_code == 0, result.output
    assert "ml/minilm: nothing to do" in result.stdout
    assert "note" not in result.stdout


def test_each_namespace_is_planned_by_its_own_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(served())
    cluster.add("v1", "nodes", node("n", memory="64Gi"))
    for name, watched, image in (("a", ("other",), "registry.example/worker:9"), ("b", ("ml",), SETTINGS.worker_image)):
        installed(cluster, SETTINGS.model_copy(update={"watch_namespaces": watched, "worker_image": image}), name)
    monkeypatch.setattr(access, "connect", lambda _options: connected(cluster))
    path = tmp_path / "models.yaml"
    wanted = [body() | {"metadata": {"name": "minilm", "namespace": namespace}} for namespace in ("ml", "nobodys")]
    path.write_text("---\n".join(yaml.safe_dump(each) for each in wanted))
    mine, nobodys = json.loads(run(str(path), "-o", "json").stdout)["models"]
    # With the other operator's image it would be a new export.
    assert (mine["changes"], mine["notes"]) == (False, [])
    assert any("does not watch the namespace nobodys" in note for note in nobodys["notes"])


def test_what_may_not_be_read_is_a_note(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = installed(FakeCluster(served()))
    cluster.forbidden = {"nodes", "configmaps"}
    monkeypatch.setattr(access, "connect", lambda _options: connected(cluster))
    result = run(str(file))
    assert "forbids it: nodes" in result.stdout
    assert "forbids it: configmaps" in result.stdout


def test_live_spec_of_another_release_ends_the_plan(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = installed(FakeCluster(served()))
    cluster.views[0].body["spec"]["fromTheFuture"] = True
    monkeypatch.setattr(access, "connect", lambda _options: connected(cluster))
    result = run(str(file))
    assert result.exit_code == 1
    assert "fromTheFuture" in result.stderr


def test_children_that_may_not_be_read_end_the_plan(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = installed(FakeCluster(served()))
    cluster.forbidden = {"jobs"}
    monkeypatch.setattr(access, "connect", lambda _options: connected(cluster))
    result = run(str(file))
    assert result.exit_code == 1
    assert "--offline --base" in result.stderr
