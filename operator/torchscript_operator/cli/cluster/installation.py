"""The operator in a cluster: its Deployment, its settings, and what it has to be allowed."""

from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

import yaml
from pydantic import ValidationError

from torchscript_operator.cli.cluster.access import ApiError, Cluster, Json
from torchscript_operator.controller.settings import Settings

SELECTOR = "app.kubernetes.io/part-of=torchscript-operator,app.kubernetes.io/component=operator"
"""What the chart labels its Deployment with."""
NAMESPACES = ("torchscript-system", "torchscript-operator", "default")
"""Where to look when the user may not list Deployments everywhere."""
SETTINGS_VOLUME = "settings"
SETTINGS_KEY = "settings.yaml"
VERSION_LABEL = "app.kubernetes.io/version"
RIGHTS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("torchscript.dev", ("torchscriptmodels",), ("get", "list", "watch", "patch")),
    ("torchscript.dev", ("torchscriptmodels/status",), ("patch",)),
    ("torchscript.dev", ("torchscriptmodels/finalizers",), ("update",)),
    ("batch", ("jobs",), ("get", "list", "watch", "create", "delete")),
    ("apps", ("deployments",), ("get", "list", "watch", "create", "patch", "delete")),
    ("", ("services",), ("get", "list", "watch", "create", "patch", "delete")),
    ("autoscaling", ("horizontalpodautoscalers",), ("get", "list", "watch", "create", "patch", "delete")),
    ("policy", ("poddisruptionbudgets",), ("get", "list", "watch", "create", "patch", "delete")),
    ("", ("pods",), ("get", "list", "watch")),
    ("", ("events",), ("create", "list")),
)
"""API group, resources and verbs that the chart gives the operator where models are; a test compares the two."""


@dataclass(frozen=True)
class Installation:
    """The operator of a cluster."""

    deployment: Json
    settings: Settings | None
    """None where they may not be read, or are of another release."""
    problem: str | None = None
    """Why there are no settings."""

    def watches(self, namespace: str | None) -> bool | None:
        """Whether models of a namespace are its own, with None those of all; None where its settings are not known."""
        if self.settings is None:
            return None
        return not self.settings.watch_namespaces or namespace in self.settings.watch_namespaces

    @property
    def namespace(self) -> str:
        """Where it runs."""
        return str(self.deployment["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """Of its Deployment."""
        return str(self.deployment["metadata"]["name"])

    @property
    def version(self) -> str | None:
        """As the chart labels it."""
        found: str | None = (self.deployment["metadata"].get("labels") or {}).get(VERSION_LABEL)
        return found

    @property
    def image(self) -> str:
        """Of its container."""
        return str(self.deployment["spec"]["template"]["spec"]["containers"][0]["image"])

    @property
    def user(self) -> str:
        """The name under which the API server knows it."""
        account = self.deployment["spec"]["template"]["spec"].get("serviceAccountName", "default")
        return f"system:serviceaccount:{self.namespace}:{account}"


def find(cluster: Cluster, namespace: str | None = None) -> Installation | None:
    """The operator of the cluster's namespace: it runs in the namespace given, or wherever the user may look.

    Of several the one that watches the cluster's namespace; where none is known to, one that might, else any. ApiError
    for anything but a refusal.
    """
    found = [Installation(each, *_settings(cluster, each)) for each in _deployments(cluster, namespace)]
    order = (True, None, False)
    return min(found, key=lambda each: order.index(each.watches(cluster.namespace)), default=None)


def _deployments(cluster: Cluster, namespace: str | None) -> Iterator[Json]:
    if namespace is not None:
        yield from cluster.list("apps/v1", "deployments", namespace, SELECTOR)
        return
    try:
        yield from cluster.list("apps/v1", "deployments", None, SELECTOR)
    except ApiError as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
        for name in dict.fromkeys((*NAMESPACES, cluster.namespace)):
            try:
                yield from cluster.list("apps/v1", "deployments", name, SELECTOR) if name else ()
            except ApiError as refused:
                if refused.status != HTTPStatus.FORBIDDEN:
                    raise


def _settings(cluster: Cluster, deployment: Json) -> tuple[Settings | None, str | None]:
    volumes = deployment["spec"]["template"]["spec"].get("volumes") or []
    named = [volume["configMap"]["name"] for volume in volumes if volume["name"] == SETTINGS_VOLUME]
    if not named:
        return None, "Its Deployment mounts no settings."
    try:
        found = cluster.get("v1", "configmaps", deployment["metadata"]["namespace"], named[0])
    except ApiError as error:
        return None, error.message
    text = (found or {}).get("data", {}).get(SETTINGS_KEY)
    if text is None:
        return None, f"There is no ConfigMap {named[0]} with {SETTINGS_KEY}."
    try:
        return Settings.model_validate(yaml.safe_load(text)), None
    except (ValidationError, yaml.YAMLError) as error:
        return None, f"Its settings are of another release than this tsm: {str(error).splitlines()[0]}"
