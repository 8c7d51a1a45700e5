"""tsm inspect and tsm report: what lies in a store, without loading any of it."""

import json
import webbrowser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from torchscript_operator.artifact import digest as digests
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import MANIFEST_NAME, Manifest, TensorSpec
from torchscript_operator.artifact.outcome import CandidateSummary
from torchscript_operator.artifact.store import Store
from torchscript_operator.cli import locations, output
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.formats import Format
from torchscript_operator.cli.locations import REPORT_NAME, Place

HTML_NAME = "report.html"
SHORT = 12
"""Digits of a hash in a table. Those of a key are enough for the command line, too."""
WORST = 5
"""Texts shown in a terminal."""
TEXT_CHARACTERS = 60
Json = dict[str, Any]


def inspect(place: Place, form: Format, console: Console) -> None:
    """Print an artifact's manifest, or the list of a store's artifacts. WorkerError as the store's own."""
    if place.digest is not None:
        _inspect_artifact(place, place.digest, form, console)
    elif place.has_report:
        where = output.place(place.store.uri)
        message = f"{where} holds the report of an export that was refused, and no artifact."
        raise CliError(message, advice=f"Read it: tsm report {where}")
    else:
        _list(place, form, console)


def report(place: Place, form: Format, console: Console, *, browse: bool) -> None:
    """Print an export's report, or open its page in a browser. WorkerError as the store's own."""
    if not place.has_report:
        message = f"{output.place(place.store.uri)} has no {REPORT_NAME}."
        raise CliError(message, advice="`tsm inspect URI` lists a store's artifacts; give one of them.")
    if browse:
        _open(place, console)
        return
    found = _read_report(place.store, REPORT_NAME)
    if form is not Format.TABLE:
        output.write(found, form)
        return
    manifest = _manifest_of(found, place.store.uri)
    verdict = manifest.parity.verdict
    consequence = "published" if found.get("published") else "not published"
    console.print(f"Parity {output.verdict(verdict)}, {consequence}: {escape(_title(manifest))}")
    console.print()
    if answer := found.get("answer"):
        console.print(escape(str(answer)))
        console.print()
    _print_figures(manifest, console)
    if samples := found.get("worstSamples"):
        console.print(_worst(samples))
        console.print()
    bounds = manifest.parity.tolerances
    facts = {
        "bounds": f"|compiled - eager| <= {bounds.absolute_tolerance} + {bounds.relative_tolerance} * |eager|, "
        f"cosine >= {bounds.minimum_cosine_similarity}, agreement >= {bounds.minimum_agreement}, {bounds.policy}",
        "your texts": found.get("samples", "unknown"),
        "versions": _named(manifest.versions),
        "seconds": _named({name: f"{value:.1f}" for name, value in found.get("seconds", {}).items()}),
        "page": f"{output.place(place.store.uri)}/{HTML_NAME} (--open shows it in a browser)",
    }
    console.print(output.pairs(facts))


def decode(encoded: bytes, uri: str) -> Manifest:
    """Read a manifest. WorkerError INVALID_REQUEST for one of another version."""
    try:
        return Manifest.model_validate_json(encoded)
    except ValidationError as error:
        message = f"{uri} holds a manifest that this version cannot read ({error.error_count()} errors)."
        raise WorkerError(FailureReason.INVALID_REQUEST, message) from error


def _inspect_artifact(place: Place, digest: str, form: Format, console: Console) -> None:
    encoded = place.store.read_bytes(MANIFEST_NAME)
    manifest = decode(encoded, place.store.uri)
    if form is not Format.TABLE:
        output.write({"uri": place.store.uri, "digest": digest, "manifest": json.loads(encoded)}, form)
        return
    pooling = manifest.pooling
    facts = {
        "artifact": output.place(place.store.uri),
        "digest": digest,
        "size": output.size(sum(entry.size_bytes for entry in manifest.files)),
        "source": manifest.source.location,
        "source digest": digests.PREFIX + manifest.source.files_digest,
        "task": manifest.task,
        "architecture": manifest.architecture,
        "compiler": " ".join((manifest.compilation.compiler, *manifest.compilation.arguments)),
        "precision": manifest.precision,
        "shapes": ", ".join(shape.name for shape in manifest.shapes),
        "inputs": ", ".join(_tensor(tensor) for tensor in manifest.inputs),
        "outputs": ", ".join(_tensor(tensor) for tensor in manifest.outputs),
        "pooling": f"{pooling.mode}, {'normalised' if pooling.normalize else 'not normalised'}" if pooling else None,
        "longest input": f"{manifest.maximum_sequence} tokens",
        "untied weights": manifest.untied_weights,
        "versions": _named(manifest.versions),
        "parity": f"{manifest.parity.verdict} ({manifest.parity.tolerances.policy})",
    }
    console.print(output.pairs({name: value for name, value in facts.items() if value is not None}))
    console.print()
    _print_figures(manifest, console)
    rows = [
        (escape(entry.name), entry.role, output.size(entry.size_bytes), entry.sha256[:SHORT])
        for entry in manifest.files
    ]
    console.print(output.table(("file", "role", "size", "sha256"), rows, frozenset({"size"})))


