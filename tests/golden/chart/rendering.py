"""The chart as our helm renders it, and the snapshots beside this file."""

from __future__ import annotations

import importlib.util
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.cluster import paths

if TYPE_CHECKING:
    from types import ModuleType

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


def hooked(item: Json, event: str = "") -> bool:
    """Whether an object is only there at an event, such as `test`; without one: at any."""
    when = item["metadata"].get("annotations", {}).get("helm.sh/hook", "")
    return when == event if event else bool(when)


def installed(items: tuple[Json, ...]) -> tuple[Json, ...]:
    """The objects that an installation makes."""
    return tuple(item for item in items if not hooked(item))


def settings_of(items: tuple[Json, ...]) -> Any:
    """The operator's settings file."""
    (found,) = [item for item in of_kind(items, "ConfigMap") if "settings.yaml" in item["data"]]
    return yaml.safe_load(found["data"]["settings.yaml"])


def module(path: Path) -> ModuleType:
    """A program that the chart carries, as a module."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    found = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(found)
    return found


def snapshot(items: tuple[Json, ...]) -> str:
    """Objects as text, without what is compared elsewhere: the CRD's spec, and files of the chart in ConfigMaps."""
    return yaml.dump_all(map(_shown, items), Dumper=_BlockDumper, sort_keys=False, allow_unicode=True, width=120)


def _shown(item: Json) -> Json:
    if item["kind"] == "CustomResourceDefinition":
        return {key: value for key, value in item.items() if key != "spec"}
    if item["kind"] == "ConfigMap":
        data = {
            name: text if name == "settings.yaml" else "(a file of the chart)" for name, text in item["data"].items()
        }
        return {**item, "data": data}
    return item
