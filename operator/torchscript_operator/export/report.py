"""The parity report: report.json for programs, and report.html for people, which needs nothing but a browser.

Reports hold timings, so they differ between two runs of one key. That is why they lie beside the artifact, at
`<key>/report.json` and `<key>/report.html`, and are no files of its manifest, whose digest has to be reproducible.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchscript_operator.artifact import tolerances
from torchscript_operator.artifact.failures import CLASSES, FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Manifest, OutputParity
from torchscript_operator.artifact.parity import describe, worst_first
from torchscript_operator.artifact.request import Tolerances

if TYPE_CHECKING:
    from torchscript_operator.export.evidence import Evidence

JSON_NAME = "report.json"
HTML_NAME = "report.html"


@dataclass(frozen=True)
class Bound:
    """One bound of the gate, and what was found."""

    name: str
    allowed: str
    found: str
    kept: bool | None
    """None where it cannot be told from the figures alone."""
    origin: str
    """Where the bound comes from: the spec, or the default of the precision."""


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
    evidence: "Evidence | None" = None
    """How differences are distributed, and the worst inputs; absent where nothing could be compared."""

    def to_json(self) -> bytes:
        """Encode report.json: the answer, the manifest with its figures, and what the manifest leaves out."""
        evidence = self.evidence
        value = {
            "mayRollOut": self.passed,
            "answer": self.answer,
            "published": self.published,
            "samples": self.samples,
            "seconds": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
            "distributions": [found.to_json() for found in evidence.distributions] if evidence else [],
            "worstSamples": [found.to_json() for found in evidence.samples] if evidence else [],
            "manifest": self.manifest.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode()

    @property
    def passed(self) -> bool:
        """Whether the gate let it through."""
        return self.manifest.parity.verdict == "Passed"

    @property
    def rows(self) -> int:
        """Rows compared, all outputs and shapes together."""
        return sum(output.rows for output in self.manifest.parity.outputs)

    @property
    def answer(self) -> str:
        """May I roll this out, and why not: in words."""
        parity = self.manifest.parity
        if self.passed:
            return (
                f"The compiled model gives eager's outputs within the bounds, over {self.rows} compared rows at "
                f"{_count(len(self.manifest.shapes), 'shape')}."
            )
        worst = worst_first(parity.outputs)
        found = describe(worst[0]) if worst else "nothing was compared"
        consequence = (
            "It was published all the same: the policy is Warn." if self.published else "It was not published."
        )
        return f"Do not roll this out: {found}. {consequence} {CLASSES[FailureReason.PARITY_FAILED].advice}"

    @property
    def default(self) -> tolerances.Default | None:
        """The default bounds of what was exported; None for a compiler or precision of another release."""
        try:
            return tolerances.default_of(self.manifest.compilation.compiler, self.manifest.precision)
        except WorkerError:
            return None

    @property
    def bounds(self) -> list[Bound]:
        """The gate, bound by bound, against the worst of all outputs and shapes."""
        parity = self.manifest.parity
        asked = parity.tolerances
        outputs = worst_first(parity.outputs)
        default = self.default
        cosine = min((output.minimum_cosine_similarity for output in outputs), key=_low, default="nan")
        decided = [output.agreement for output in outputs if output.agreement is not None]
        broken = sum(output.non_finite for output in outputs)
        cosine_kept = _low(cosine) >= float(asked.minimum_cosine_similarity)
        agreement = min(decided, key=_low) if decided else None
        agreement_kept = agreement is None or _low(agreement) >= float(asked.minimum_agreement)
        found = outputs[0].maximum_absolute_difference if outputs else "nan"

        def origin(value: str, usual: str | None) -> str:
            return "default" if value == usual else "spec.parity"

        element = f"{asked.absolute_tolerance} + {asked.relative_tolerance} of eager's value"
        same = default is not None and (default.absolute, default.relative) == (
            asked.absolute_tolerance,
            asked.relative_tolerance,
        )
        bounds = [
            Bound(
                "Difference of a value, at most",
                element,
                found,
                _elements_kept(outputs, asked),
                "default" if same else "spec.parity",
            ),
            Bound(
                "Cosine similarity of a row, at least",
                asked.minimum_cosine_similarity,
                cosine,
                cosine_kept,
                origin(asked.minimum_cosine_similarity, default.cosine if default else None),
            ),
        ]
        if agreement is not None:
            bounds.append(
                Bound(
                    "Decisions that agree, at least",
                    asked.minimum_agreement,
                    agreement,
                    agreement_kept,
                    origin(asked.minimum_agreement, default.agreement if default else None),
                )
            )
        bounds.append(Bound("NaN or infinite values", "none", str(broken), broken == 0, "always"))
        bounds.append(Bound("Rows compared", "at least one", str(self.rows), self.rows > 0, "always"))
        return bounds


def _elements_kept(outputs: Sequence[OutputParity], asked: Tolerances) -> bool | None:
    """Whether single values are within bounds, which no figure says: it follows from the verdicts of the outputs."""
    if outputs and all(output.passed for output in outputs):
        return True
    if any(not output.passed and _kept(output, asked) for output in outputs):
        return False
    small = [_low(output.maximum_absolute_difference) for output in outputs]
    return True if small and all(0 <= value <= float(asked.absolute_tolerance) for value in small) else None


def _kept(output: OutputParity, asked: Tolerances) -> bool:
    """Whether an output's cosine, agreement and finiteness are all as asked for."""
    agrees = output.agreement is None or _low(output.agreement) >= float(asked.minimum_agreement)
    cosine = _low(output.minimum_cosine_similarity) >= float(asked.minimum_cosine_similarity)
    return cosine and agrees and not output.non_finite and output.rows > 0


def _low(text: str) -> float:
    """A figure as a number, below all others where it is none."""
    return -1.0 if text == "nan" else float(text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
