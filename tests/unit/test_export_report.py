import json
import re

import pytest

from tests.unit.artifacts import TOLERANCES, figure, manifest
from torchscript_operator.artifact.manifest import Manifest, Parity, Pooling, SourceIdentity
from torchscript_operator.export.report import Report


def report(found: Manifest | None = None, *, published: bool = True) -> Report:
    return Report(found or manifest(), published, samples=3, seconds={"load": 1.2345, "trace": 2.0})


def failed() -> Manifest:
    outputs = (figure("logits"), figure("hidden", passed=False))
    return manifest(parity=Parity(verdict="Failed", tolerances=TOLERANCES, outputs=outputs))


def test_page_needs_no_network() -> None:
    page = report().to_html().decode()

    assert not re.search(r"<script|<link|<img|@import|url\(|https?://", page)


def test_page_of_a_passed_export_says_so() -> None:
    page = report().to_html().decode()

    assert "Parity passed" in page
    assert "over 8 compared rows" in page
    assert "load" in page
    assert "1.23" in page


@pytest.mark.parametrize(("published", "said"), [(True, "published all the same"), (False, "was not published")])
def test_page_of_a_failed_export_says_why_first(published: bool, said: str) -> None:
    page = report(failed(), published=published).to_html().decode()

    assert "Do not roll this out: hidden at b1-s8 differs by up to 0.5" in page
    assert said in page
    assert page.index("<td>hidden</td>") < page.index("<td>logits</td>")


def test_what_came_from_outside_is_escaped() -> None:
    source = SourceIdentity(location="s3://<script>alert(1)</script>", files_digest="f")
    page = report(manifest(source=source, architecture="<b>Bert")).to_html().decode()

    assert "<script" not in page
    assert "<b>" not in page


def test_page_names_the_pooling() -> None:
    pooling = Pooling(mode="mean", normalize=True, origin="default")

    assert "mean, normalised (default)" in report(manifest(pooling=pooling)).to_html().decode()


def test_json_holds_the_manifest_and_the_timings() -> None:
    value = json.loads(report(failed(), published=False).to_json())

    assert value["published"] is False
    assert value["seconds"] == {"load": 1.234, "trace": 2.0}
    assert value["manifest"]["parity"]["verdict"] == "Failed"
