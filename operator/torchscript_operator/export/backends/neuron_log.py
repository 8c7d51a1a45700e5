"""torch-neuron's log, the only place where it says what it left on the CPU: it falls back silently and returns.

The lines are those of AWS's documentation. What is not found in them counts as a failure, never as success.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import CompilerReport

LOGGER_NAME = "Neuron"
CREATED = re.compile(r"The neuron partitioner created (\d+) sub-graphs")
COMPILED = re.compile(r"Neuron successfully compiled (\d+) sub-graphs, Total fused subgraphs = (\d+)")
OPERATORS = re.compile(r"Number of arithmetic operators \(post-compilation\) before = (\d+), compiled = (\d+)")
GRAPH_FAILED = re.compile(r"torch\.neuron\.trace failed on (\S+?);? ")
RETURNED = re.compile(r"Compile command returned: (-?\d+)")
NOTHING_PLACED = "No operator is placed on Neuron runtime"
ON_DEVICE = "Compiled these operators"
ON_CPU = "Not compiled operators"
OPERATOR = re.compile(r"=>\s*(\S+): (\d+)(\s*\[not supported\])?")
OUT_OF_MEMORY_CODE = -9
"""SIGKILL: the kernel's answer to a compiler that takes more memory than there is."""
LISTED = 8
"""Operators named in a message."""


@dataclass
class NeuronLog:
    """What the log of one call of torch_neuron.trace has said so far."""

    created: int | None = None
    compiled: int | None = None
    total: int | None = None
    operators: int | None = None
    compiled_operators: int | None = None
    cpu_operators: dict[str, int] = field(default_factory=dict)
    unsupported: list[str] = field(default_factory=list)
    failed_graphs: list[str] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    """Exit codes of the compiler other than 0."""
    nothing_placed: bool = False
    _listing_cpu: bool = False

    def read(self, message: str) -> None:
        """Take in one record, which may hold several lines."""
        for line in message.splitlines():
            self._read_line(line)

    def _read_line(self, line: str) -> None:
        if found := OPERATOR.search(line):
            if self._listing_cpu:
                self.cpu_operators[found[1]] = int(found[2])
                self.unsupported += [found[1]] if found[3] else []
            return
        if line.strip():
            self._listing_cpu = line.lstrip().startswith(ON_CPU)
        if found := CREATED.search(line):
            self.created = int(found[1])
        if found := COMPILED.search(line):
            self.compiled, self.total = int(found[1]), int(found[2])
        if found := OPERATORS.search(line):
            self.operators, self.compiled_operators = int(found[1]), int(found[2])
        if found := GRAPH_FAILED.search(line):
            self.failed_graphs.append(found[1])
        if (found := RETURNED.search(line)) and int(found[1]) != 0:
            self.returned.append(int(found[1]))
        self.nothing_placed |= NOTHING_PLACED in line

    def problem(self) -> WorkerError | None:
        """Why the compiler's work is not whole, by what it logged; None when every sub-graph is compiled."""
        if OUT_OF_MEMORY_CODE in self.returned:
            found = "The Neuron compiler was killed (it returned -9), most likely for want of memory."
            return WorkerError(FailureReason.OUT_OF_MEMORY, found)
        if self.nothing_placed:
            named = f"; not supported: {', '.join(self.unsupported[:LISTED])}" if self.unsupported else ""
            message = f"No operator is placed on the Neuron runtime, so that all would run on the CPU{named}."
            return WorkerError(FailureReason.COMPILATION_FAILED, message)
        if self.failed_graphs or self.returned:
            failed = ", ".join(self.failed_graphs[:LISTED]) or "a sub-graph"
            code = f", which returned {self.returned[0]}" if self.returned else ""
            message = f"The Neuron compiler{code} failed on {failed}, which would run on the CPU."
            return WorkerError(FailureReason.COMPILATION_FAILED, message)
        if self.compiled is None or self.total is None:
            message = "torch-neuron's log does not say how many sub-graphs were compiled, so nothing is known of them."
            return WorkerError(FailureReason.COMPILATION_FAILED, message)
        wanted = max(self.total, self.created or 0)
        if self.compiled == wanted and wanted > 0:
            return None
        message = f"Only {self.compiled} of {wanted} sub-graphs were compiled; the others would run on the CPU."
        return WorkerError(FailureReason.COMPILATION_FAILED, message)

    def nothing(self, found: str) -> WorkerError:
        """The failure of a model of which nothing was compiled: for unsupported operators where the log names any."""
        if not self.unsupported:
            return WorkerError(FailureReason.COMPILATION_FAILED, f"{found}.")
        named = ", ".join(self.unsupported[:LISTED])
        return WorkerError(FailureReason.UNSUPPORTED_OPERATOR, f"{found}; not supported: {named}.")

    def report(self, shape: str) -> CompilerReport:
        """What goes into the manifest. Raises the problem, if there is one."""
        if (problem := self.problem()) is not None:
            raise problem
        return CompilerReport(
            shape=shape,
            subgraphs=self.compiled or 0,
            operators=self.operators,
            compiled_operators=self.compiled_operators,
            cpu_operators=dict(sorted(self.cpu_operators.items())),
        )


class _Reader(logging.Handler):
    def __init__(self, log: NeuronLog) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.read(record.getMessage())


@contextmanager
def reading() -> Iterator[NeuronLog]:
    """Read the compiler's logger while a block runs; its lines go on to the Job's own log as well."""
    log = NeuronLog()
    logger = logging.getLogger(LOGGER_NAME)
    reader, level, disabled = _Reader(log), logger.level, logger.disabled
    logger.addHandler(reader)
    # A level or a switch set elsewhere would hide the lines, and their absence must mean that they were not written.
    logger.setLevel(logging.INFO)
    logger.disabled = False
    try:
        yield log
    finally:
        logger.removeHandler(reader)
        logger.setLevel(level)
        logger.disabled = disabled
