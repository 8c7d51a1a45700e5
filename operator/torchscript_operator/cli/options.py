"""Options that several commands have, each with its help text."""

from pathlib import Path
from typing import Annotated

import typer

from torchscript_operator.cli.formats import Format, View


def complete_model(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of models for the shell."""
    from torchscript_operator.cli import completion  # noqa: PLC0415

    return completion.models(ctx, incomplete)


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

Context = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", help="Context of the kubeconfig; the current one when absent."),
]
Kubeconfig = Annotated[
    str | None,
    typer.Option(
        "--kubeconfig",
        metavar="FILE",
        help="Kubeconfig; $KUBECONFIG or ~/.kube/config when absent, in a pod its account.",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAMESPACE", help="Namespace; that of the context when absent."),
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Look at all namespaces.")]
ModelName = Annotated[
    str, typer.Argument(metavar="NAME", help="The model, as minilm or tsm/minilm.", autocompletion=complete_model)
]
TargetName = Annotated[
    str | None, typer.Option("--target", "-t", metavar="NAME", help="One target; all, or the only one, when absent.")
]
Listing = Annotated[
    View, typer.Option("--output", "-o", metavar="table|wide|json|yaml|name", help="For people, or for programs.")
]
Timeout = Annotated[str, typer.Option("--timeout", metavar="TIME", help="How long to wait, such as 90s, 15m or 2h.")]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Then wait, as tsm wait does.")]
