"""report.html: the verdict in words first, then what it rests on. Everything that came from outside is escaped."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from torchscript_operator.artifact.manifest import Candidate
from torchscript_operator.artifact.parity import worst_first
from torchscript_operator.export import report_plots

if TYPE_CHECKING:
    from torchscript_operator.export.evidence import Distribution
    from torchscript_operator.export.report import Report

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fcfcfd; --card: #ffffff; --line: #e0e3e6; --soft: #60666c;
  --good: #18794e; --goodback: #e9f6ee; --bad: #c62a2f; --badback: #fdecec; --accent: #3358d4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #eceef0; --paper: #121416; --card: #1a1d1f; --line: #34383c; --soft: #9aa1a8; --good: #4cc38a;
    --goodback: #12291f; --bad: #ff8589; --badback: #331719; --accent: #849dff; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 62rem; padding: 1.5rem 1rem 4rem; overflow-wrap: break-word; }
header { border-radius: .75rem; padding: 1.25rem 1.5rem; border-left: .4rem solid; }
header.good { background: var(--goodback); border-color: var(--good); }
header.bad { background: var(--badback); border-color: var(--bad); }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } header p { margin: .35rem 0 0; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; } h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { margin: .5rem 0; max-width: 46rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; } tbody th { font-weight: 500; width: 15rem; }
td { font-variant-numeric: tabular-nums; } tbody th + td { overflow-wrap: anywhere; }
.wide { overflow-x: auto; } .cards td { white-space: nowrap; }
.cards td.long { white-space: normal; overflow-wrap: anywhere; min-width: 14rem; width: 50%; }
.good { color: var(--good); } .bad { color: var(--bad); } td.good, td.bad { font-weight: 600; }
header.good, header.bad { color: var(--ink); } .soft { color: var(--soft); font-size: .9rem; }
tr.chosen td:first-child { font-weight: 600; }
svg { width: 100%; max-width: 46rem; display: block; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; } svg text { font: 11px system-ui, sans-serif; fill: var(--soft);
  paint-order: stroke; stroke: var(--card); stroke-width: 3px; }
.axis { fill: none; stroke: var(--line); } .bar { fill: var(--accent); } .bound { stroke: var(--bad);
  stroke-dasharray: 4 3; } svg .boundtext { fill: var(--bad); } .refused { fill: var(--badback); }
.dot.good { fill: var(--good); } .dot.bad { fill: var(--bad); } .ring { fill: none; stroke: var(--good);
  stroke-width: 1.5; }
.share { display: inline-block; height: .6rem; background: var(--accent); border-radius: .15rem; min-width: 1px; }
.timing td:last-child { width: 55%; }
@media (max-width: 40rem) {
  body { padding-top: .75rem; } header { padding: 1rem; }
  .cards thead { display: none; } .cards, .cards tbody, .cards tr, .cards td { display: block; width: 100%; }
  .cards tr { border: 1px solid var(--line); border-radius: .5rem; padding: .35rem .75rem; margin: .6rem 0;
    background: var(--card); }
  .cards td { border: 0; padding: .15rem 0; display: flex; justify-content: space-between; gap: 1rem;
    text-align: right; }
  .cards td::before { content: attr(data-label); color: var(--soft); text-align: left; flex: none; max-width: 50%; }
  .cards td { white-space: normal; } .cards td.long { display: block; text-align: left; width: 100%; }
  .cards td.long::before { display: block; max-width: none; }
  tbody th { width: 9rem; }
}
@media print { header { border: 1px solid; } svg { break-inside: avoid; } }
"""
"""Colours of both schemes; on a phone each row of a wide table becomes a card."""
STAGES = {
    "resolve": "Reading the source",
    "load": "Loading the eager model",
    "golden": "Recording eager's answers",
    "trace": "Compiling",
    "axes": "Finding dynamic axes",
    "parity": "Comparing with eager",
    "precision": "Measuring forms",
    "package": "Writing the files",
    "fetch": "Fetching what was compiled",
    "upload": "Uploading",
}
LONG = {"Text", "Note"}
"""Columns that take a line of their own on a phone."""
NONE = "–"  # noqa: RUF001
KEPT = {True: "kept", False: "broken", None: "not told apart"}
LONGEST_FIGURE = 10
"""Characters of a figure in a table; the JSON has all of them."""