def _print_figures(manifest: Manifest, console: Console) -> None:
    console.print(output.figures(manifest.parity.outputs))
    console.print()
    if manifest.candidates:
        console.print(output.candidates(map(CandidateSummary.of, manifest.candidates)))
        console.print()


def _worst(samples: list[Json]) -> Table:
    """The texts that differ most; the page has all of them."""
    rows = [
        (
            escape(str(sample.get("output"))),
            str(sample.get("maximumAbsoluteDifference")),
            escape(str(sample.get("text"))[:TEXT_CHARACTERS]),
        )
        for sample in samples[:WORST]
    ]
    return output.table(("output", "max abs", "worst texts"), rows, frozenset({"max abs"}))


def _list(place: Place, form: Format, console: Console) -> None:
    rows = [_summary(place, key, names) for key, names in sorted(locations.keys(place.store).items())]
    if form is not Format.TABLE:
        output.write({"uri": place.store.uri, "artifacts": rows}, form)
    elif not rows:
        console.print(f"There is no artifact in {escape(output.place(place.store.uri))}.")
        console.print("[dim]`tsm export FILE` makes one.[/]")
    else:
        header = ("key", "task", "architecture", "precision", "parity", "size", "source")
        cells = [
            (
                row["key"][:SHORT],
                *(escape(str(row.get(name, "-"))) for name in ("task", "architecture", "precision")),
                output.verdict(row["parity"]) if "parity" in row else "-",
                output.size(row["sizeBytes"]) if "sizeBytes" in row else "-",
                escape(str(row.get("source", row.get("problem", "-")))),
            )
            for row in rows
        ]
        console.print(output.table(header, cells, frozenset({"size"})))


def _summary(place: Place, key: str, names: frozenset[str]) -> Json:
    row: Json = {"key": key, "published": MANIFEST_NAME in names}
    try:
        if row["published"]:
            encoded = place.store.read_bytes(f"{key}/{MANIFEST_NAME}")
            manifest = decode(encoded, f"{place.store.uri}/{key}")
            row["digest"] = digests.PREFIX + digests.of_bytes(encoded)
            row["sizeBytes"] = sum(entry.size_bytes for entry in manifest.files)
        else:
            manifest = _manifest_of(_read_report(place.store, f"{key}/{REPORT_NAME}"), f"{place.store.uri}/{key}")
    except WorkerError as error:
        # One that cannot be read must not hide the others.
        return row | {"problem": error.message}
    return row | {
        "task": manifest.task,
        "architecture": manifest.architecture,
        "precision": manifest.precision,
        "parity": manifest.parity.verdict,
        "source": manifest.source.location,
    }


def _read_report(store: Store, path: str) -> Json:
    try:
        found = json.loads(store.read_bytes(path))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise WorkerError(FailureReason.INVALID_REQUEST, f"{store.uri}/{path} is no report.")
    return found


def _manifest_of(found: Json, uri: str) -> Manifest:
    return decode(json.dumps(found.get("manifest")).encode(), uri)


def _open(place: Place, console: Console) -> None:
    if place.location.uri.startswith("file:"):
        page = Path(unquote(urlsplit(place.location.uri).path), HTML_NAME)
    else:
        page = locations.cache_folder() / "reports" / f"{place.location.uri.rpartition('/')[2]}.html"
        place.store.download(HTML_NAME, page)
    if webbrowser.open(page.as_uri()):
        console.print(f"Opened {escape(str(page))}")
    else:
        message = "There is no browser to open the report with."
        raise CliError(message, exit_code=1, advice=f"Its page is {page}; without --open it is printed here.")


def _title(manifest: Manifest) -> str:
    return f"{manifest.architecture}, {manifest.task}, {manifest.source.location}"


def _tensor(tensor: TensorSpec) -> str:
    axes = ", ".join(
        f"{axis.name} {axis.kind}" if axis.size is None else f"{axis.name} {axis.size}" for axis in tensor.axes
    )
    return f"{tensor.name} {tensor.dtype} ({axes})"


def _named(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
