"""The search over made-up forms: a clock that passes advance, so that every speed is exact."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.artifacts import TOLERANCES, figure
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Parity
from torchscript_operator.export import search as searching
from torchscript_operator.export.compare import AxisKinds
from torchscript_operator.export.evidence import Evidence
from torchscript_operator.export.logs import Progress
from torchscript_operator.export.package import Built, ModelFile
from torchscript_operator.export.precision import Form
from torchscript_operator.export.search import Clock, Found, Search, Unavailable, speeds, thread_counts

PLAIN, FROZEN, LOW, INT8 = Form(), Form(frozen=True), Form("bfloat16"), Form("int8", frozen=True)


@dataclass
class World:
    """Seconds of a pass for each form, which forms fail, and how many seconds making one takes."""

    seconds: dict[Form, float]
    failing: dict[Form, str] = field(default_factory=dict)
    errors: dict[Form, WorkerError] = field(default_factory=dict)
    making: float = 1.0
    budget: float = 1000.0
    available: int = 2
    slowdown: Callable[[Form, int], float] = lambda _form, _threads: 1.0
    now: float = 0.0
    threads: int = 2
    made: list[Form] = field(default_factory=list)

    def perf_counter(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def make(self, form: Form, folder: Path) -> Built:
        self.made.append(form)
        self.now += self.making
        if form in self.errors:
            raise self.errors[form]
        (folder / "model.pt").write_text(form.label)
        cosine = self.failing.get(form, "0.9999")
        output = figure(passed=form not in self.failing).model_copy(update={"minimum_cosine_similarity": cosine})
        verdict = "Failed" if form in self.failing else "Passed"
        parity = Parity.model_validate({"verdict": verdict, "tolerances": TOLERANCES, "outputs": [output]})
        kinds = AxisKinds("dynamic", "dynamic")
        models = (ModelFile("model.pt", None),)
        return Built(form, folder, models, kinds, parity=parity, evidence=Evidence(lambda _: ""))

    def open_pass(self, built: Built) -> Callable[[], None]:
        assert (built.folder / "model.pt").read_text() == built.form.label

        def run() -> None:
            self.now += self.seconds[built.form] * self.slowdown(built.form, self.threads)

        return run

    def set_threads(self, count: int) -> None:
        self.threads = count


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Found]:
    def search(world: World, *forms: Form | Unavailable) -> Found:
        monkeypatch.setattr(searching, "time", world)
        clock = Clock(world.budget)
        found = Search(world.make, world.open_pass, 10, world.available, world.set_threads, clock, Progress()).run(
            forms or tuple(world.seconds), tmp_path
        )
        assert world.threads == world.available or world.available != 2
        return found

    return search


def verdicts(found: Found) -> list[tuple[str, str]]:
    return [(row.precision, row.verdict) for row in found.candidates]


def test_fastest_form_that_passes_is_taken(run: Callable[..., Found]) -> None:
    found = run(World({PLAIN: 2.0, FROZEN: 1.5, LOW: 1.0}))

    assert found.built.form == LOW
    assert found.candidates[0].chosen
    assert [row.texts_per_second for row in found.candidates] == ["10.0", "6.7", "5.0"]


def test_faster_form_that_fails_parity_is_refused_with_its_figures(run: Callable[..., Found]) -> None:
    found = run(World({PLAIN: 2.0, INT8: 0.5}, failing={INT8: "0.88"}))

    assert found.built.form == PLAIN
    refused = found.candidates[-1]
    assert (refused.verdict, refused.texts_per_second, refused.minimum_cosine_similarity) == ("Failed", "20.0", "0.88")
    assert refused.reason is not None
    assert "0.88" in refused.reason
    assert not refused.chosen


def test_files_of_the_form_taken_are_there(run: Callable[..., Found]) -> None:
    found = run(World({PLAIN: 1.0, FROZEN: 2.0, LOW: 3.0, Form("bfloat16", frozen=True): 4.0}))

    assert (found.built.folder / "model.pt").read_text() == "float32"


def test_scratch_space_holds_the_files_of_two_forms_at_most(run: Callable[..., Found], tmp_path: Path) -> None:
    run(World({PLAIN: 4.0, FROZEN: 3.0, LOW: 2.0, INT8: 1.0}))

    assert len(list(tmp_path.rglob("model.pt"))) == 2


def test_first_form_is_made_even_without_time(run: Callable[..., Found]) -> None:
    world = World({PLAIN: 1.0, LOW: 0.5}, budget=0.1)

    found = run(world)

    assert world.made == [PLAIN]
    assert verdicts(found) == [("float32", "Passed"), ("bfloat16", "NotMeasured")]


def test_budget_is_kept_but_for_the_form_that_is_begun(run: Callable[..., Found]) -> None:
    world = World({PLAIN: 1.0, FROZEN: 1.0, LOW: 1.0, INT8: 1.0}, making=10.0, budget=45.0)

    run(world)

    assert world.made == [PLAIN, FROZEN]
    assert world.now < 45


def test_where_nothing_passes_the_closest_is_reported(run: Callable[..., Found]) -> None:
    world = World({INT8: 1.0, Form("int8", frozen=True, kept_layers=("a",)): 1.0}, failing={})
    world.failing = dict(zip(world.seconds, ("0.7", "0.9"), strict=True))

    found = run(world)

    assert found.built.form.kept_layers == ("a",)
    assert found.built.parity.verdict == "Failed"
    assert found.candidates[0].minimum_cosine_similarity == "0.9"


def test_form_that_does_not_compile_is_a_row_and_not_the_end(run: Callable[..., Found]) -> None:
    error = WorkerError(FailureReason.COMPILATION_FAILED, "no kernel")

    found = run(World({PLAIN: 1.0, INT8: 1.0}, errors={INT8: error}))

    assert found.built.form == PLAIN
    assert (found.candidates[-1].verdict, found.candidates[-1].reason) == ("Failed", "no kernel")


@pytest.mark.parametrize(
    ("form", "reason"),
    [(PLAIN, FailureReason.COMPILATION_FAILED), (INT8, FailureReason.OUT_OF_DISK)],
)
def test_what_says_more_than_that_a_form_is_not_to_be_had_ends_the_search(
    run: Callable[..., Found], form: Form, reason: FailureReason
) -> None:
    with pytest.raises(WorkerError, match="found"):
        run(World({PLAIN: 1.0, INT8: 1.0}, errors={form: WorkerError(reason, "found")}))


def test_form_that_the_node_lacks_is_listed(run: Callable[..., Found]) -> None:
    found = run(World({PLAIN: 1.0}), PLAIN, Unavailable(LOW, "NotAvailable", "no instructions"))

    assert verdicts(found) == [("float32", "Passed"), ("bfloat16", "NotAvailable")]
    assert found.candidates[-1].reason == "no instructions"


def test_fewer_threads_are_taken_where_they_are_faster(run: Callable[..., Found]) -> None:
    found = run(World({PLAIN: 1.0, LOW: 1.0}, available=4, slowdown=lambda _, threads: 1.0 if threads == 2 else 3.0))

    assert found.threads == 2
    assert found.candidates[0].threads == 2


def test_finalists_are_measured_again_in_turns(run: Callable[..., Found]) -> None:
    """Something else ran while the second was measured alone: side by side it is the faster one."""
    world = World({PLAIN: 1.0, LOW: 0.9})
    world.slowdown = lambda form, _: 4.0 if form == LOW and world.now < 60 else 1.0

    assert run(world).built.form == LOW


def busy(seed: int, world: World) -> Callable[[Form, int], float]:
    """A node with other programs: for seconds at a time up to eight times slower, and no two passes alike."""
    chance = random.Random(seed)  # noqa: S311 - repeatable noise
    until, level = 0.0, 1.0

    def slowdown(_form: Form, _threads: int) -> float:
        nonlocal until, level
        while world.now >= until:
            until, level = until + chance.uniform(2, 30), chance.uniform(1, 8)
        return level * chance.uniform(1, 1.6)

    return slowdown


@pytest.mark.parametrize("seed", range(60))
def test_much_faster_form_is_found_on_a_busy_node(run: Callable[..., Found], seed: int) -> None:
    low_frozen = Form("bfloat16", frozen=True)
    world = World({PLAIN: 0.40, LOW: 0.17, low_frozen: 0.16, FROZEN: 0.37}, making=6.0, budget=120.0)
    world.slowdown = busy(seed, world)

    found = run(world)

    assert found.built.form.precision == "bfloat16"
    measured = [row.precision for row in found.candidates if row.verdict == "Passed"]
    assert measured == sorted(measured)


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(1, 1.9)), min_size=1, max_size=9))
def test_speeds_are_compared_within_rounds(rounds: list[tuple[float, float]]) -> None:
    """However slow a round was, and although luck takes nearly all that the second is faster by."""
    slow = [level for level, _ in rounds]
    fast = [level * luck / 2 for level, luck in rounds]

    first, second = speeds(10, [slow, fast])

    assert first < second
    assert second <= first * 2.001


@pytest.mark.parametrize(("available", "counts"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_thread_counts_are_powers_of_two_and_all(available: int, counts: tuple[int, ...]) -> None:
    assert thread_counts(available) == counts


def test_similarity_of_a_refused_form_is_known_to_what_asks_for_the_next(monkeypatch: Any, tmp_path: Path) -> None:
    world = World({PLAIN: 1.0, INT8: 1.0}, failing={INT8: "0.88"})
    monkeypatch.setattr(searching, "time", world)
    search = Search(world.make, world.open_pass, 10, 2, world.set_threads, Clock(1000), Progress())
    seen = []

    def forms() -> Any:
        for form in world.seconds:
            yield form
            seen.append(search.similarity_of(form))

    search.run(forms(), tmp_path)

    assert seen == [None, 0.88]
