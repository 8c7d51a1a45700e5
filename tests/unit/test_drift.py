"""Whether a live child is what was applied."""

import copy
from typing import Any

import pytest

from tests.unit.world import World
from torchscript_operator.controller.drift import contains, drifted
from torchscript_operator.controller.model import APPLIED_ANNOTATION


def deployment() -> Any:
    world = World()
    world.serves()
    return world.deployments["minilm-cpu"]


@pytest.mark.parametrize(
    ("live", "wanted"),
    [
        ({"a": 1, "defaulted": 2}, {"a": 1}),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2]}}),
        ({}, {"env": [], "resources": {}, "value": ""}),
        ({"limits": {"cpu": "500m"}}, {"limits": {"cpu": "0.5"}}),
        (
            {"requests": {"memory": "1Gi", "aws.amazon.com/neuron": "1"}},
            {"requests": {"memory": "1024Mi", "aws.amazon.com/neuron": 1}},
        ),
        ([{"name": "injected"}, {"name": "ours", "more": 1}], [{"name": "ours"}]),
        ([{"mountPath": "/b", "name": "v"}, {"mountPath": "/a", "name": "v"}], [{"mountPath": "/a", "name": "v"}]),
        ([{"uid": "1", "name": "x"}, {"uid": "2", "name": "x"}], [{"uid": "2", "name": "x"}]),
        ({}, {"paused": False}),
        ({"selector": {"matchLabels": {"a": "1"}}}, {"selector": {"matchLabels": {"a": "1"}, "matchExpressions": []}}),
    ],
)
def test_live_value_contains_what_is_wanted(live: Any, wanted: Any) -> None:
    assert contains(live, wanted)


@pytest.mark.parametrize(
    ("live", "wanted"),
    [
        ({"a": 1}, {"a": 2}),
        ({}, {"a": 1}),
        ({}, {"automount": False}),
        ({}, {"replicas": 0}),
        ({}, {"paused": True}),
        ({"paused": True}, {"paused": False}),
        ({"a": "0.5"}, {"a": "500m"}),
        ([1, 2], [1]),
        ([{"key": "a"}, {"key": "b"}], [{"key": "a"}]),
        ([{"name": "ours", "value": "theirs"}], [{"name": "ours", "value": "ours"}]),
        ([], [{"name": "ours"}]),
        ("text", {"a": 1}),
        ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "no quantity"}}),
        ({"selector": {"app": "a", "more": "b"}}, {"selector": {"app": "a"}}),
        ({"selector": {"matchLabels": {"app": "a", "more": "b"}}}, {"selector": {"matchLabels": {"app": "a"}}}),
        ({"labelSelector": {"matchLabels": {}, "matchExpressions": [{}]}}, {"labelSelector": {"matchLabels": {}}}),
        ({"nodeSelector": {"pool": "a", "more": "b"}}, {"nodeSelector": {"pool": "a"}}),
        ({"secretKeyRef": {"name": "a", "optional": True}}, {"secretKeyRef": {"name": "a"}}),
    ],
)
def test_live_value_lacks_what_is_wanted(live: Any, wanted: Any) -> None:
    assert not contains(live, wanted)


def test_absent_child_has_drifted() -> None:
    assert drifted(None, deployment())


def test_applied_child_has_not_drifted() -> None:
    assert not drifted(deployment(), deployment())


def test_child_that_was_applied_from_something_else_has_drifted() -> None:
    live = deployment()
    live["metadata"]["annotations"][APPLIED_ANNOTATION] = "other"
    assert drifted(live, deployment())


def test_child_that_lost_its_annotations_has_drifted() -> None:
    live = deployment()
    del live["metadata"]["annotations"]
    assert drifted(live, deployment())


@pytest.mark.parametrize("field", ["replicas", "strategy", "template", "progressDeadlineSeconds"])
def test_child_that_was_edited_by_hand_has_drifted(field: str) -> None:
    live = copy.deepcopy(deployment())
    del live["spec"][field]
    assert drifted(live, deployment())
