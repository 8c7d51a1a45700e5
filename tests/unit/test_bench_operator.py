"""What the operator's benchmark makes of an audit log, and its plot."""

from pathlib import Path
from xml.etree import ElementTree as ET

import orjson
import pytest

from tests.bench.operator_figures import Call, calls, percentile, read
from tests.bench.operator_plot import svg

MODELS, JOBS, STATUS = "torchscriptmodels", "jobs", "torchscriptmodels/status"


def call(user: str, verb: str, resource: str, name: str, at: float, code: int = 201) -> Call:
    return Call(user, verb, resource, name, code, at, at + 0.5)


def test_run_is_read_from_the_first_object_to_the_last_child() -> None:
    found = [
        call("admin", "create", MODELS, "m0", 10),
        call("admin", "create", MODELS, "m1", 11),
        call("us", "get", MODELS, "m0", 12, 200),
        call("us", "create", JOBS, "m0-export-a", 13),
        call("us", "create", JOBS, "m1-export-a", 14, 409),
        call("us", "create", JOBS, "m1-export-a", 15),
    ]
    run = read(found, "us", MODELS, JOBS)
    assert (run.seconds_to_all, len(run.made)) == (5.5, 2)
    assert run.by_verb == {"get": 1, "create": 3}
    assert run.by_resource["create jobs 409"] == 1


def test_same_user_may_create_objects_and_children() -> None:
    found = [call("admin", "create", MODELS, "m0", 10), call("admin", "create", JOBS, "m0-export", 12)]
    assert read(found, "admin", MODELS, JOBS).seconds_to_all == 2.5


@pytest.mark.parametrize("found", [[], [call("us", "create", JOBS, "m0-export", 12)]], ids=["nothing", "no object"])
def test_log_that_misses_a_part_gives_no_figure(found: list[Call]) -> None:
    with pytest.raises(LookupError, match="audit log"):
        _ = read(found, "us", MODELS, JOBS).seconds_to_all


def test_latency_is_from_the_last_news_of_a_child_to_the_next_status() -> None:
    found = [
        call("job-controller", "update", "jobs/status", "m0-export-a", 10),
        call("us", "patch", STATUS, "m0", 11),
        call("job-controller", "update", "jobs/status", "m0-export-a", 12),
        call("us", "patch", STATUS, "m0", 14),
        call("deployment-controller", "update", "deployments/status", "m0-cpu", 20),
        call("us", "patch", STATUS, "m0", 21),
        call("us", "patch", STATUS, "m0", 30),
    ]
    assert sorted(read(found, "us", MODELS, JOBS).latencies) == [1, 2]


def test_audit_log_is_read_from_a_byte_on_and_only_answers_count(tmp_path: Path) -> None:
    def line(stage: str, name: str) -> bytes:
        event = {
            "stage": stage,
            "verb": "patch",
            "user": {"username": "us"},
            "objectRef": {"resource": MODELS, "subresource": "status", "namespace": "ml", "name": name},
            "responseStatus": {"code": 200},
            "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z",
            "stageTimestamp": "2026-01-01T00:00:01.500000Z",
        }
        return orjson.dumps(event) + b"\n"

    first = line("ResponseComplete", "one")
    path = tmp_path / "audit.log"
    path.write_bytes(first + line("ResponseStarted", "two") + line("ResponseComplete", "three"))
    (found,) = calls(path, len(first))
    assert (found.resource, found.name, found.answered - found.received) == (STATUS, "three", 1.5)


@pytest.mark.parametrize(("share", "wanted"), [(0, 1), (0.5, 3), (0.99, 4)])
def test_percentile(share: float, wanted: float) -> None:
    assert percentile([4, 1, 3, 2], share) == wanted
    assert percentile([], share) is None


def test_plot_is_xml_with_a_point_for_each_figure() -> None:
    drawn = svg({"seconds <&>": {"ready": {100: 1.5, 1000: 12.0}, "jobs": {100: 0.5}}, "CPU": {"cpu": {100: 3.0}}})
    root = ET.fromstring(drawn)  # noqa: S314 -- our own
    assert len(root.findall(".//{*}circle")) == 4
    assert "seconds <&>" in [text.text for text in root.findall(".//{*}text")]
