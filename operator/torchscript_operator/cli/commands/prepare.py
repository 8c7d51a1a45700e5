"""Commands around the models: a file to begin with, a plan of what it would do, and a look at the cluster."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from torchscript_operator.cli.commands.look import opened
from torchscript_operator.cli.errors import USAGE, CliError
from torchscript_operator.cli.formats import Format
from torchscript_operator.cli.options import Context, Kubeconfig, Namespace, Output

INVALID = 1
"""Of tsm plan: there 2 says that something would change."""
OperatorNamespace = Annotated[
    str | None,
    typer.Option("--operator-namespace", metavar="NAMESPACE", help="Where the operator runs; looked for when absent."),
]


class PlanCommand(TyperCommand):
    """Has an exit code of its own for a command line that is wrong."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse the command line."""
        try:
            return super().make_context(*arguments, **options)
        except Exception as error:
            if getattr(error, "exit_code", None) == USAGE:
                error.exit_code = INVALID  # type: ignore[attr-defined]
            raise


def init(  # noqa: PLR0913 - one parameter for each option
    source: Annotated[
        str | None,
        typer.Argument(metavar="REPOSITORY", help="Repository on the Hugging Face Hub, or s3://bucket/prefix."),
    ] = None,
    *,
    file: Annotated[
        str, typer.Option("--file", "-f", metavar="FILE", help="Where to write; - prints it.")
    ] = "model.yaml",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Of the model; made from the source's.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", metavar="TASK", help="As Transformers names it.")] = None,
    revision: Annotated[str, typer.Option("--revision", metavar="REVISION", help="Branch, tag or commit.")] = "main",
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help="Of a mirror of the Hub, or of an S3 server.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="Read the model's config here.", exists=True, file_okay=False),
    ] = None,
    sequence: Annotated[
        int | None,
        typer.Option("--sequence", metavar="TOKENS", min=1, help="The longest text; else as the model says."),
    ] = None,
    compilers: Annotated[
        list[str] | None,
        typer.Option("--compiler", metavar="torchscript|neuron|neuronx", help="A target of this compiler; repeatable."),
    ] = None,
    namespace: Namespace = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask nobody: this machine's cache alone.")] = False,
) -> None:
    """Write a model.yaml for a repository.

    Task, architecture, shapes and memory are as its config and files say. Where the Hub cannot be reached, from the
    cache of Hugging Face's libraries, or from --task alone. Asks for what is missing where there is a terminal.
    HF_TOKEN is used for private repositories. Needs no cluster.
    """
    from torchscript_operator.cli import output, starter  # noqa: PLC0415

    if source is None:
        source = _ask(
            "Repository on the Hugging Face Hub",
            CliError("No repository is named.", advice="Name it: tsm init REPOSITORY."),
        )
    if task is not None and task not in starter.TASKS:
        raise CliError(f"There is no task {task}.", advice=f"It is one of {', '.join(starter.TASKS)}.")
    if unknown := set(compilers or ()) - set(starter.COMPILERS):
        known = ", ".join(starter.COMPILERS)
        raise CliError(f"There is no compiler {', '.join(sorted(unknown))}.", advice=f"It is one of {known}.")
    to = None if file == "-" else Path(file)
    if to is not None and to.exists() and not force:
        raise CliError(f"{to} is there already.", advice="Name another with -f, or write over it with --force.")
    if folder is not None:
        found = starter.from_folder(folder)
    elif source.startswith("s3://"):
        found = starter.Found(origin="nowhere: give the model's folder with --from")
    else:
        found = starter.from_hub(source, revision, endpoint, offline=offline)
    if task is None and starter.task_of(found) is None:
        tasks = ", ".join(starter.TASKS)
        unsaid = CliError("What the model is for is said nowhere.", advice=f"Give --task, one of {tasks}.")
        task = _ask(f"Task ({tasks})", unsaid)
    wish = starter.Wish(
        source, name, task, revision, endpoint, sequence, tuple(compilers or ("torchscript",)), namespace
    )
    text = starter.write(wish, found)
    if to is None:
        typer.echo(text, nl=False)
        return
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(text.replace("FILE", str(to)), encoding="utf-8")
    except OSError as error:
        message = f"{to} cannot be written: {error.strerror}."
        raise CliError(message, advice="Name another with -f, or -f - to have it printed.") from error
    output.console(error=True).print(f"Wrote {to}, from {found.origin}.", markup=False)


