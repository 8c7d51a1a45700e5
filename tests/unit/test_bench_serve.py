"""The serving benchmark's texts, its client's reading of answers, and what it makes of its figures."""

import statistics

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.bench.export import model_folder
from tests.bench.serve import plot
from tests.bench.serve_bare import batches
from tests.bench.serve_client import Answer
from tests.bench.serve_figures import AUTO, FLOAT32, best_peer, compared, medians, missed, percentile, ratios
from tests.bench.serve_texts import texts

TOLERANCES = {"absolute": 1e-4, "relative": 1e-4, "minimum_cosine": 0.999}


def test_texts_are_as_long_as_real_ones_and_always_the_same() -> None:
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    lengths = [len(tokenizer.encode(text).ids) for text in texts()]
    assert (len(lengths), statistics.median(lengths), max(lengths)) == (512, 19, 122)
    assert texts() == texts()


@pytest.mark.parametrize("cut", range(1, 70, 7))
@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
def test_client_reads_an_answer_however_it_is_cut(sent: bytes, cut: int) -> None:
    answer = Answer()
    pieces = [sent[start : start + cut] for start in range(0, len(sent), cut)]
    assert [found for piece in pieces if (found := answer.feed(piece)) is not None] == [b"hello"]
    assert answer.status == 200


def test_percentile_is_one_of_the_values() -> None:
    assert [percentile([4, 1, 3, 2], share) for share in (0.0, 0.5, 0.75, 0.99)] == [1, 2, 3, 4]


def test_medians_are_taken_figure_by_figure() -> None:
    assert medians([{"a": 1, "b": 9}, {"a": 3, "b": 7}, {"a": 2, "b": 8}]) == {"a": 2, "b": 8}


def test_answers_are_different_when_any_tolerance_is_exceeded() -> None:
    expected = np.eye(3, dtype=np.float32)
    given = [[1, 0, 0], [0, 1.00005, 0], [0, 0, 1.01], [0, 0], [float("nan"), 0, 0]]
    answers = [(number, str(number).encode()) for number in (0, 1, 2)] + [(0, b"3"), (0, b"4")]
    found = compared(answers, expected, lambda body: given[int(body)], TOLERANCES)
    assert (found["answers"], found["different"]) == (5, 3)
    assert found["maximum_difference"] == pytest.approx(0.01, abs=1e-6)


def server(throughput: float, **more: float) -> dict[str, object]:
    run = {"throughput": throughput, "p50_ms": 50.0, "p99_ms": 100.0, "peak_rss_mb": 500.0, "cold_start_s": 3.0}
    return {"clients": dict.fromkeys(("1", "32"), run | more)}


def test_ratios_are_against_the_fastest_peer_the_limit_and_the_bare_process() -> None:
    servers = {FLOAT32: server(200), AUTO: server(400), "slow": server(50), "fast": server(100)}
    bare = {"p50_ms": 40.0, "cold_start_s": 2.0, "peak_rss_mb": 400.0}
    assert best_peer(servers) == "fast"
    found = ratios(servers, bare, {FLOAT32: 250.0, AUTO: 500.0})
    assert found == {
        "float32_vs_best_peer": 2.0,
        "float32_vs_limit": 0.8,
        "auto_vs_best_peer": 4.0,
        "auto_vs_limit": 0.8,
        "p50_one_client_vs_bare_forward": 1.25,
        "p99_vs_p50": 2.0,
        "cold_start_vs_bare": 1.5,
        "rss_vs_bare": 1.25,
    }
    assert set(missed(found)) == {
        "float32_vs_best_peer",
        "float32_vs_limit",
        "p50_one_client_vs_bare_forward",
        "cold_start_vs_bare",
        "rss_vs_bare",
    }


def test_plot_shows_every_server() -> None:
    drawn = plot({FLOAT32: server(200), "fast": server(100)})
    assert all(name in drawn for name in (FLOAT32, "fast", "texts a second"))


def test_batches_of_outstanding_texts_leave_none_out() -> None:
    given = [str(number) * (number + 1) for number in range(6)]
    source = batches(given, 6, 4)
    first = next(source) + next(source)
    assert sorted(first) == sorted(given)
