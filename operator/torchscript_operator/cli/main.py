"""The command line as a whole: the list of commands, and how each of them ends."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from torchscript_operator import __version__
from torchscript_operator.artifact.failures import CLASSES, WorkerError
from torchscript_operator.cli import advice
from torchscript_operator.cli.commands import change, local, look, page, prepare
from torchscript_operator.cli.errors import USAGE, CliError, InterruptedBySignal

HELP = (
    "Compile a Transformers model to TorchScript, prove that it computes the same, and serve it: in a cluster by the "
    "operator, or on this machine from the same file.\n\n"
    "`tsm init REPOSITORY` writes the file, `tsm plan FILE` says what it would do in the cluster, `tsm run FILE` does "
    "all of it here. `tsm status` shows what is in the cluster; `tsm doctor` checks everything around it."
)
_CLASSES = sorted((known.exit_code, reason.value) for reason, known in CLASSES.items())
EXIT_CODES = (
    f"Exit codes: 0 done; 1 this machine lacks something, or the cluster says no; {USAGE} the command line or the file "
    "is wrong (of plan: 1, and 2 for changes); of wait: 3 stalled, 124 too late; 130 Ctrl-C. "
    "What fails in an export or an artifact has the exit code of the operator's Jobs and pods: "
    f"{', '.join(f'{code} {reason}' for code, reason in _CLASSES)}."
)
INTERRUPTED = 130


class Group(TyperGroup):
    """Ends a command with one message and one exit code, whatever went wrong."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except CliError as error:
            raise _complain(error.message, error.advice, error.exit_code) from error
        except WorkerError as error:
            message = f"{error.reason.value}: {error.message}"
            raise _complain(message, advice.on(error.reason), error.exit_code) from error
        except KeyboardInterrupt as error:
            raise _complain("Interrupted.", "", INTERRUPTED) from error
        except InterruptedBySignal as error:
            raise _complain("Interrupted.", "", error.exit_code) from error


def _complain(message: str, step: str, exit_code: int) -> typer.Exit:
    """Say on standard error what went wrong and what to do; the way to end the process with this exit code."""
    from rich.markup import escape  # noqa: PLC0415

    from torchscript_operator.cli import output  # noqa: PLC0415

    console = output.console(error=True)
    console.print(f"[bold red]error:[/] {escape(message)}")
    if step:
        console.print(escape(step))
    return typer.Exit(exit_code)


app = typer.Typer(
    cls=Group,
    help=HELP,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Drawing help with rich takes longer than all the rest.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's signature
    if wanted:
        typer.echo(f"tsm {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Take what all commands have in common. The group's help is HELP."""


for command in (
    # Without a cluster, in the order in which they are used.
    *(prepare.init, local.run, local.export, local.verify, local.inspect),
    # Of a cluster.
    *(prepare.plan, look.status, look.wait, look.logs, look.report, look.history, page.dashboard),
    *(change.retry, change.rollback, change.suspend, change.resume, prepare.doctor),
):
    app.command(cls=prepare.PlanCommand if command is prepare.plan else None)(command)


if __name__ == "__main__":
    sys.exit(app())
