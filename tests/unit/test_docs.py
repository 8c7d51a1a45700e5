"""README.md and docs/ say what is so: models that the API takes, fields, paths and failures, a site that builds."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, get_args

import pytest
import yaml

from tests.golden.chart import rendering
from tests.unit import pages
from tests.unit.pages import PAGES, ROOT, Block
from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.spec import Compiler, Task
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.artifact.tolerances import DEFAULTS
from torchscript_operator.cli import documents, rules, validation
from torchscript_operator.controller.model import RETRY_ANNOTATION, ROLLBACK_ANNOTATION

if TYPE_CHECKING:
    from pathlib import Path

DOCS = ROOT / "docs"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
ALL = "\n".join(page.read_text() for page in PAGES)
YAML = [block for block in pages.blocks("yaml") if block.page != pages.CHART_README]
OTHERS = ("examples/gitops/",)
"""Folders whose files are no models of their own; tests of GitOps apply or build them."""


def generator() -> Any:
    """docs/generate.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name(block: Block) -> str:
    return f"{block.page.name}: {block.text.split(chr(10))[0]}"


def model_in(block: Block) -> str | None:
    """The model that a block holds, whole or as what is added to the least one; None for one of another kind."""
    if re.search(r"^kind: TorchScriptModel$", block.whole, re.MULTILINE):
        return block.whole
    value = None if block.included else documents.read(block.text, block.page.name)[0].value
    if isinstance(value, dict) and value.keys() == {"spec"}:
        least = yaml.safe_load((ROOT / "examples/least.yaml").read_text())
        return json.dumps({**least, "spec": {**least["spec"], **value["spec"]}})
    return None


@pytest.mark.parametrize("block", YAML, ids=name)
def test_block_is_a_valid_model_or_of_a_file_that_others_test(block: Block) -> None:
    model = model_in(block)
    if model is not None:
        for document in documents.read(model, block.page.name):
            validation.to_model(document)
        return
    value = yaml.safe_load(block.text) if not block.included else None
    steps = isinstance(value, list) and all(step.keys() == {"run"} for step in value)
    assert steps or all(file.startswith(OTHERS) for file in block.included), block.text


@pytest.mark.parametrize("block", [it for it in pages.blocks("yaml") if it.page == pages.CHART_README], ids=name)
def test_block_of_the_charts_readme_is_values_that_it_takes(block: Block, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(block.text)
    done = rendering.template("--values", str(tmp_path / "values.yaml"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_in_the_pages_and_passes_the_rules_of_the_definition(path: Path) -> None:
    assert f"examples/{path.name}" in ALL
    (document,) = documents.read(path.read_text(), path.name)
    validation.to_model(document)


def included_models(page: Path) -> list[Any]:
    files = [file for block in YAML if block.page == page for file in block.included]
    return [yaml.safe_load((ROOT / file).read_text())["spec"] for file in files]


@pytest.mark.parametrize("task", get_args(Task))
def test_every_task_has_a_page_with_a_whole_model(task: str) -> None:
    assert task in {spec["task"] for spec in included_models(DOCS / f"tasks/{task}.md")}


@pytest.mark.parametrize("compiler", get_args(Compiler))
def test_every_compiler_has_a_page_with_a_whole_model(compiler: str) -> None:
    targets = [target for spec in included_models(DOCS / f"targets/{compiler}.md") for target in spec["targets"]]
    assert compiler in {target.get("compiler", "torchscript") for target in targets}


@pytest.mark.parametrize("page", ["index.md", "faq.md", "targets/neuron.md", "targets/neuronx.md", "comparison.md"])
def test_pages_say_that_nothing_has_run_on_inferentia(page: str) -> None:
    assert re.search(r"never run|has ever run", (DOCS / page).read_text())


def test_every_field_that_is_named_is_in_the_api() -> None:
    inline = {text for page in PAGES for text in pages.INLINE.findall(page.read_text())}
    fields = {text for text in inline if re.fullmatch(r"(spec|status)(\.\w+|\[\])*", text)}
    unknown = {
        field
        for field in fields
        if rules.schema_at(tuple(0 if step == "[]" else step for step in re.findall(r"\w+|\[\]", field))) is None
    }
    assert fields
    assert unknown == set()


def test_every_path_that_is_named_is_in_the_repository() -> None:
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    text = "\n".join(pages.FENCE.sub("", page.read_text()) for page in PAGES)
    named = {
        text.rstrip("/") for text in re.findall(rf"`((?:{folders})/[\w./-]*)`", text) if not text.startswith("build/")
    }
    assert named
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_every_annotation_of_ours_that_is_named_is_one_that_the_operator_reads() -> None:
    named = set(re.findall(r"`(torchscript\.dev/[a-z-]+)`", ALL))
    assert named == {RETRY_ANNOTATION, ROLLBACK_ANNOTATION}


def test_every_value_of_the_chart_that_is_named_is_one() -> None:
    values = yaml.safe_load((ROOT / "charts/torchscript-operator/values.yaml").read_text())
    named = set(re.findall(rf"`((?:{'|'.join(values)})(?:\.\w+)+)`", ALL))

    def has(path: str) -> bool:
        found: Any = values
        for step in path.split("."):
            if not isinstance(found, dict) or step not in found:
                return False
            found = found[step]
        return True

    assert named
    assert {path for path in named if not has(path)} == set()


def test_every_condition_reason_and_failure_has_a_row() -> None:
    generate = generator()
    constants = {value for key, value in vars(conditions).items() if key.isupper() and isinstance(value, str)}
    assert set(generate.CONDITIONS) == set(conditions.ALL)
    assert set(generate.REASONS) == constants - set(conditions.ALL) - {reason.value for reason in FailureReason}
    assert set(generate.FAILURES) == set(CLASSES)


def test_generated_parts_are_those_of_the_code() -> None:
    for path, text in generator().contents(ROOT).items():
        assert (ROOT / path).read_text() == text, f"{path}: run `make generate`"


def test_generated_tables_hold_the_figures_of_the_code() -> None:
    parity = (DOCS / "parity.md").read_text()
    for (compiler, precision), default in DEFAULTS.items():
        assert f"| `{compiler}` | `{precision}` | {default.absolute} | {default.relative} |" in parity
    failures = (DOCS / "failures.md").read_text()
    for reason, known in CLASSES.items():
        assert f"| `{reason.value}` | {known.exit_code} |" in failures


# Some seconds: the whole site, once.
def test_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    # Not --quiet: what is not logged is not counted either.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    built = list(tmp_path.rglob("*.html"))
    assert len(built) >= len(list(DOCS.rglob("*.md")))
    for page in built:
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]+src="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect|icon)"[^>]*href="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]+href="([^"]+)"[^>]*rel="(?:stylesheet|preconnect|icon)"', text)
        assert [address for address in loaded if "//" in address] == [], page.name
    styles = "".join(style.read_text() for style in tmp_path.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:)?//[^)\"']+", styles) == []
