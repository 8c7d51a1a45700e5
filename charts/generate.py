"""Write what is generated: the CustomResourceDefinition, plain and as a template of the chart.

`python charts/generate.py` writes, `python charts/generate.py --check` compares and exits 1 on a difference.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from torchscript_operator.api import crd
from torchscript_operator.api.v1alpha1 import GROUP, PLURAL

ROOT = Path(__file__).resolve().parent.parent
CHART = Path("charts/torchscript-operator")
PLAIN = Path("crds/torchscriptmodels.yaml")
TEMPLATE = CHART / "templates/crds/torchscriptmodels.yaml"

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
    # Argo CD heeds the line above where an Application is deleted, but not where it prunes: crds.enabled=false.
    argocd.argoproj.io/sync-options: Prune=false
  {{- end }}
"""
TAIL = "{{- end }}\n"
BRACES = '{{ "{{" }}'
"""What Helm turns back into two opening braces."""


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


def contents() -> Mapping[Path, str]:
    """What every generated file should hold."""
    plain = crd.render()
    return {PLAIN: plain, TEMPLATE: template(plain)}


def stale(root: Path) -> list[Path]:
    """Generated files that do not hold what they should."""

    def differs(path: Path, text: str) -> bool:
        return not (root / path).is_file() or (root / path).read_text() != text

    return [path for path, text in contents().items() if differs(path, text)]


def main() -> int:
    """Write the files, or with --check only compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")
    if parser.parse_args().check:
        found = stale(ROOT)
        for path in found:
            sys.stderr.write(f"{path} is out of date: run `make generate`\n")
        return 1 if found else 0
    for path, text in contents().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
