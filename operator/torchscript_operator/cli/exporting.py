"""tsm export: the Job's own process, with its log shown as progress and its outcome as the answer."""

import importlib.util
import tempfile
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from torchscript_operator.artifact.failures import CLASSES, FailureReason, reason_of_exit_code
from torchscript_operator.artifact.outcome import ExportOutcome
from torchscript_operator.artifact.request import (
    EXPORT_VARIABLE,
    SCRATCH_VARIABLE,
    SOURCE_CACHE_VARIABLE,
    TERMINATION_LOG_VARIABLE,
    ExportRequest,
)
from torchscript_operator.cli import advice, children, locations, output
from torchscript_operator.cli.children import Line, Worker
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.stages import Stages

MODULE = "torchscript_operator.export"
INSTALL = "Install the worker's libraries, from a checkout of torchscript-operator: pip install '.[cli,export,serve]'"
KILLED = 137
"""Exit code after SIGKILL, which is how the kernel ends a process that has no memory left."""


def require(*modules: str) -> None:
    """Raise CliError where this installation cannot export or serve."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise CliError(f"{', '.join(missing)} cannot be imported here.", exit_code=1, advice=INSTALL)


def export(request: ExportRequest, console: Console) -> ExportOutcome:
    """Run an export to its end. CliError only for a worker that died without an outcome."""
    require("torch", "transformers")
    cache = locations.cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    log = children.log_file(cache, request.model, request.target, "export")
    found: list[ExportOutcome] = []
    with tempfile.TemporaryDirectory(prefix="export-", dir=cache) as scratch:
        variables = {
            EXPORT_VARIABLE: request.to_json(),
            SCRATCH_VARIABLE: scratch,
            SOURCE_CACHE_VARIABLE: str(cache / "sources"),
            TERMINATION_LOG_VARIABLE: str(Path(scratch, "termination-log")),
        }
        with children.interruptible(), children.worker(MODULE, variables, log) as running, Stages(console) as stages:
            code = running.follow(lambda line: _see(line, stages, found))
            if code:
                stages.fail()
            else:
                stages.done()
    if found:
        return found[-1]
    raise _died(running, code)


def _see(line: Line, stages: Stages, found: list[ExportOutcome]) -> None:
    # The whole outcome is in the log; the termination message may have been cut.
    outcome = line.fields.get("outcome")
    if outcome is None:
        # Errors are told once, when the export has ended.
        if line.fields.get("level") != "error":
            stages.see(line)
        return
    try:
        found.append(ExportOutcome.model_validate(outcome))
    except ValidationError:
        stages.remark("The worker's outcome cannot be read: it is of another version.")


def _died(running: Worker, code: int) -> CliError:
    if code == KILLED:
        reason = FailureReason.OUT_OF_MEMORY
        return CliError("The export was killed, as the kernel does when memory ends.", code, advice.on(reason))
    reason = reason_of_exit_code(code)
    return CliError(
        f"The export ended with exit code {code} and left no outcome. The end of its log:\n{running.tail()}",
        code or CLASSES[reason].exit_code,
        f"The whole log: {running.log}",
    )


def failure_of(outcome: ExportOutcome, request: ExportRequest) -> CliError:
    """The error that a failed export ends its command with."""
    failure = outcome.failure
    if failure is None:
        msg = "an outcome without a failure is no failed one"
        raise ValueError(msg)
    step = advice.on(failure.reason)
    if failure.reason is FailureReason.PARITY_FAILED and outcome.key:
        step += f"\nThe report: tsm report {output.place(request.store.uri)}/{outcome.key}"
    if failure.reason in {FailureReason.INTERNAL_ERROR, FailureReason.COMPILATION_FAILED}:
        step = f"The log: {children.log_file(locations.cache_folder(), request.model, request.target, 'export')}"
    message = f"{failure.reason.value} in the stage {failure.stage}: {advice.found(failure.message, failure.reason)}"
    return CliError(message, CLASSES[failure.reason].exit_code, step)


def show(outcome: ExportOutcome, request: ExportRequest, console: Console) -> None:
    """Print what an export made, for people."""
    if outcome.parity is not None:
        console.print()
        console.print(output.figures(outcome.parity.outputs))
        console.print()
    if outcome.candidates:
        console.print(output.candidates(outcome.candidates))
        console.print()
    if outcome.artifact is None:
        return
    facts = {
        "target": request.target,
        "artifact": output.place(outcome.artifact.uri),
        "digest": outcome.artifact.digest,
        "size": output.size(outcome.artifact.size_bytes),
        "precision": outcome.precision,
        "parity": outcome.parity.verdict if outcome.parity else "unknown",
        "report": output.place(outcome.parity.report) if outcome.parity and outcome.parity.report else None,
    }
    if outcome.cache_hit:
        console.print(f"[green]✓[/] Exported before: the same source, request and versions ({escape(request.target)}).")
    console.print(output.pairs({name: value for name, value in facts.items() if value is not None}))
