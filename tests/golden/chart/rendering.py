"""The chart as our helm renders it, and the snapshots beside this file."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import paths

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts/torchscript-operator"
GOLDEN = Path(__file__).parent
RELEASE = "release"
NAMESPACE = "operator-system"
CASES = ("default", "scoped", "full", "no-crds")
"""Sets of values: `<case>.values.yaml` gives them, `<case>.yaml` is what they render to."""

Json = dict[str, Any]


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, as the API server and Helm do and PyYAML does not."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> Json:
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key twice among {keys}, {node.start_mark}"
    return {str(key): value for key, value in loader.construct_mapping(node, deep=True).items()}


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


class _BlockDumper(yaml.SafeDumper):
    """Shows files in ConfigMaps as they are, line by line."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_BlockDumper.add_representer(str, _text)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run our helm; a FileNotFoundError says how to build it."""
    return subprocess.run(
        [str(paths.binary("helm")), *arguments], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )


def template(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Render the chart."""
    return helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *arguments)


def values_of(case: str) -> tuple[str, ...]:
    """Arguments that give a case its values."""
    path = GOLDEN / f"{case}.values.yaml"
    return ("--values", str(path)) if path.exists() else ()


def refusal(*arguments: str) -> str:
    """What helm says when it refuses values."""
    done = template(*arguments)
    assert done.returncode != 0, f"helm took {arguments}"
    return done.stderr


@cache
def objects(*arguments: str) -> tuple[Json, ...]:
    """The objects that the chart renders to, in a fixed order."""
    done = template(*arguments)
    assert done.returncode == 0, done.stderr
    found = [item for item in yaml.load_all(done.stdout, _StrictLoader) if item]
    return tuple(sorted(found, key=_place))


def _place(item: Json) -> tuple[str, str, str]:
    metadata = item["metadata"]
    return item["kind"], metadata.get("namespace", ""), metadata["name"]


def case(name: str) -> tuple[Json, ...]:
    """The objects of a case."""
    return objects(*values_of(name))


def of_kind(items: tuple[Json, ...], *kinds: str) -> list[Json]:
    """The objects of some kinds."""
    return [item for item in items if item["kind"] in kinds]


def settings_of(items: tuple[Json, ...]) -> Any:
    """The operator's settings file."""
    (found,) = of_kind(items, "ConfigMap")
    return yaml.safe_load(found["data"]["settings.yaml"])


def snapshot(items: tuple[Json, ...]) -> str:
    """Objects as text; the CRD without its spec, which is generated and compared elsewhere."""
    shown = [
        {key: value for key, value in item.items() if item["kind"] != "CustomResourceDefinition" or key != "spec"}
        for item in items
    ]
    return yaml.dump_all(shown, Dumper=_BlockDumper, sort_keys=False, allow_unicode=True, width=120)
