"""Commands that look at the models of a cluster and change nothing."""

from typing import TYPE_CHECKING, Annotated

import typer

from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.formats import Format, View
from torchscript_operator.cli.options import (
    AllNamespaces,
    Context,
    Endpoint,
    Kubeconfig,
    Listing,
    ModelName,
    Namespace,
    Output,
    Region,
    Store,
    TargetName,
    Timeout,
    complete_model,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torchscript_operator.cli.cluster.access import Cluster


def opened(
    context: str | None, namespace: str | None, kubeconfig: str | None, *, all_namespaces: bool = False
) -> "AbstractContextManager[Cluster]":
    """The cluster that the options mean."""
    from torchscript_operator.cli.cluster import access  # noqa: PLC0415

    return access.connect(access.Options(context, namespace, all_namespaces, kubeconfig))


def seconds(text: str) -> float:
    """Seconds in a length of time. CliError for what is none."""
    from torchscript_operator.cli import ages  # noqa: PLC0415

    found = ages.seconds_of(text)
    if found is None:
        raise CliError(f"{text} is no length of time.", advice="Write it as 90s, 15m, 2h or 1h30m.")
    return found


def status(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="One model in full; a table of all when absent.", autocompletion=complete_model
        ),
    ] = None,
    *,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    form: Listing = View.TABLE,
) -> None:
    """Show models and how they are.

    Of one: conditions, targets, parity, artifact, pods, events, and the last failure with its next step.

    Rights: get and list torchscriptmodels; for one model also list jobs, pods, deployments, services and events,
    which are left out where they may not be read. -o wide shows more columns, all events and the ends of logs.
    """
    from torchscript_operator.cli import output  # noqa: PLC0415
    from torchscript_operator.cli import status as views  # noqa: PLC0415
    from torchscript_operator.cli.cluster import access, progress, read  # noqa: PLC0415

    with opened(context, namespace, kubeconfig, all_namespaces=all_namespaces) as cluster:
        if name is None:
            found = read.read(cluster, depth="models")
            views.show_list(found, form, progress.now(), output.console(), cluster.namespace)
            return
        found = read.read(cluster, access.split_name(name), "events")
    if all_namespaces and form.form is not Format.TABLE:
        # Models of one name may be several: programs are given a list, however many there are.
        views.show_list(found, form, progress.now(), output.console(), None)
    else:
        for view in found.models:
            views.show(view, form, progress.now(), output.console())
    for missing in found.missing:
        output.remark(missing)


