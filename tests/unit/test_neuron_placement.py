"""Where pods of Neuron targets may go, as a table; on a real scheduler, see tests/integration/test_placement.py."""

from typing import Any

import pytest

from tests.golden.chart import rendering
from tests.unit import workers
from tests.unit.world import SETTINGS, World, spec
from torchscript_operator.api.v1alpha1.spec import Compiler, Target
from torchscript_operator.controller import placement
from torchscript_operator.controller.settings import CompilerDefaults, Settings

INSTANCE_TYPE = placement.INSTANCE_TYPE
KARPENTER = placement.ACCELERATOR
INF1 = ["inf1.xlarge", "inf1.2xlarge", "inf1.6xlarge", "inf1.24xlarge"]
INF2 = ["inf2.xlarge", "inf2.8xlarge", "inf2.24xlarge", "inf2.48xlarge"]


def target(compiler: str = "neuron", **fields: Any) -> Target:
    return Target.model_validate({"name": "t", "compiler": compiler, **fields})


def required(scheduling: dict[str, Any]) -> list[dict[str, Any]]:
    node = scheduling["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    terms: list[dict[str, Any]] = node["nodeSelectorTerms"]
    return terms


def affinity_to(key: str, *values: str) -> dict[str, Any]:
    term = {"matchExpressions": [{"key": key, "operator": "In", "values": list(values)}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


@pytest.mark.parametrize(("compiler", "types"), [("neuron", INF1), ("neuronx", INF2)])
def test_pods_that_need_a_device_are_held_to_its_instances(compiler: str, types: list[str]) -> None:
    scheduling = placement.job(target(compiler), SETTINGS).scheduling()
    expression = {"key": INSTANCE_TYPE, "operator": "In", "values": types}
    assert required(scheduling) == [{"matchExpressions": [expression]}]
    assert scheduling["tolerations"] == [{"key": "aws.amazon.com/neuron", "operator": "Exists"}]


def test_job_that_only_compiles_goes_anywhere_and_reserves_no_device() -> None:
    place = placement.job(target(verify={}), SETTINGS)
    assert (place.scheduling(), place.container_resources()) == ({}, {})


def test_verify_job_needs_the_device() -> None:
    place = placement.verify(target(verify={}), SETTINGS)
    assert required(place.scheduling())
    assert place.container_resources() == {"limits": {"aws.amazon.com/neuron": "1"}}


def test_torchscript_is_held_to_nothing() -> None:
    place = placement.job(target("torchscript", job={"nodeSelector": {INSTANCE_TYPE: "inf1.xlarge"}}), SETTINGS)
    assert place.problem(target("torchscript")) is None
    assert place.scheduling() == {"nodeSelector": {INSTANCE_TYPE: "inf1.xlarge"}}


def test_named_instances_stand_alone() -> None:
    place = placement.job(target("neuronx", job={"nodeSelector": {INSTANCE_TYPE: "trn1.2xlarge"}}), SETTINGS)
    assert place.problem(target("neuronx")) is None
    assert "affinity" not in place.scheduling()


def test_every_alternative_of_an_affinity_is_held() -> None:
    given = affinity_to("zone", "a")
    terms = given["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    terms.append({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]})
    found = required(placement.job(target(job={"affinity": given}), SETTINGS).scheduling())
    assert [[each["key"] for each in term["matchExpressions"]] for term in found] == [["zone", INSTANCE_TYPE]] * 2
    assert len(terms[0]["matchExpressions"]) == 1, "the spec itself is not touched"


def test_given_tolerations_and_resources_do_not_lose_the_device() -> None:
    job = {"tolerations": [{"key": "team", "operator": "Exists"}], "resources": {"limits": {"memory": "8Gi"}}}
    place = placement.job(target(job=job), SETTINGS)
    assert [each["key"] for each in place.scheduling()["tolerations"]] == ["team", "aws.amazon.com/neuron"]
    assert place.container_resources() == {"limits": {"memory": "8Gi", "aws.amazon.com/neuron": "1"}}


@pytest.mark.parametrize("resource", ["aws.amazon.com/neuron", "aws.amazon.com/neuroncore"])
def test_number_of_devices_is_the_users(resource: str) -> None:
    place = placement.job(target(job={"resources": {"limits": {resource: 4}}}), SETTINGS)
    assert place.container_resources() == {"limits": {resource: 4}}


@pytest.mark.parametrize(
    ("compiler", "selector", "fits"),
    [
        ("neuron", {INSTANCE_TYPE: "inf1.6xlarge"}, True),
        ("neuron", {INSTANCE_TYPE: "inf2.xlarge"}, False),
        ("neuron", {INSTANCE_TYPE: "m6i.large"}, False),
        ("neuron", {KARPENTER: "inferentia"}, True),
        ("neuron", {KARPENTER: "inferentia2"}, False),
        ("neuron", {KARPENTER: "trainium"}, False),
        ("neuron", {"pool": "accelerated"}, True),
        ("neuronx", {INSTANCE_TYPE: "inf1.xlarge"}, False),
        ("neuronx", {INSTANCE_TYPE: "trn1.32xlarge"}, True),
        ("neuronx", {KARPENTER: "trainium"}, True),
        ("neuronx", {KARPENTER: "inferentia"}, False),
        ("neuronx", {INSTANCE_TYPE: "inf2.xlarge", KARPENTER: "inferentia"}, False),
    ],
)
@pytest.mark.parametrize("where", ["job", "verify", "serving"])
def test_family_of_a_selector_has_to_be_the_compilers(
    compiler: str, selector: dict[str, str], where: str, *, fits: bool
) -> None:
    given: dict[str, Any] = {"name": "t", "compiler": compiler}
    given |= {where: {"nodeSelector": selector}} if where != "serving" else {}
    serving = {"nodeSelector": selector} if where == "serving" else {}
    found = World(spec(targets=[given], serving=serving)).model
    problem = placement.preflight(found, found.spec.targets[0], SETTINGS)
    assert (problem is None) == fits


@pytest.mark.parametrize(("values", "fits"), [(("inf1.xlarge",), True), (("inf1.xlarge", "inf2.xlarge"), False)])
def test_affinity_is_looked_at_too(values: tuple[str, ...], *, fits: bool) -> None:
    given = target(job={"affinity": affinity_to(INSTANCE_TYPE, *values)})
    assert (placement.job(given, SETTINGS).problem(given) is None) == fits


def test_arguments_that_name_a_target_hold_pods_to_it() -> None:
    given = target(
        "neuronx", compilerArguments=["--target", "trn1"], verify={"nodeSelector": {KARPENTER: "inferentia2"}}
    )
    problem = placement.verify(given, SETTINGS).problem(given)
    assert problem is not None
    assert "run on trn1 only" in problem.message


def test_family_without_known_instances_has_to_be_named() -> None:
    given = target("neuronx", compilerArguments=["--target=trn1"])
    problem = placement.job(given, SETTINGS).problem(given)
    assert problem is not None
    assert "know no instance type of trn1" in problem.message


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"verify": {}}, ("--target", "inf2")),
        ({"verify": {"nodeSelector": {INSTANCE_TYPE: "trn1.2xlarge"}}}, ("--target", "trn1")),
        (
            {"verify": {}, "compilerArguments": ["--target", "inf2", "--optlevel", "1"]},
            ("--target", "inf2", "--optlevel", "1"),
        ),
        ({}, ()),
    ],
    ids=["default", "of the nodes", "given", "on the device"],
)
def test_compiler_without_a_device_is_told_its_target(fields: dict[str, Any], found: tuple[str, ...]) -> None:
    assert placement.arguments(target("neuronx", **fields), SETTINGS) == found


