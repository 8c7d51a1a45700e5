"""Commands that need no cluster: from a file or a store, on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.formats import Format
from torchscript_operator.cli.options import Endpoint, File, Name, Output, Region, Samples, Source, Store, Uri

if TYPE_CHECKING:
    from torchscript_operator.artifact.outcome import ExportOutcome
    from torchscript_operator.artifact.request import ExportRequest, StoreLocation
    from torchscript_operator.cli.locations import Place
    from torchscript_operator.cli.requests import Overrides


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


def inspect(
    uri: Annotated[
        str | None, typer.Argument(metavar="URI", help="As for verify; the whole store when absent.")
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