def wait(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Models; see --all.", autocompletion=complete_model)
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All models of the namespace.")] = False,
    wanted: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="CONDITION[=VALUE]",
            help="settled: the present spec is proven, rolled out and answers; or a condition, as kubectl wait has it.",
        ),
    ] = "settled",
    timeout: Timeout = "30m",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Wait for models, with live progress.

    Shows the stage, how far it is, and how long earlier exports took. Ends at once where nothing more happens by
    itself, with the failure, its next step and the exit code of its class. Exit codes: 0 reached; 3 stalled for a
    reason without a class; 124 the time is over; 64 to 93 and 137 as the Jobs'.

    Rights: get and list torchscriptmodels; list jobs, pods, deployments and services; get pods/log for stages.
    """
    from torchscript_operator.cli import waiting  # noqa: PLC0415
    from torchscript_operator.cli.cluster import access  # noqa: PLC0415

    if bool(names) == every:
        raise CliError("Name the models to wait for, or give --all.", advice="Such as: tsm wait minilm --timeout 20m")
    meant = waiting.Wanted.parse(wanted)
    limit = seconds(timeout)
    with opened(context, namespace, kubeconfig) as cluster:
        listed = [access.split_name(name) for name in names or ()]
        await_models(cluster, listed, meant, limit)


def await_models(cluster: "Cluster", names: list[str], wanted: object, limit: float) -> None:
    """Wait and say how it ended."""
    from torchscript_operator.cli import output, waiting  # noqa: PLC0415

    assert isinstance(wanted, waiting.Wanted)  # noqa: S101 - told to the type checker
    found = waiting.Waiting(cluster, names, wanted, limit, output.console(error=True)).run()
    if not found:
        where = cluster.namespace or "default"
        raise CliError(f"There is no model in namespace {where}.", 1, "-n NAMESPACE waits for those of another.")
    for view in found:
        output.console().print(f"{view.model.name}: {view.state}, {view.reason}")


def logs(  # noqa: PLR0913 - one parameter for each option
    name: ModelName,
    *,
    target: TargetName = None,
    component: Annotated[
        str | None,
        typer.Option("--component", metavar="export|verify|serving", help="Whose log; see above for the default."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on reading, from a pod yet to start too.")] = False,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Of the container before its last restart.")
    ] = False,
    tail: Annotated[int | None, typer.Option("--tail", metavar="LINES", min=0, help="Only the last lines.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="Only the last 90s, 15m or 2h.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Lines as the container wrote them: JSON.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show the log that matters now.

    That of the Job that runs, else of the one that failed, else of the pods that serve.

    Rights: get torchscriptmodels; list jobs, pods, deployments and services; get pods/log.
    """
    from torchscript_operator.cli import output, pod_logs  # noqa: PLC0415
    from torchscript_operator.cli.cluster import access  # noqa: PLC0415

    if component is not None and component not in pod_logs.COMPONENTS:
        raise CliError(f"There is no component {component}.", advice=f"It is one of {', '.join(pod_logs.COMPONENTS)}.")
    wish = pod_logs.Wish(
        target=target,
        component=component,
        follow=follow,
        previous=previous,
        tail=tail,
        since_seconds=None if since is None else int(seconds(since)),
        raw=raw,
    )
    with opened(context, namespace, kubeconfig) as cluster:
        pod_logs.show(cluster, access.split_name(name), wish, output.console(), output.console(error=True))


def history(
    name: ModelName,
    *,
    target: TargetName = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    form: Output = Format.TABLE,
) -> None:
    """List a model's proven artifacts.

    The newest first, with notes on which one is served, pinned, or failed.

    Rights: get torchscriptmodels.
    """
    from torchscript_operator.cli import output, revisions  # noqa: PLC0415
    from torchscript_operator.cli.cluster import access, progress, read  # noqa: PLC0415

    with opened(context, namespace, kubeconfig) as cluster:
        (view,) = read.read(cluster, access.split_name(name)).models
    revisions.show(view, target, form, progress.now(), output.console())


def report(  # noqa: PLR0913 - one parameter for each option
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME|URI",
            help="A model of the cluster, as minilm or tsm/minilm; or s3://…, a folder, or the first digits of a key.",
            autocompletion=complete_model,
        ),
    ],
    *,
    browse: Annotated[bool, typer.Option("--open", help="Open the report's page in a browser.")] = False,
    target: TargetName = None,
    proven: Annotated[
        bool, typer.Option("--proven", help="Of the artifact, also where a newer attempt was refused.")
    ] = False,
    secret: Annotated[
        bool, typer.Option("--secret", help="Read the store with the Secret that the model's pods use.")
    ] = False,
    store: Store = None,
    endpoint: Endpoint = None,
    region: Region = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    form: Output = Format.TABLE,
) -> None:
    """Show the parity report of a model or an export.

    Of a model in the cluster, or of an export in a store; also of one that was refused, which has left nothing
    else. Where a model's store cannot be read from here, the figures in its status are shown.

    Rights, for a model: get torchscriptmodels, list jobs and pods; with --secret, get that Secret.
    """
    from torchscript_operator.cli import artifacts, locations, output, reports  # noqa: PLC0415
    from torchscript_operator.cli.cluster import access, read  # noqa: PLC0415

    place = locations.meant(what, store, endpoint, region)
    if place is not None:
        artifacts.report(place, form, output.console(), browse=browse)
        return
    wish = reports.Wish(target, proven, secret, endpoint, browse, form)
    with opened(context, namespace, kubeconfig) as cluster:
        (view,) = read.read(cluster, access.split_name(what), "children").models
        reports.show(cluster, view, wish, output.console(), output.console(error=True))
