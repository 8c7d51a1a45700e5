"""tsm verify: what a pod does before it is Ready, on this machine, and its figures."""

import logging
import os
import tempfile
import warnings
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from torchscript_operator.artifact.failures import WorkerError
from torchscript_operator.artifact.manifest import Manifest, OutputParity
from torchscript_operator.artifact.request import ServeRequest
from torchscript_operator.cli import advice, children, exporting, locations, output
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.formats import Format
from torchscript_operator.cli.locations import Place
from torchscript_operator.cli.serving import STAGES
from torchscript_operator.cli.stages import Stages


def verify(place: Place, digest: str | None, form: Format, console: Console, progress: Console) -> None:
    """Check every digest, load, and replay the golden inputs. CliError with the failure's class and its exit code."""
    wanted = digest or place.digest
    if wanted is None:
        message = f"{output.place(place.store.uri)} is no artifact: there is no manifest.json."
        raise CliError(message, advice="`tsm inspect URI` lists a store's artifacts; give one of them.")
    exporting.require("torch", "tokenizers")
    failure: WorkerError | None = None
    figures: tuple[OutputParity, ...] = ()
    manifest: Manifest | None = None
    try:
        manifest, figures = _load(place, wanted, progress)
    except WorkerError as error:
        failure, figures = error, getattr(error, "outputs", ())
    passed = failure is None and all(figure.passed for figure in figures)
    if form is not Format.TABLE:
        value = {
            "uri": place.store.uri,
            "digest": wanted,
            "verified": passed,
            "outputs": [figure.model_dump(mode="json", by_alias=True, exclude_none=True) for figure in figures],
        }
        if failure is not None:
            value["failure"] = {"reason": failure.reason.value, "message": failure.message}
        output.write(value, form)
    elif figures:
        console.print(output.figures(figures))
        console.print()
    if failure is not None:
        raise CliError(f"{failure.reason.value}: {failure.message}", failure.exit_code, advice.on(failure.reason))
    if form is Format.TABLE and manifest is not None:
        size = output.size(sum(entry.size_bytes for entry in manifest.files))
        console.print(f"[green]✓[/] {len(manifest.files)} files, {size}, are what {escape(wanted)} says,")
        if passed:
            console.print("  and the compiled model gives eager's recorded outputs on this machine.")
        else:
            console.print("  but the outputs differ here, which its policy Warn lets pass.")


def _load(place: Place, digest: str, progress: Console) -> tuple[Manifest, tuple[OutputParity, ...]]:
    """Manifest and replay's figures, the worst first."""
    # What the libraries and the server's own log have to say is in the figures already.
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    request = ServeRequest(model="tsm/verify", target="verify", artifact=place.location, digest=digest)
    cache = locations.cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (
        warnings.catch_warnings(),
        children.interruptible(),
        tempfile.TemporaryDirectory(prefix="verify-", dir=cache) as scratch,
        Stages(progress) as stages,
    ):
        warnings.simplefilter("ignore")
        stages.enter("start", "Importing torch")
        # Seconds, which only this command has to wait for.
        from torchscript_operator.serve import ending, loading, settings  # noqa: PLC0415

        try:
            loaded = loading.load(
                request,
                settings.Settings(scratch=str(Path(scratch))),
                os.environ,
                lambda stage: stages.enter(stage, STAGES.get(stage, "")),
            )
        except Exception as error:
            raise ending.classify(error) from error
        stages.done()
        return loaded.manifest, loaded.replay
