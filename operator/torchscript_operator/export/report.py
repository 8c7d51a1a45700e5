"""The parity report for people: report.json, and report.html, which needs nothing but a browser.

Reports hold timings, so they differ between two runs of one key. That is why they lie beside the artifact, at
`<key>/report.json` and `<key>/report.html`, and are no files of its manifest, whose digest has to be reproducible.
"""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.artifact.parity import describe, worst_first

JSON_NAME = "report.json"
HTML_NAME = "report.html"

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #ffffff; --line: #d8dce0; --soft: #60666c;
  --good: #18794e; --bad: #c62a2f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #eceef0; --paper: #16181a; --line: #34383c; --soft: #9aa1a8; --good: #4cc38a; --bad: #ff8589; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.soft { color: var(--soft); }
"""


@dataclass(frozen=True)
class Report:
    """What an export found."""

    manifest: Manifest
    published: bool
    """Whether the artifact was let through: it passed, or the policy is Warn."""
    samples: int
    """Texts of the user that were compared."""
    seconds: Mapping[str, float]
    """Seconds of each stage so far."""

    def to_json(self) -> bytes:
        """Encode report.json: the manifest with its figures, and what the manifest leaves out."""
        value = {
            "published": self.published,
            "samples": self.samples,
            "seconds": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
            "manifest": self.manifest.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        return json.dumps(value, indent=2, sort_keys=True).encode()

    def to_html(self) -> bytes:
        """Encode report.html. All text that came from outside is escaped."""
        manifest = self.manifest
        passed = manifest.parity.verdict == "Passed"
        title = f"Parity {manifest.parity.verdict.lower()}: {manifest.architecture}, {manifest.task}"
        body = [
            f"<h1>{_escape(title)}</h1>",
            f'<p class="{"good" if passed else "bad"}">{_escape(self._answer())}</p>',
            "<h2>Compiled against eager</h2>",
            self._figures(),
            "<h2>Bounds</h2>",
            _pairs(
                {
                    "Absolute tolerance": manifest.parity.tolerances.absolute_tolerance,
                    "Relative tolerance": manifest.parity.tolerances.relative_tolerance,
                    "Minimum cosine similarity": manifest.parity.tolerances.minimum_cosine_similarity,
                    "Minimum agreement": manifest.parity.tolerances.minimum_agreement,
                    "Policy": manifest.parity.tolerances.policy,
                    "Your sample texts": str(self.samples),
                }
            ),
            "<h2>Artifact</h2>",
            _pairs(self._artifact()),
            "<h2>Versions</h2>",
            _pairs(dict(manifest.versions)),
            "<h2>Seconds</h2>",
            _pairs({name: f"{seconds:.2f}" for name, seconds in self.seconds.items()}),
        ]
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{_escape(title)}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
        ).encode()

    def _answer(self) -> str:
        parity = self.manifest.parity
        rows = sum(output.rows for output in parity.outputs)
        if parity.verdict == "Passed":
            return f"The compiled model gives eager's outputs within the bounds, over {rows} compared rows."
        worst = worst_first(parity.outputs)
        found = describe(worst[0]) if worst else "nothing was compared"
        consequence = (
            "It was published all the same: the policy is Warn." if self.published else "It was not published."
        )
        return f"Do not roll this out: {found}. {consequence} {CLASSES[FailureReason.PARITY_FAILED].advice}"

    def _figures(self) -> str:
        header = (
            "Output",
            "Shape",
            "Rows",
            "Maximum absolute difference",
            "Maximum relative difference",
            "Minimum cosine similarity",
            "Top-1 agreement",
            "NaN or infinite",
            "Verdict",
        )
        rows = [
            (
                output.output,
                output.shape,
                str(output.rows),
                output.maximum_absolute_difference,
                output.maximum_relative_difference,
                output.minimum_cosine_similarity,
                output.agreement or "–",  # noqa: RUF001
                str(output.non_finite),
                "passed" if output.passed else "failed",
            )
            for output in worst_first(self.manifest.parity.outputs)
        ]
        return _table(header, rows)

    def _artifact(self) -> dict[str, str]:
        manifest = self.manifest
        axes = {axis.name: axis.kind for axis in manifest.inputs[0].axes}
        facts = {
            "Key": manifest.key,
            "Source": manifest.source.location,
            "Source digest": manifest.source.files_digest,
            "Compiler": manifest.compilation.compiler,
            "Precision": manifest.precision,
            "Shapes": ", ".join(shape.name for shape in manifest.shapes),
            "Axes": ", ".join(f"{name} {kind}" for name, kind in axes.items()),
            "Longest input": f"{manifest.maximum_sequence} tokens",
            "Untied weights": str(manifest.untied_weights),
        }
        if manifest.pooling is not None:
            normalized = "normalised" if manifest.pooling.normalize else "not normalised"
            facts["Pooling"] = f"{manifest.pooling.mode}, {normalized} ({manifest.pooling.origin})"
        return facts


def _pairs(values: Mapping[str, str]) -> str:
    return _table((), values.items())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "<tr>" + "".join(f"<th>{_escape(cell)}</th>" for cell in header) + "</tr>" if header else ""
    lines = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>{head}{lines}</table></div>'


def _cell(text: str) -> str:
    style = {"passed": ' class="good"', "failed": ' class="bad"'}.get(text, "")
    return f"<td{style}>{_escape(text)}</td>"


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
