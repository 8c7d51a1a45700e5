"""Write what is generated: the CustomResourceDefinition, plain and as a template of the chart, and the table of values.

`python charts/generate.py` writes, `python charts/generate.py --check` compares and exits 1 on a difference.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from torchscript_operator.api import crd
from torchscript_operator.api.v1alpha1 import GROUP, PLURAL

ROOT = Path(__file__).resolve().parent.parent
CHART = Path("charts/torchscript-operator")
PLAIN = Path("crds/torchscriptmodels.yaml")
TEMPLATE = CHART / "templates/crds/torchscriptmodels.yaml"
README = CHART / "README.md"
VALUES = CHART / "values.yaml"

HEAD = """\
{{- /* Generated from operator/torchscript_operator/api by `make generate`; do not edit. */}}
{{- if .Values.crds.enabled }}
"""
METADATA = """\
  labels:
    {{- include "torchscript-operator.labels" . | nindent 4 }}
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
"""
TAIL = "{{- end }}\n"
BRACES = '{{ "{{" }}'
"""What Helm turns back into two opening braces."""

TABLE_START = "<!-- Generated from values.yaml by `make generate`; do not edit. -->\n"
TABLE_END = "<!-- End of what is generated. -->\n"
DOCUMENTED = "# -- "
"""Begins the comment on a value, which goes on until the value."""


def template(plain: str) -> str:
    """The definition as a template of the chart: behind a switch, with labels, and kept on an uninstall if so chosen.

    Raises ValueError if the definition does not start as expected.
    """
    body = "".join(line for line in plain.splitlines(keepends=True) if not line.startswith("#")).replace("{{", BRACES)
    name = f"  name: {PLURAL}.{GROUP}\n"
    before, found, after = body.partition(name)
    if not found or not before.endswith("metadata:\n"):
        msg = f"the definition has no line {name!r} right below its metadata"
        raise ValueError(msg)
    return f"{HEAD}{before}{found}{METADATA}{after}{TAIL}"


def documented(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Path and comment of every value of a values.yaml that has a comment."""
    path: tuple[str, ...] = ()
    words: list[str] = []
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith(DOCUMENTED):
            words = [bare.removeprefix(DOCUMENTED)]
        elif bare.startswith("#"):
            words += [bare.removeprefix("# ")] if words else []
        elif key := re.match(r"( *)([A-Za-z]\w*):", line):
            path = (*path[: len(key[1]) // 2], key[2])
            if words:
                yield path, " ".join(words)
            words = []
        else:
            words = []


def leaves(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all values that hold no further ones."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    else:
        yield path


def table(text: str) -> str:
    """The table of all values. Raises ValueError for one that nothing is said about."""
    values = yaml.safe_load(text)
    comments = dict(documented(text))
    for leaf in leaves(values):
        if not any(leaf[:depth] in comments for depth in range(1, len(leaf) + 1)):
            msg = f"{VALUES}: {'.'.join(leaf)} has no comment that begins with {DOCUMENTED!r}"
            raise ValueError(msg)
    rows = ["| Value | Default | Meaning |", "|---|---|---|"]
    for path, comment in comments.items():
        value = values
        for key in path:
            value = value[key]
        rows.append(f"| `{'.'.join(path)}` | `{json.dumps(value)}` | {comment} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str, values: str) -> str:
    """The README with the table between its two marks. Raises ValueError where they are missing."""
    before, start, rest = readme.partition(TABLE_START)
    _, end, after = rest.partition(TABLE_END)
    if not start or not end:
        msg = f"{README} lacks the marks that the table of values goes between"
        raise ValueError(msg)
    return f"{before}{start}\n{table(values)}\n{end}{after}"


def contents(root: Path) -> Mapping[Path, str]:
    """What every generated file should hold."""
    plain = crd.render()
    readme = with_table((root / README).read_text(), (root / VALUES).read_text())
    return {PLAIN: plain, TEMPLATE: template(plain), README: readme}


def stale(root: Path) -> list[Path]:
    """Generated files that do not hold what they should."""

    def differs(path: Path, text: str) -> bool:
        return not (root / path).is_file() or (root / path).read_text() != text

    return [path for path, text in contents(root).items() if differs(path, text)]


def main() -> int:
    """Write the files, or with --check only compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")
    if parser.parse_args().check:
        found = stale(ROOT)
        for path in found:
            sys.stderr.write(f"{path} is out of date: run `make generate`\n")
        return 1 if found else 0
    for path, text in contents(ROOT).items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