def page(report: "Report") -> str:
    """The whole document."""
    manifest = report.manifest
    title = f"Parity {manifest.parity.verdict.lower()}: {manifest.architecture}, {manifest.task}"
    sections = [_banner(report), _gate(report), _outputs(report), _candidates(report), _distributions(report)]
    sections += [_samples(report), _artifact(report), _timings(report)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{_escape(title)}</title><style>{STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def _banner(report: "Report") -> str:
    manifest = report.manifest
    said = "Yes, this may be rolled out" if report.passed else "No, this should not be rolled out"
    kind = "good" if report.passed else "bad"
    compiled = f"compiled with {manifest.compilation.compiler} in {manifest.precision}"
    what = f"{manifest.architecture} for {manifest.task}, {compiled}"
    texts = "built-in sentences in several languages, and random tokens"
    advice = "None of the texts are yours: for a verdict on your own data, add some to spec.inputs.samples."
    if report.samples:
        texts = f"{report.samples} of your own texts, {texts}"
        advice = ""
    return (
        f'<header class="{kind}"><h1>{said}</h1><p>{_escape(report.answer)}</p>'
        f'<p class="soft">Parity {manifest.parity.verdict.lower()}. {_escape(what)}, from '
        f"{_escape(manifest.source.location)}. Compared on {texts}. {advice}</p></header>"
    )


def _gate(report: "Report") -> str:
    rows = [(bound.name, bound.allowed, bound.found, KEPT[bound.kept], bound.origin) for bound in report.bounds]
    policy = {
        "Enforce": "Policy Enforce: what breaks a bound is never published.",
        "Warn": "Policy Warn: what breaks a bound is published all the same.",
    }[report.manifest.parity.tolerances.policy]
    reason = f"<p>{_escape(report.default.reason)}</p>" if report.default else ""
    table = _table(("Bound", "Allowed", "Worst found", "Verdict", "Set by"), rows)
    return f'<h2>The gate</h2>{table}{reason}<p class="soft">{policy}</p>'


def _outputs(report: "Report") -> str:
    header = ("Output", "Shape", "Rows", "Largest difference", "Largest relative difference", "Smallest cosine")
    rows = [
        (
            output.output,
            output.shape.replace("golden:", "what pods replay at "),
            f"{output.rows:,}",
            output.maximum_absolute_difference,
            output.maximum_relative_difference,
            _short(output.minimum_cosine_similarity),
            output.agreement or NONE,
            str(output.non_finite),
            "passed" if output.passed else "failed",
        )
        for output in worst_first(report.manifest.parity.outputs)
    ]
    table = _table((*header, "Agreement", "NaN or infinite", "Verdict"), rows)
    note = (
        "A relative difference is large wherever eager's value is next to zero; it is held to the sum of both bounds."
    )
    return f'<h2>Compiled against eager</h2>{table}<p class="soft">{note}</p>'


def _candidates(report: "Report") -> str:
    candidates = report.manifest.candidates
    if not candidates:
        return ""
    header = ("Form", "Texts a second", "Threads", "Smallest cosine", "Largest difference", "Verdict", "Note")
    rows = [
        (
            _form(row),
            row.texts_per_second or NONE,
            str(row.threads or NONE),
            _short(row.minimum_cosine_similarity or NONE),
            row.maximum_absolute_difference or NONE,
            {"Passed": "passed", "Failed": "failed", "NotAvailable": "not available"}.get(row.verdict, "not measured"),
            "taken" if row.chosen and report.published else (row.reason or NONE),
        )
        for row in candidates
    ]
    chosen = {index for index, row in enumerate(candidates) if row.chosen}
    plot = report_plots.speed_against_error(
        candidates, float(report.manifest.parity.tolerances.minimum_cosine_similarity)
    )
    explained = (
        "<p>Each form was compiled, compared with eager and timed on the exporting node; "
        "the fastest that passes was taken.</p>"
    )
    return f"<h2>Forms that were measured</h2>{explained}{plot}{_table(header, rows, chosen)}{_kept(candidates)}"


def _kept(candidates: Sequence[Candidate]) -> str:
    rows = next((row.kept_layers for row in candidates if row.chosen and row.kept_layers), ())
    if not rows:
        return ""
    items = "".join(f"<li>{_escape(name)}</li>" for name in rows)
    return f"<details><summary>{len(rows)} layers left in float32</summary><ul>{items}</ul></details>"


def _short(figure: str) -> str:
    """A figure that fits a column; digits are cut, so that it is never shown better than it is."""
    return figure if len(figure) <= LONGEST_FIGURE else f"{figure[:LONGEST_FIGURE]}…"


def _form(row: Candidate) -> str:
    parts = [row.precision, "frozen" if row.frozen else "packed" if row.packed else "as traced"]
    if row.kept_layers:
        parts.append(f"{len(row.kept_layers)} layers in float32")
    return ", ".join(parts)


def _distributions(report: "Report") -> str:
    if report.evidence is None or not report.evidence.distributions:
        return ""
    bound = float(report.manifest.parity.tolerances.absolute_tolerance)
    found = report.evidence.distributions
    names = list(dict.fromkeys(distribution.output for distribution in found))
    plots = [
        f"<h3>{_escape(name)}</h3>" + _histogram([one for one in found if one.output == name], bound) for name in names
    ]
    explained = (
        "<p>Share of values by how far they are from eager, all shapes together. The bound drawn is the absolute "
        "tolerance; large values may differ by the relative tolerance more.</p>"
    )
    return f"<h2>How the differences are distributed</h2>{explained}{''.join(plots)}"


def _histogram(distributions: "Sequence[Distribution]", bound: float) -> str:
    if not any(distribution.counts.any() for distribution in distributions):
        values = sum(distribution.equal for distribution in distributions)
        return f"<p>All {values:,} values are the same as eager's, bit for bit.</p>"
    return report_plots.histogram(distributions, bound)


def _samples(report: "Report") -> str:
    if report.evidence is None or not report.evidence.samples:
        return ""
    samples = report.evidence.samples
    header = ("Text", "What it is", "Largest difference", "Smallest cosine")
    tables = []
    for name in dict.fromkeys(sample.output for sample in samples):
        rows = [
            (
                sample.text or "(special tokens only)",
                f"{sample.origin}, {sample.tokens} tokens, {sample.shape}",
                f"{sample.difference:.3g}",
                f"{sample.cosine:.6f}",
            )
            for sample in samples
            if sample.output == name
        ]
        tables.append(f"<h3>{_escape(name)}</h3>{_table(header, rows)}")
    return f"<h2>Inputs with the largest differences</h2>{''.join(tables)}"


def _artifact(report: "Report") -> str:
    manifest = report.manifest
    axes = {axis.name: axis.kind for axis in manifest.inputs[0].axes}
    facts = {
        "Key": manifest.key,
        "Source": manifest.source.location,
        "Source digest": manifest.source.files_digest,
        "Compiler": " ".join((manifest.compilation.compiler, *manifest.compilation.arguments)),
        "Precision": manifest.precision
        + (", frozen" if manifest.frozen else "")
        + (", packed" if manifest.packed else ""),
        "Shapes": ", ".join(shape.name for shape in manifest.shapes),
        "Axes": ", ".join(f"{name} {kind}" for name, kind in axes.items()),
        "Longest input": f"{manifest.maximum_sequence} tokens",
        "Untied weights": str(manifest.untied_weights),
        "Published": "yes" if report.published else "no",
    }
    if manifest.threads is not None:
        facts["Threads that were fastest"] = str(manifest.threads)
    if manifest.pooling is not None:
        normalized = "normalised" if manifest.pooling.normalize else "not normalised"
        facts["Pooling"] = f"{manifest.pooling.mode}, {normalized} ({manifest.pooling.origin})"
    for compiled in manifest.compiler_reports or ():
        left = ", ".join(f"{name} {count} times" for name, count in compiled.cpu_operators.items()) or "nothing"
        share = f"{compiled.compiled_operators} of {compiled.operators} operators"
        name = " ".join(filter(None, ("On the device,", compiled.part, compiled.shape)))
        facts[name] = f"{share} in {compiled.subgraphs} sub-graphs; left on the CPU: {left}"
    return f"<h2>Artifact</h2>{_pairs(facts)}<h2>Versions</h2>{_pairs(manifest.versions)}"


def _timings(report: "Report") -> str:
    total = sum(report.seconds.values()) or 1.0
    rows = "".join(
        f"<tr><th>{_escape(STAGES.get(name, name))}</th><td>{seconds:.2f} s</td>"
        f'<td><span class="share" style="width:{100 * seconds / total:.1f}%"></span></td></tr>'
        for name, seconds in report.seconds.items()
    )
    return f'<h2>Seconds, {total:.1f} in all</h2><table class="timing"><tbody>{rows}</tbody></table>'


def _pairs(values: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{_escape(name)}</th><td>{_escape(value)}</td></tr>" for name, value in values.items())
    return f"<table><tbody>{rows}</tbody></table>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], chosen: Iterable[int] = ()) -> str:
    head = "".join(f"<th>{_escape(cell)}</th>" for cell in header)
    marked = dict.fromkeys(chosen, ' class="chosen"')
    lines = "".join(
        f"<tr{marked.get(index, '')}>"
        + "".join(_cell(name, cell) for name, cell in zip(header, row, strict=True))
        + "</tr>"
        for index, row in enumerate(rows)
    )
    return f'<div class="wide"><table class="cards"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(name: str, text: str) -> str:
    kinds = [{"passed": "good", "kept": "good", "taken": "good", "failed": "bad", "broken": "bad"}.get(text, "")]
    kinds.append("long" if name in LONG and len(text) > 1 else "")
    style = " ".join(filter(None, kinds))
    attribute = f' class="{style}"' if style else ""
    return f'<td{attribute} data-label="{_escape(name)}">{_escape(text)}</td>'


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
