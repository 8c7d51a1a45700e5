"""A file is judged as the API server judges it, with the line and the next step."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchscript_operator.api.v1alpha1.base import VALIDATIONS
from torchscript_operator.cli import documents, files, rules, validation
from torchscript_operator.cli.errors import CliError
from torchscript_operator.controller.model import Model

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").rglob("*.yaml"))
FRAME = "apiVersion: torchscript.dev/v1alpha1\nkind: TorchScriptModel\nmetadata: {name: minilm}\nspec:\n"
LEAST = "  source: {huggingFace: {repository: owner/name}}\n  task: feature-extraction\n"


def check(text: str) -> Model:
    return validation.to_model(documents.read(text, "f.yaml")[0])


def problems(spec: str) -> list[str]:
    with pytest.raises(CliError) as caught:
        check(FRAME + spec)
    assert caught.value.exit_code == 2
    return caught.value.message.splitlines()


def written_rules(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for name, value in schema.items():
            if name == VALIDATIONS:
                yield from (rule["rule"] for rule in value)
            else:
                yield from written_rules(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from written_rules(item)


def is_model(path: Path) -> bool:
    """Whether a file is a model to apply: no patch of one, and no recorded state."""
    found = yaml.safe_load(path.read_text()) if "kind: TorchScriptModel" in path.read_text() else None
    whole = isinstance(found, dict) and found.get("kind") == "TorchScriptModel" and "task" in found.get("spec", {})
    return whole and "testdata" not in path.parts


def models() -> list[Path]:
    return [path for path in EXAMPLES if is_model(path)]


def test_there_are_examples() -> None:
    assert {path.stem for path in models()} >= {"least", "minilm", "neuron", "volume"}


@pytest.mark.parametrize("path", models(), ids=lambda path: path.stem)
def test_every_example_is_valid(path: Path) -> None:
    expected = yaml.safe_load(path.read_text())["metadata"]["name"]
    assert files.read_model(str(path), None).name == expected


def test_the_namespace_is_the_files_own() -> None:
    assert check(FRAME.replace("{name: minilm}", "{name: minilm, namespace: team}") + LEAST).namespace == "team"


def test_null_is_absent() -> None:
    assert check(FRAME + LEAST + "  serving: null\n").spec.serving.replicas == 1


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("  task: feature-extraction\n", "f.yaml:4: spec.source: is required"),
        (LEAST + "  suspnd: true\n", "f.yaml:7: spec.suspnd: there is no such field: did you mean suspend?"),
        (LEAST + "  parity: {absolute_tolerance: '1'}\n", "did you mean absoluteTolerance?"),
        (LEAST + "  parity: {xyzzy: '1'}\n", "take it away (fields here: absoluteTolerance, "),
        (LEAST + "  parity:\n    absoluteTolerance: 1e-4\n", "f.yaml:8: spec.parity.absoluteTolerance: must be text"),
        (LEAST + "  parity: {absoluteTolerance: 1e-4}\n", "put it in quotes"),
        (LEAST + "  inputs: {shapes: [{batch: '8', sequence: 8}]}\n", "spec.inputs.shapes[0].batch: must be a whole"),
        (LEAST + "  inputs: {shapes: [{batch: '8', sequence: 8}]}\n", "take away the quotes"),
        (LEAST + "  inputs: {shapes: [{batch: 0, sequence: 8}]}\n", "must be greater than or equal to 1, not 0"),
        (LEAST + "  inputs: {shapes: []}\n", "spec.inputs.shapes: must have at least 1"),
        (LEAST + "  inputs: {shapes: {batch: 1}}\n", "spec.inputs.shapes: must be a list"),
        (LEAST + "  inputs: [1]\n", "spec.inputs: must be an object with fields, not a list"),
        (LEAST + "  suspend: 'true'\n", "spec.suspend: must be true or false"),
        (LEAST.replace("feature-extraction", "embedding"), "spec.task: must be 'feature-extraction', "),
        (LEAST + "  artifact: {uri: 'http://x'}\n", "s3://bucket/prefix below which"),
        (
            LEAST + "  serving: {resources: {limits: {cpu: 1.5}}}\n",
            "spec.serving.resources.limits.cpu: must be a whole",
        ),
        (LEAST + "  serving: {resources: {limits: {cpu: 1x}}}\n", "is no quantity such as 500m"),
    ],
)
def test_a_wrong_type_is_explained(spec: str, expected: str) -> None:
    assert expected in "\n".join(problems(spec))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (LEAST.replace("{huggingFace: {repository: owner/name}}", "{}"), "f.yaml:5: spec.source takes exactly one"),
        (
            LEAST.replace("owner/name}", "owner/name}, s3: {uri: 's3://bucket'}"),
            "spec.source takes exactly one of huggingFace, s3 and persistentVolumeClaim",
        ),
        (LEAST + "  artifact: {persistentVolumeClaim: {claimName: a, path: x/../y}}\n", "must not contain '..'"),
        (LEAST + "  artifact: {persistentVolumeClaim: {claimName: a}, region: x}\n", "go with uri"),
        (LEAST + "  inputs: {samples: {}}\n", "spec.inputs.samples takes exactly one of texts and configMap"),
        (LEAST + "  serving: {targets: [gpu]}\n", "names a target that spec.targets does not have"),
        (LEAST + "  targets: [{name: cpu, compilerArguments: [x]}]\n", "torch.jit.trace takes none"),
        (LEAST + "  targets:\n  - name: a\n  - name: a\n", "f.yaml:9: spec.targets[1]: has the same name 'a'"),
    ],
)
def test_a_broken_rule_is_found_without_an_api_server(spec: str, expected: str) -> None:
    assert expected in "\n".join(problems(spec))


def test_the_name_has_to_fit_its_children() -> None:
    with pytest.raises(CliError, match="at most 40"):
        check(FRAME.replace("minilm", "m" * 41) + LEAST)


def test_name_and_target_together_have_to_fit() -> None:
    with pytest.raises(CliError, match="together must not exceed 62"):
        check(FRAME.replace("minilm", "m" * 45) + LEAST + f"  targets: [{{name: {'t' * 20}}}]\n")


def test_all_problems_are_told_at_once_in_the_files_order() -> None:
    found = problems("  source: {}\n  task: nonsense\n  suspend: 3\n  extra: 1\n")
    assert [line.split(":")[1] for line in found] == ["6", "7", "8"]


def test_a_list_is_not_called_too_short_for_its_wrong_items() -> None:
    assert len(problems(LEAST + "  inputs: {shapes: [{batch: x, sequence: 8}]}\n")) == 1


def test_another_api_version_is_refused() -> None:
    with pytest.raises(CliError, match=r"f\.yaml:1: apiVersion: must be torchscript\.dev/v1alpha1"):
        check(FRAME.replace("v1alpha1", "v1") + LEAST)


def test_a_file_without_metadata_is_refused() -> None:
    with pytest.raises(CliError, match=r"metadata\.name: is required"):
        check(FRAME.replace("metadata: {name: minilm}\n", "") + LEAST)


def test_a_name_that_looks_like_a_number_is_refused() -> None:
    with pytest.raises(CliError, match="in quotes if it looks like a number"):
        check(FRAME.replace("minilm", "123") + LEAST)


def test_every_rule_of_the_crd_compiles_here() -> None:
    found = set(written_rules(rules.schema()))
    assert len(found) >= 10
    for expression in found:
        rules._program(expression)


def test_a_rule_that_cannot_be_evaluated_refuses() -> None:
    refusal = rules._refusal({"rule": "self.missing == 1", "message": "say what to do"}, {})
    assert refusal is not None
    assert refusal.startswith("say what to do (the rule cannot be evaluated")
