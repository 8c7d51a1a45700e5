"""The command line: options, and one call for each command. What takes long to import is imported when it is used."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from torchscript_operator import __version__
from torchscript_operator.artifact.failures import CLASSES, WorkerError
from torchscript_operator.cli import advice
from torchscript_operator.cli.errors import USAGE, CliError, InterruptedBySignal
from torchscript_operator.cli.formats import Format

if TYPE_CHECKING:
    from torchscript_operator.artifact.outcome import ExportOutcome
    from torchscript_operator.artifact.request import ExportRequest, StoreLocation
    from torchscript_operator.cli.locations import Place
    from torchscript_operator.cli.requests import Overrides

HELP = (
    "Compile a Transformers model to TorchScript, prove that it computes the same, and serve it: on this machine, from "
    "the file that the Kubernetes operator takes.\n\n"
    "`tsm run FILE` does all of it. Artifacts go to a folder; nothing else is changed."
)
_CLASSES = sorted((known.exit_code, reason.value) for reason, known in CLASSES.items())
EXIT_CODES = (
    f"Exit codes: 0 done; 1 this machine lacks something; {USAGE} the command line or the file is wrong; 130 Ctrl-C. "
    "What fails in an export or an artifact has the exit code of the operator's Jobs and pods: "
    f"{', '.join(f'{code} {reason}' for code, reason in _CLASSES)}."
)
INTERRUPTED = 130

File = Annotated[str, typer.Argument(metavar="FILE", help="YAML file with a TorchScriptModel; - reads standard input.")]
Name = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Which model, where the file has several.")]
Source = Annotated[
    Path | None,
    typer.Option(
        "--source",
        metavar="FOLDER",
        help="Model folder (config.json, tokenizer, safetensors) in place of spec.source.",
        exists=True,
        file_okay=False,
    ),
]
Samples = Annotated[
    Path | None,
    typer.Option(
        "--samples",
        metavar="FILE",
        help="Texts to measure parity on, one a line, in place of spec.inputs.samples.",
        exists=True,
        dir_okay=False,
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="TSM_STORE",
        metavar="FOLDER|s3://…",
        help="Where artifacts lie.",
        show_default="torchscript-operator/artifacts in $XDG_DATA_HOME or ~/.local/share",
    ),
]
Endpoint = Annotated[
    str | None, typer.Option("--endpoint", metavar="URL", help="URL of an S3-compatible server; AWS when absent.")
]
Region = Annotated[str | None, typer.Option("--region", metavar="REGION", help="AWS region of the store's bucket.")]
Uri = Annotated[str, typer.Argument(metavar="URI", help="s3://…, a folder, or the first digits of a key in the store.")]
Output = Annotated[
    Format, typer.Option("--output", "-o", metavar="table|json|yaml", help="For people, or for programs.")
]


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


@app.command()
def run(  # noqa: PLR0913 - one parameter for each option
    file: File,
    *,
    name: Name = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="NAME", help="Which target; the first served one by default.")
    ] = None,
    source: Source = None,
    samples: Samples = None,
    store: Store = None,
    endpoint: Endpoint = None,
    region: Region = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8080,
    grpc_port: Annotated[
        int | None,
        typer.Option("--grpc-port", metavar="PORT", min=0, max=65535, help="Answer gRPC, too, on this port."),
    ] = None,
) -> None:
    """Export, prove and serve a model on this machine.

    The same file and the same code as in a cluster; ends with Ctrl-C. What was exported before is served at once.
    """
    from torchscript_operator.cli import exporting, files, output, requests, serving  # noqa: PLC0415

    console = output.console(error=True)
    model = files.read_model(file, name)
    chosen = files.served_target(model, target)
    wanted = requests.export_request(model, chosen, _overrides(source, samples, _location(store, endpoint, region)))
    exporting.require("torch", "transformers", "uvicorn")
    address = serving.Address(host, port, grpc_port)
    address.check()
    outcome = _export(wanted, console)
    exporting.show(outcome, wanted, console)
    if outcome.artifact is None:
        raise CliError("The export ended without an artifact.", exit_code=1)
    request = requests.serve_request(wanted, model, outcome.artifact)
    serving.serve(request, wanted.task, address, console)


@app.command()
def export(  # noqa: PLR0913 - one parameter for each option
    file: File,
    *,
    name: Name = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="NAME", help="One target; all of them by default.")
    ] = None,
    source: Source = None,
    samples: Samples = None,
    store: Store = None,
    endpoint: Endpoint = None,
    region: Region = None,
    form: Output = Format.TABLE,
) -> None:
    """Export and prove a model's targets.

    Stops at the first that fails. With -o json, prints for each target what a Job tells the operator.
    """
    from torchscript_operator.cli import exporting, files, output, requests  # noqa: PLC0415

    model = files.read_model(file, name)
    overrides = _overrides(source, samples, _location(store, endpoint, region))
    wanted = [requests.export_request(model, each, overrides) for each in files.chosen_targets(model, target)]
    progress, answer = output.console(error=True), output.console()
    outcomes = []
    try:
        for request in wanted:
            outcome = exporting.export(request, progress)
            outcomes.append(
                {"target": request.target, **outcome.model_dump(mode="json", by_alias=True, exclude_none=True)}
            )
            if form is Format.TABLE:
                exporting.show(outcome, request, answer)
            if outcome.failure is not None:
                raise exporting.failure_of(outcome, request)
    finally:
        if form is not Format.TABLE and outcomes:
            output.write({"exports": outcomes}, form)


@app.command()
def verify(
    uri: Uri,
    *,
    digest: Annotated[
        str | None,
        typer.Option("--digest", metavar="sha256:…", help="What the manifest must be; as the store has it by default."),
    ] = None,
    store: Store = None,
    endpoint: Endpoint = None,
    region: Region = None,
    form: Output = Format.TABLE,
) -> None:
    """Check an artifact on this machine.

    Checks every digest, loads the model, and replays eager's recorded outputs, as a pod does before it is Ready.
    """
    from torchscript_operator.cli import output, verifying  # noqa: PLC0415

    place = _place(uri, store, endpoint, region)
    verifying.verify(place, digest, form, output.console(), output.console(error=True))


@app.command()
def inspect(
    uri: Annotated[
        str | None, typer.Argument(metavar="[URI]", help="As for verify; the whole store when absent.")
    ] = None,
    *,
    store: Store = None,
    endpoint: Endpoint = None,
    region: Region = None,
    form: Output = Format.TABLE,
) -> None:
    """Show an artifact, or list those of a store."""
    from torchscript_operator.cli import artifacts, locations, output  # noqa: PLC0415

    if uri is None:
        where = _location(store, endpoint, region)
        place = locations.root(where)
    else:
        place = _place(uri, store, endpoint, region)
    artifacts.inspect(place, form, output.console())


@app.command()
def report(
    uri: Uri,
    *,
    browse: Annotated[bool, typer.Option("--open", help="Open the report's page in a browser.")] = False,
    store: Store = None,
    endpoint: Endpoint = None,
    region: Region = None,
    form: Output = Format.TABLE,
) -> None:
    """Show the parity report of an export.

    Also of one that was refused, which has left nothing else.
    """
    from torchscript_operator.cli import artifacts, output  # noqa: PLC0415

    artifacts.report(_place(uri, store, endpoint, region), form, output.console(), browse=browse)


def _location(store: str | None, endpoint: str | None, region: str | None) -> "StoreLocation":
    from torchscript_operator.cli import locations  # noqa: PLC0415

    return locations.location(store or str(locations.default_store()), endpoint, region)


def _place(uri: str, store: str | None, endpoint: str | None, region: str | None) -> "Place":
    from torchscript_operator.cli import locations  # noqa: PLC0415

    return locations.find(uri, _location(store, endpoint, region), endpoint, region)


def _overrides(source: Path | None, samples: Path | None, store: "StoreLocation") -> "Overrides":
    from torchscript_operator.cli import requests  # noqa: PLC0415

    return requests.Overrides(store, source, samples)


def _export(wanted: "ExportRequest", console: Any) -> "ExportOutcome":
    from torchscript_operator.cli import exporting  # noqa: PLC0415

    outcome = exporting.export(wanted, console)
    if outcome.failure is not None:
        exporting.show(outcome, wanted, console)
        raise exporting.failure_of(outcome, wanted)
    return outcome


if __name__ == "__main__":
    sys.exit(app())