def _ask(question: str, otherwise: CliError) -> str:
    """Ask at the terminal. `otherwise` where there is none."""
    import sys  # noqa: PLC0415

    if not sys.stdin.isatty():
        raise otherwise
    return str(typer.prompt(question, err=True))


def plan(  # noqa: PLR0913 - one parameter for each option
    names: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Files or folders of manifests; - reads standard input.")
    ],
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no cluster.")] = False,
    base: Annotated[
        list[str] | None,
        typer.Option(
            "--base",
            metavar="FILE",
            help="Compare with this earlier version, taken to be rolled out; implies --offline.",
        ),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            metavar="FILE",
            help="The operator's settings.yaml or ConfigMap; the cluster's when absent.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    changes_ok: Annotated[bool, typer.Option("--changes-ok", help="Exit with 0 also where something changes.")] = False,
    operator_namespace: OperatorNamespace = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    form: Output = Format.TABLE,
) -> None:
    """Say what the operator would do about files.

    What is exported anew and why, what is in the store, where pods would go, and what rolls. Checks the files by
    the API's types and CEL rules first, as the API server would. Nothing is changed. Exit codes: 0 nothing to do; 1
    a file, or what it asks for, is invalid, or the cluster does not answer; 2 changes.

    Rights: get and list torchscriptmodels; list jobs, pods, deployments and services, get services,
    horizontalpodautoscalers and poddisruptionbudgets. Where allowed also: list nodes and deployments, and get the
    ConfigMap of the operator's settings.
    """
    from torchscript_operator.cli import files, output, plan_gather, plan_show  # noqa: PLC0415
    from torchscript_operator.cli.cluster import progress  # noqa: PLC0415

    try:
        models, wrong = files.read_all(names)
        known = None if settings is None else plan_gather.read_settings(settings)
        now = progress.now()
        if base is not None or offline or not models:
            before = files.read_whole(base or ())
            plans = plan_gather.offline(models, before, known, namespace, now)
        else:
            with opened(context, namespace, kubeconfig) as cluster:
                plans = plan_gather.online(cluster, models, known, operator_namespace, now)
    except CliError as error:
        advice = error.advice if offline or base else f"{error.advice} --offline asks no cluster.".strip()
        raise CliError(error.message, INVALID, advice) from error
    if not models and not wrong:
        raise CliError(f"There is no TorchScriptModel in {', '.join(names)}.", INVALID)
    plan_show.show(plans, wrong, form, output.console(), output.console(error=True))
    if code := plan_show.exit_code(plans, wrong, changes_ok=changes_ok):
        raise typer.Exit(code)


def doctor(
    *,
    operator_namespace: OperatorNamespace = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    form: Output = Format.TABLE,
) -> None:
    """Check everything around the models.

    The cluster, the CRD, your rights, the operator and its rights, the store, node pools and device plugins. Each
    finding is ok, warn, fail, or unknown where it may not be looked at; with what to do about it. Exit codes: 0
    nothing failed; 1 something did.

    Rights: all are optional, and what may not be looked at is unknown: list torchscriptmodels, deployments and
    nodes; get the CRD, the settings' ConfigMap and the default store's Secret; create subjectaccessreviews.
    """
    from torchscript_operator.cli import doctor as checks  # noqa: PLC0415
    from torchscript_operator.cli import output  # noqa: PLC0415

    with opened(context, namespace, kubeconfig) as cluster:
        found = checks.examine(cluster, operator_namespace)
    checks.show(found, form, output.console())
    if checks.failed(found):
        raise typer.Exit(1)
