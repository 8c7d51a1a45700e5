"""Commands that change a model in the cluster, by one small patch."""

from typing import TYPE_CHECKING, Annotated

import typer

from torchscript_operator.cli.commands.look import await_models, opened, seconds
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.options import (
    Context,
    Kubeconfig,
    ModelName,
    Namespace,
    TargetName,
    Timeout,
    Wait,
)

if TYPE_CHECKING:
    from torchscript_operator.cli.cluster.access import Cluster
    from torchscript_operator.cli.cluster.read import ModelView


def _then_wait(cluster: "Cluster", changed: "ModelView", timeout: str, *, wait: bool) -> None:
    from torchscript_operator.cli.waiting import Wanted  # noqa: PLC0415

    if wait:
        version = changed.body["metadata"]["resourceVersion"]
        await_models(cluster, [changed.model.name], Wanted(after=version), seconds(timeout))


def retry(
    name: ModelName,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also where nothing has failed.")] = False,
    wait: Wait = False,
    timeout: Timeout = "30m",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Try again what failed.

    Sets the annotation torchscript.dev/retry; the spec stays the same.

    Rights: get and patch torchscriptmodels.
    """
    from torchscript_operator.cli import changes, output  # noqa: PLC0415
    from torchscript_operator.cli.cluster import access  # noqa: PLC0415

    with opened(context, namespace, kubeconfig) as cluster:
        changed = changes.retry(cluster, access.split_name(name), output.console(), force=force)
        _then_wait(cluster, changed, timeout, wait=wait)


def rollback(  # noqa: PLR0913 - one parameter for each option
    name: ModelName,
    to: Annotated[
        str | None,
        typer.Argument(
            metavar="ARTIFACT", help="First digits of a digest or key; the one before what serves when absent."
        ),
    ] = None,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Serve the newest proven artifact again.")] = False,
    target: TargetName = None,
    wait: Wait = False,
    timeout: Timeout = "30m",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Serve an earlier proven artifact.

    Sets the annotation torchscript.dev/rollback-to. It holds until another spec is proven, or until --undo. tsm
    history lists what can be served.

    Rights: get and patch torchscriptmodels.
    """
    from torchscript_operator.cli import changes, output  # noqa: PLC0415
    from torchscript_operator.cli.cluster import access  # noqa: PLC0415

    if undo and to is not None:
        raise CliError("--undo goes with no artifact.", advice="Leave one of the two out.")
    with opened(context, namespace, kubeconfig) as cluster:
        model = access.split_name(name)
        if undo:
            changed = changes.undo(cluster, model, output.console())
        else:
            changed = changes.rollback(cluster, model, to, target, output.console())
        _then_wait(cluster, changed, timeout, wait=wait)


def suspend(
    name: ModelName, *, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Start no new export and no new rollout.

    Sets spec.suspend. What runs and serves goes on.

    Rights: get and patch torchscriptmodels.
    """
    _suspend(name, (context, namespace, kubeconfig), wanted=True)


def resume(
    name: ModelName, *, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Let a suspended model go on.

    Rights: get and patch torchscriptmodels.
    """
    _suspend(name, (context, namespace, kubeconfig), wanted=False)


def _suspend(name: str, where: tuple[str | None, str | None, str | None], *, wanted: bool) -> None:
    from torchscript_operator.cli import changes, output  # noqa: PLC0415
    from torchscript_operator.cli.cluster import access  # noqa: PLC0415

    with opened(*where) as cluster:
        changes.suspend(cluster, access.split_name(name), output.console(), wanted=wanted)
