"""The command that shows models on a page."""

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

import typer

from torchscript_operator.cli.commands.look import opened
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.options import AllNamespaces, Context, Endpoint, Kubeconfig, Namespace, complete_model

if TYPE_CHECKING:
    from torchscript_operator.cli.cluster.access import Cluster


def dashboard(  # noqa: PLR0913 - one parameter for each option
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The model to begin with.", autocompletion=complete_model),
    ] = None,
    *,
    port: Annotated[
        int,
        typer.Option("--port", metavar="PORT", min=0, max=65535, help="Where to listen.", show_default="a free one"),
    ] = 0,
    browse: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    secret: Annotated[
        bool, typer.Option("--secret", help="Read reports with the Secrets that the models' pods use.")
    ] = False,
    endpoint: Endpoint = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show models on a page that only this machine reaches.

    States, parity against its bounds, candidates, artifacts, rollouts and events, live; nothing is changed and nothing
    is exposed in the cluster. Ctrl-C ends it.

    Rights: list and watch torchscriptmodels, jobs, pods, deployments, services and events; get pods/log for stages;
    with --secret, get those Secrets. What may not be read is left out and told.
    """
    from torchscript_operator.cli import output, reports  # noqa: PLC0415
    from torchscript_operator.cli.cluster import access  # noqa: PLC0415
    from torchscript_operator.cli.dashboard import run  # noqa: PLC0415

    if name is not None and all_namespaces:
        raise CliError("A model is of one namespace.", advice="Leave --all-namespaces or the name out.")
    wish = reports.Wish(secret=secret, endpoint=endpoint)
    model = access.split_name(name) if name is not None else None
    with opened(context, namespace, kubeconfig, all_namespaces=all_namespaces) as cluster:
        if model is not None and cluster.namespace is not None:
            _find(cluster, cluster.namespace, model)
        run.run(cluster, model, port, wish, output.console(error=True), browse=browse)


def _find(cluster: "Cluster", namespace: str, model: str) -> None:
    """Look for a model before a page is opened for it. ApiError where there is none; the page tells of the rest."""
    from torchscript_operator.cli.cluster.access import ApiError  # noqa: PLC0415

    try:
        cluster.model(namespace, model)
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            raise
