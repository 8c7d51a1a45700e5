import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.unit.artifacts import TOLERANCES, figure, manifest
from torchscript_operator.artifact.manifest import Candidate, CompilerReport, Manifest, Parity, Pooling, SourceIdentity
from torchscript_operator.artifact.request import Shape
from torchscript_operator.export.evidence import Evidence
from torchscript_operator.export.report import Report
from torchscript_operator.export.report_page import page as html_of


def report(found: Manifest | None = None, *, published: bool = True, evidence: Evidence | None = None) -> Report:
    return Report(found or manifest(), published, 3, {"load": 1.2345, "trace": 2.0}, evidence)


def failed() -> Manifest:
    outputs = (figure("logits"), figure("hidden", passed=False))
    return manifest(parity=Parity(verdict="Failed", tolerances=TOLERANCES, outputs=outputs))


def test_page_needs_no_network() -> None:
    page = html_of(report())

    assert not re.search(r"<script|<link|<img|@import|url\(|https?://", page)


def test_page_of_a_passed_export_says_so() -> None:
    page = html_of(report())

    assert "Parity passed" in page
    assert "over 8 compared rows" in page
    assert "Yes, this may be rolled out" in page
    assert "Loading the eager model" in page
    assert "1.23" in page


@pytest.mark.parametrize(("published", "said"), [(True, "published all the same"), (False, "was not published")])
def test_page_of_a_failed_export_says_why_first(published: bool, said: str) -> None:
    page = html_of(report(failed(), published=published))

    assert "Do not roll this out: hidden at b1-s8 differs by up to 0.5" in page
    assert said in page
    assert "No, this should not be rolled out" in page
    assert page.index(">hidden</td>") < page.index(">logits</td>")


def test_what_came_from_outside_is_escaped() -> None:
    source = SourceIdentity(location="s3://<script>alert(1)</script>", files_digest="f")
    page = html_of(report(manifest(source=source, architecture="<b>Bert")))

    assert "<script" not in page
    assert "<b>" not in page


def test_page_names_the_pooling() -> None:
    pooling = Pooling(mode="mean", normalize=True, origin="default")

    assert "mean, normalised (default)" in html_of(report(manifest(pooling=pooling)))


def gathered(text: str = "hello") -> Evidence:
    evidence = Evidence(lambda _: text)
    ids = np.ones((1, 2), dtype=np.int64)
    expected = np.array([[1.0, 2.0]], dtype=np.float32)
    inputs = {"input_ids": ids, "attention_mask": ids}
    evidence.add("logits", Shape(batch=1, sequence=8), "texts", inputs, expected, expected + np.float32(0.01), None)
    return evidence


CANDIDATES = (
    Candidate(
        precision="bfloat16",
        frozen=True,
        threads=2,
        texts_per_second="120.0",
        minimum_cosine_similarity="0.9995",
        maximum_absolute_difference="0.05",
        verdict="Passed",
        chosen=True,
    ),
    Candidate(
        precision="int8",
        frozen=True,
        threads=2,
        texts_per_second="180.0",
        minimum_cosine_similarity="0.88",
        maximum_absolute_difference="1.1",
        verdict="Failed",
        reason="hidden differs <by far>",
    ),
    Candidate(
        precision="float32",
        frozen=False,
        packed=True,
        threads=2,
        texts_per_second="60.0",
        minimum_cosine_similarity="0.99999",
        maximum_absolute_difference="5e-06",
        verdict="Passed",
    ),
    Candidate(precision="bfloat16", frozen=False, verdict="NotAvailable", reason="this processor has none"),
)


def elements(page: str, kind: str) -> int:
    return len(re.findall(rf"<{kind}[ />]", page))


