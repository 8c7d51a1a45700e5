import numpy as np

from torchscript_operator.artifact.request import Shape
from torchscript_operator.export.evidence import WORST_SAMPLES, Evidence

SHAPE = Shape(batch=2, sequence=3)
INPUTS = {
    "input_ids": np.array([[7, 8, 0], [9, 5, 6]]),
    "attention_mask": np.array([[1, 1, 0], [1, 1, 1]]),
}


def decode(tokens: object) -> str:
    return f"<{tokens}>"


def gathered(difference: np.ndarray, mask: np.ndarray | None = None) -> Evidence:
    evidence = Evidence(decode)
    expected = np.ones_like(difference, dtype=np.float32)
    evidence.add("hidden", SHAPE, "texts", INPUTS, expected, expected + difference.astype(np.float32), mask)
    return evidence


def test_differences_are_counted_by_their_size() -> None:
    difference = np.array([[[0.0, 0.5], [0.0, 0.5], [0.002, 0.0]], [[0.0, 0.0], [0.5, 0.0], [0.0, 0.0]]])
    (found,) = gathered(difference).distributions

    bins = [entry for entry in found.to_json()["bins"] if entry["values"]]
    assert found.equal == 8
    assert [entry["values"] for entry in bins] == [1, 3]
    assert [(float(entry["from"]), float(entry["to"])) for entry in bins] == [(0.001, 0.0032), (0.32, 1.0)]


def test_values_of_padding_do_not_count() -> None:
    difference = np.zeros((2, 3, 2))
    difference[0, 2] = 9.0
    evidence = gathered(difference, INPUTS["attention_mask"].astype(bool))

    assert evidence.distributions[0].counts.sum() == 0
    assert evidence.distributions[0].equal == 10
    assert max(sample.difference for sample in evidence.samples) == 0


def test_worst_inputs_come_first_with_the_text_that_the_model_read() -> None:
    difference = np.zeros((2, 3, 2))
    difference[0, 0, 1], difference[1, 2, 0] = 0.25, 0.5
    samples = gathered(difference, INPUTS["attention_mask"].astype(bool)).samples

    assert [(sample.text, sample.tokens, sample.difference) for sample in samples] == [
        ("<[9, 5, 6]>", 3, 0.5),
        ("<[7, 8]>", 2, 0.25),
    ]
    assert samples[0].cosine < 1


def test_only_the_worst_inputs_are_kept_and_each_once() -> None:
    evidence = Evidence(decode)
    for number in [*range(20), 19]:
        ids = np.full((1, 1), number)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        expected = np.ones((1, 4), dtype=np.float32)
        evidence.add("logits", Shape(batch=1, sequence=1), "texts", inputs, expected, expected + number, None)

    assert [sample.difference for sample in evidence.samples] == [19, 18, 17, 16, 15]
    assert len(evidence.samples) == WORST_SAMPLES


def test_what_cannot_be_compared_is_left_to_the_gate() -> None:
    evidence = Evidence(decode)
    right = np.ones((2, 3), dtype=np.float32)
    broken = right.copy()
    broken[0, 0] = np.nan
    for expected, actual in [
        (None, right),
        (right, None),
        (right, right[:1]),
        (right, broken),
        (right, right.astype(int)),
    ]:
        evidence.add("logits", SHAPE, "texts", INPUTS, expected, actual, None)

    assert evidence.distributions == ()
    assert evidence.samples == ()
