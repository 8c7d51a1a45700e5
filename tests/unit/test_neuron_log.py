"""torch-neuron's log: every documented line is read as documented, and what is not whole or not said is a failure."""

import logging

import pytest

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.export.backends.neuron_log import LOGGER_NAME, NeuronLog, reading

OPERATORS = "Number of arithmetic operators (post-compilation) before = 565, compiled = 548, percent compiled = 96.99%"
CREATED = "The neuron partitioner created 1 sub-graphs"
COMPILED = (
    "Neuron successfully compiled 1 sub-graphs, Total fused subgraphs = 1, "
    "Percent of model sub-graphs successfully compiled = 100.0%"
)
LISTS = (
    "Compiled these operators (and operator counts) to Neuron:",
    " => aten::matmul: 12",
    "Not compiled operators (and operator counts) to Neuron:",
    " => aten::embedding: 3 [not supported]",
    " => aten::size: 2",
)
WHOLE = (OPERATORS, CREATED, COMPILED, *LISTS)
FALLBACK = "torch.neuron.trace failed on _NeuronGraph$698; falling back to native python function call"


def log_of(*lines: str) -> NeuronLog:
    log = NeuronLog()
    for line in lines:
        log.read(line)
    return log


def problem(*lines: str) -> tuple[FailureReason, str]:
    found = log_of(*lines).problem()
    assert found is not None
    return found.reason, found.message


def test_whole_compilation_is_reported() -> None:
    report = log_of(*WHOLE).report("b1-s128")
    assert (report.shape, report.subgraphs) == ("b1-s128", 1)
    assert (report.operators, report.compiled_operators) == (565, 548)


def test_operators_left_on_the_cpu_are_those_of_the_second_list() -> None:
    log = log_of(*WHOLE)
    assert log.report("b1-s128").cpu_operators == {"aten::embedding": 3, "aten::size": 2}
    assert log.unsupported == ["aten::embedding"]


def test_lists_in_one_record_are_read_as_well() -> None:
    log = log_of(OPERATORS, CREATED, COMPILED, "\n".join(LISTS))
    assert log.report("b1-s128").cpu_operators == {"aten::embedding": 3, "aten::size": 2}


def test_lines_may_carry_level_and_logger() -> None:
    assert log_of(*(f"INFO:Neuron:{line}" for line in WHOLE)).problem() is None


def test_share_of_operators_is_no_gate() -> None:
    assert log_of(OPERATORS.replace("548", "1"), CREATED, COMPILED).problem() is None


@pytest.mark.parametrize(
    ("lines", "reason", "words"),
    [
        ((), FailureReason.COMPILATION_FAILED, "does not say how many"),
        ((OPERATORS, CREATED, *LISTS), FailureReason.COMPILATION_FAILED, "does not say how many"),
        (
            (CREATED, COMPILED.replace("Total fused subgraphs = 1", "Total fused subgraphs = 2")),
            FailureReason.COMPILATION_FAILED,
            "Only 1 of 2",
        ),
        ((CREATED.replace("1", "3"), COMPILED), FailureReason.COMPILATION_FAILED, "Only 1 of 3"),
        (
            (COMPILED.replace("compiled 1", "compiled 0").replace("= 1,", "= 0,"),),
            FailureReason.COMPILATION_FAILED,
            "Only 0 of 0",
        ),
        ((*WHOLE, FALLBACK), FailureReason.COMPILATION_FAILED, "_NeuronGraph$698"),
        (("Compile command returned: -9", FALLBACK, *WHOLE), FailureReason.OUT_OF_MEMORY, "returned -9"),
        (("Compile command returned: 1", *WHOLE), FailureReason.COMPILATION_FAILED, "returned 1"),
        (
            (*WHOLE, "No operator is placed on Neuron runtime; returning a CPU trace"),
            FailureReason.COMPILATION_FAILED,
            "No operator is placed",
        ),
    ],
    ids=[
        "silence",
        "no summary",
        "fewer than fused",
        "fewer than created",
        "none",
        "fallback",
        "killed",
        "compiler's error",
        "nothing placed",
    ],
)
def test_what_is_not_whole_is_a_failure(lines: tuple[str, ...], reason: FailureReason, words: str) -> None:
    found, message = problem(*lines)
    assert found is reason
    assert words in message
    with pytest.raises(WorkerError):
        log_of(*lines).report("b1-s128")


def test_compiler_that_returned_zero_has_not_failed() -> None:
    assert log_of("Compile command returned: 0", *WHOLE).problem() is None


def test_model_without_a_supported_operator_names_those_that_are_not() -> None:
    found = log_of(*LISTS).nothing("No sub-graph was compiled")
    assert (found.reason, found.message) == (
        FailureReason.UNSUPPORTED_OPERATOR,
        "No sub-graph was compiled; not supported: aten::embedding.",
    )


def test_logger_is_read_whatever_its_level_and_left_as_it_was() -> None:
    logger = logging.getLogger(LOGGER_NAME)
    logger.setLevel(logging.ERROR)
    logger.disabled = True
    try:
        with reading() as log:
            logger.info(COMPILED)
        assert (log.compiled, logger.level, logger.disabled, logger.handlers) == (1, logging.ERROR, True, [])
    finally:
        logger.setLevel(logging.NOTSET)
        logger.disabled = False