def parsed(page: str) -> None:
    """Fail for tags that are not closed or are closed in the wrong order."""

    class Checker(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 -- HTMLParser's signature
            if tag != "meta":
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(page)
    assert checker.open == []


def test_page_is_well_formed_with_everything_on_it() -> None:
    parsed(html_of(report(manifest(candidates=CANDIDATES), evidence=gathered())))


def test_differences_are_drawn_for_each_output() -> None:
    page = html_of(report(evidence=gathered()))

    assert "Distribution of the differences of logits" in page
    assert elements(page, "rect") == 1


def test_worst_inputs_are_shown_with_their_text_escaped() -> None:
    page = html_of(report(evidence=gathered("<script>alert(1)</script>")))

    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page


def test_forms_are_listed_and_drawn_by_speed_and_error() -> None:
    page = html_of(report(manifest(candidates=CANDIDATES)))

    assert elements(page, "circle") == 4
    assert page.count("float32, packed") == 2
    assert "hidden differs &lt;by far&gt;" in page
    assert "not available" in page
    assert "bfloat16, frozen (taken)" in page


def test_page_without_a_search_has_no_table_of_forms() -> None:
    assert "Forms that were measured" not in html_of(report())


def test_gate_says_which_bound_broke_and_who_set_it() -> None:
    outputs = (figure(passed=False).model_copy(update={"minimum_cosine_similarity": "0.88"}),)
    found = manifest(parity=Parity(verdict="Failed", tolerances=TOLERANCES, outputs=outputs), precision="bfloat16")

    bounds = {bound.name.partition(",")[0]: (bound.kept, bound.origin) for bound in report(found).bounds}

    assert bounds["Cosine similarity of a row"] == (False, "default")
    assert bounds["Difference of a value"] == (None, "spec.parity")
    assert bounds["NaN or infinite values"] == (True, "always")


def test_gate_blames_single_values_where_nothing_else_broke() -> None:
    bounds = report(failed()).bounds

    assert [(bound.name, bound.kept) for bound in bounds if bound.kept is not True] == [
        ("Difference of a value, at most", False)
    ]


def test_nan_breaks_its_bound() -> None:
    outputs = (
        figure(passed=False).model_copy(
            update={"non_finite": 2, "minimum_cosine_similarity": "nan", "maximum_absolute_difference": "nan"}
        ),
    )
    found = report(manifest(parity=Parity(verdict="Failed", tolerances=TOLERANCES, outputs=outputs)))

    broken = {bound.name for bound in found.bounds if bound.kept is False}
    assert "NaN or infinite values" in broken
    parsed(html_of(found))


def test_json_holds_the_answer_and_the_evidence() -> None:
    value = json.loads(report(evidence=gathered()).to_json())

    assert value["mayRollOut"] is True
    assert value["distributions"][0]["output"] == "logits"
    assert value["worstSamples"][0]["text"] == "hello"


def test_json_holds_the_manifest_and_the_timings() -> None:
    value = json.loads(report(failed(), published=False).to_json())

    assert value["published"] is False
    assert value["seconds"] == {"load": 1.234, "trace": 2.0}
    assert value["manifest"]["parity"]["verdict"] == "Failed"


def test_values_that_are_all_the_same_are_told_and_not_drawn() -> None:
    evidence = Evidence(lambda _: "hello")
    ids = np.ones((1, 2), dtype=np.int64)
    expected = np.array([[1.0, 2.0]], dtype=np.float32)
    inputs = {"input_ids": ids, "attention_mask": ids}
    evidence.add("logits", Shape(batch=1, sequence=8), "texts", inputs, expected, expected, None)

    page = html_of(report(evidence=evidence))

    assert "All 2 values are the same as eager" in page
    assert elements(page, "svg") == 0


def test_page_lists_what_a_compiler_left_on_the_cpu() -> None:
    compiled = CompilerReport(
        shape="b1-s8",
        part="decoder",
        subgraphs=1,
        operators=565,
        compiled_operators=548,
        cpu_operators={"aten::embedding": 3},
    )

    page = html_of(report(manifest(compiler_reports=(compiled,))))

    assert "On the device, decoder b1-s8" in page
    assert "548 of 565 operators in 1 sub-graphs; left on the CPU: aten::embedding 3 times" in page