def test_incompatible_target_starts_nothing_and_recovers_when_corrected() -> None:
    wrong = {"nodeSelector": {INSTANCE_TYPE: "inf2.xlarge"}}
    world = World(spec(targets=[{"name": "inf1", "compiler": "neuron"}], serving=wrong))
    world.settle()
    failure = world.target("inf1").last_failure
    assert failure is not None
    assert (failure.stage, failure.reason, failure.attempt) == ("placement", "IncompatibleNode", None)
    assert (world.created, world.condition("Stalled").reason) == ([], "IncompatibleNode")
    world.wait(60)
    assert world.is_quiet(world.plan())
    world.edit(serving={})
    world.settle()
    assert len(world.created) == 1


def test_serving_artifact_stays_where_it_runs() -> None:
    world = World(spec(targets=[{"name": "inf1", "compiler": "neuron"}]))
    world.serves("a", "inf1")
    before = dict(world.deployments)
    world.edit(serving={"nodeSelector": {INSTANCE_TYPE: "inf2.xlarge"}})
    world.settle()
    assert world.deployments == before
    assert (world.condition("Ready").status, world.condition("Stalled").reason) == ("True", "IncompatibleNode")
    assert world.condition("Available").reason == "IncompatibleNode"


def test_target_that_is_not_served_is_not_held_to_the_serving_nodes() -> None:
    wrong = {"nodeSelector": {INSTANCE_TYPE: "inf2.xlarge"}, "targets": []}
    world = World(spec(targets=[{"name": "inf1", "compiler": "neuron"}], serving=wrong))
    world.settle()
    assert len(world.created) == 1


@pytest.mark.parametrize("compiler", ["neuron", "neuronx"])
def test_operator_knows_by_itself_where_the_charts_defaults_send_pods(compiler: Compiler) -> None:
    chart = Settings.model_validate(rendering.settings_of(rendering.case("default"))).defaults(compiler)
    own = SETTINGS.defaults(compiler)
    assert own.instance_types == chart.instance_types
    assert own.job.tolerations == chart.job.tolerations == chart.serving.tolerations
    assert chart.image == f"ghcr.io/torchscript-operator/{compiler}:0.1.0"
    for place in (chart.job, chart.verify, chart.serving):
        assert place is not None
        assert place.resources.limits["aws.amazon.com/neuron"] == "1"
    assert chart.compile is not None
    assert (chart.compile.tolerations, chart.compile.resources.limits) == ((), {"memory": "32Gi"})


def test_settings_that_say_something_of_a_compiler_replace_what_is_built_in() -> None:
    settings = SETTINGS.model_copy(update={"compilers": {"neuron": CompilerDefaults(instance_types=("inf1.6xlarge",))}})
    (term,) = required(placement.job(target(), settings).scheduling())
    assert term["matchExpressions"][0]["values"] == ["inf1.6xlarge"]


def test_pods_serve_with_the_image_that_exported() -> None:
    world = World(spec(targets=[{"name": "inf1", "compiler": "neuron", "job": {"image": "neuron:test"}}]))
    world.settle()
    world.export_ends(workers.proven("a"), "inf1")
    world.settle()
    (container,) = world.deployments["minilm-inf1"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "neuron:test"
    assert container["resources"]["limits"] == {"aws.amazon.com/neuron": "1"}
