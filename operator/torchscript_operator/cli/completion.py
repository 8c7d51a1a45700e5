"""What the shell completes beside commands and options: names of models. It is never in the way."""

from typing import Any


def models(context: Any, incomplete: str) -> list[str]:
    """Names of models in the namespace that the command line names so far; none where they cannot be had."""
    from torchscript_operator.api.v1alpha1 import API_VERSION, PLURAL  # noqa: PLC0415
    from torchscript_operator.cli.cluster import access  # noqa: PLC0415

    given = context.params
    options = access.Options(given.get("context"), given.get("namespace"), kubeconfig=given.get("kubeconfig"))
    try:
        with access.connect(options) as cluster:
            listed = cluster.list(API_VERSION, PLURAL, cluster.namespace)
    except Exception:  # noqa: BLE001 - a person is typing: whatever it is, the command itself will tell
        return []
    return [name for body in listed if (name := str(body["metadata"]["name"])).startswith(incomplete)]
