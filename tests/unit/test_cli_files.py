"""A FILE argument leads to one model and its targets."""

import io
from pathlib import Path

import pytest

from torchscript_operator.cli import files
from torchscript_operator.cli.errors import CliError

MODEL = """apiVersion: torchscript.dev/v1alpha1
kind: TorchScriptModel
metadata: {name: NAME}
spec:
  source: {huggingFace: {repository: owner/name}}
  task: feature-extraction
  targets: [{name: first}, {name: second}]
"""


def written(folder: Path, text: str) -> str:
    (folder / "f.yaml").write_text(text)
    return str(folder / "f.yaml")


def test_objects_of_other_kinds_are_passed_over(tmp_path: Path) -> None:
    file = written(tmp_path, "kind: Secret\nmetadata: {name: x}\n---\n" + MODEL.replace("NAME", "one"))
    assert files.read_model(file, None).name == "one"


def test_one_of_several_models_has_to_be_named(tmp_path: Path) -> None:
    file = written(tmp_path, MODEL.replace("NAME", "one") + "---\n" + MODEL.replace("NAME", "two"))
    with pytest.raises(CliError, match="there are 2 models in this file: one, two"):
        files.read_model(file, None)
    assert files.read_model(file, "two").name == "two"


def test_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="no TorchScriptModel named 'three'"):
        files.read_model(written(tmp_path, MODEL.replace("NAME", "one")), "three")


def test_a_file_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="there is no TorchScriptModel in this file"):
        files.read_model(written(tmp_path, "just text"), None)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="No such file"):
        files.read_model(str(tmp_path / "missing"), None)


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CliError, match="no text in UTF-8"):
        files.read_model(str(tmp_path / "f"), None)


def test_a_hyphen_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(MODEL.replace("NAME", "piped")))
    assert files.read_model("-", None).name == "piped"


def test_all_targets_are_exported_by_default(tmp_path: Path) -> None:
    model = files.read_model(written(tmp_path, MODEL.replace("NAME", "one")), None)
    assert [target.name for target in files.chosen_targets(model, None)] == ["first", "second"]


def test_an_unknown_target_names_the_known_ones(tmp_path: Path) -> None:
    model = files.read_model(written(tmp_path, MODEL.replace("NAME", "one")), None)
    with pytest.raises(CliError) as caught:
        files.chosen_targets(model, "third")
    assert caught.value.advice == "Its targets: first, second."


@pytest.mark.parametrize(
    ("serving", "expected"),
    [("", "first"), ("  serving: {targets: [second]}\n", "second"), ("  serving: {targets: []}\n", "first")],
)
def test_the_first_served_target_is_run(tmp_path: Path, serving: str, expected: str) -> None:
    model = files.read_model(written(tmp_path, MODEL.replace("NAME", "one") + serving), None)
    assert files.served_target(model, None).name == expected
