"""What all worker pods have in common: they pass Pod Security's restricted profile and see no API token."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from torchscript_operator.api.v1alpha1.pods import Resources, Toleration
from torchscript_operator.api.v1alpha1.status import StoreStatus
from torchscript_operator.artifact import request
from torchscript_operator.controller.model import Json
from torchscript_operator.controller.settings import CaBundle, Proxy, Settings

USER_ID = 65532
"""User and group of worker processes, as in distroless images."""
AWS_KEYS = (("AWS_ACCESS_KEY_ID", False), ("AWS_SECRET_ACCESS_KEY", False), ("AWS_SESSION_TOKEN", True))
"""Keys of a credentials Secret, and whether a key may be absent."""
CA_MOUNT = "/etc/torchscript/ca"
CA_FILE = f"{CA_MOUNT}/ca.crt"
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")
"""What tells OpenSSL and httpx, requests, and boto3 whom to trust; each reads a variable of its own."""


@dataclass
class PodParts:
    """Environment and volumes that the pieces of a worker pod add up to."""

    environment: list[Json] = field(default_factory=list)
    volumes: list[Json] = field(default_factory=list)
    mounts: list[Json] = field(default_factory=list)

    def set(self, name: str, value: str) -> None:
        """Add a plain variable."""
        self.environment.append({"name": name, "value": value})

    def secret(self, name: str, secret: str, key: str, *, optional: bool = False) -> None:
        """Add a variable from a Secret; one that is missing shows in the container's state, not only in an event."""
        reference: Json = {"name": secret, "key": key}
        if optional:
            reference["optional"] = True
        self.environment.append({"name": name, "valueFrom": {"secretKeyRef": reference}})

    def credentials(self, prefix: str, secret: str) -> None:
        """Add S3 credentials under a prefix."""
        for key, optional in AWS_KEYS:
            self.secret(f"{prefix}{key}", secret, key, optional=optional)

    def scratch(self, name: str, path: str) -> None:
        """Add a writable folder that lives as long as the pod."""
        self.volumes.append({"name": name, "emptyDir": {}})
        self.mounts.append({"name": name, "mountPath": path})

    def claim(self, name: str, claim: str, path: str, *, read_only: bool) -> None:
        """Add a PersistentVolumeClaim."""
        source: Json = {"claimName": claim}
        mount: Json = {"name": name, "mountPath": path}
        if read_only:
            source["readOnly"] = True
            mount["readOnly"] = True
        self.volumes.append({"name": name, "persistentVolumeClaim": source})
        self.mounts.append(mount)

    def ca_bundle(self, bundle: CaBundle) -> None:
        """Add the certificates to trust."""
        items = [{"key": bundle.key, "path": PurePosixPath(CA_FILE).name}]
        self.volumes.append({"name": "ca", "configMap": {"name": bundle.config_map, "items": items}})
        self.mounts.append({"name": "ca", "mountPath": CA_MOUNT, "readOnly": True})
        for name in CA_VARIABLES:
            self.set(name, CA_FILE)

    def proxy(self, proxy: Proxy) -> None:
        """Add the way out of the cluster. Both spellings of a name are read by what the images hold; one is enough."""
        for name, url in (("HTTP_PROXY", proxy.http), ("HTTPS_PROXY", proxy.https)):
            if proxy.secret is not None:
                self.secret(name, proxy.secret, name, optional=name == "HTTP_PROXY")
            elif url is not None:
                self.set(name, url)
        if proxy.excluded:
            self.set("NO_PROXY", ",".join(proxy.excluded))

    def secret_files(self, name: str, secret: str, path: str, files: dict[str, str]) -> None:
        """Add files of a Secret; files: key to file name.

        A whole folder, since single files would not follow a change. Optional, so that a Secret that is missing ends
        the process with a message that the status shows, where a mount would only wait.
        """
        items = [{"key": key, "path": file} for key, file in files.items()]
        source = {"secretName": secret, "items": items, "defaultMode": 0o440, "optional": True}
        self.volumes.append({"name": name, "secret": source})
        self.mounts.append({"name": name, "mountPath": path, "readOnly": True})

    def artifact_store(self, store: StoreStatus, *, read_only: bool) -> None:
        """Add what reaching an artifact store needs."""
        if store.claim_name is not None:
            self.claim("artifacts", store.claim_name, request.ARTIFACT_MOUNT, read_only=read_only)
        if store.credentials_secret is not None:
            self.credentials(request.ARTIFACT_CREDENTIALS_PREFIX, store.credentials_secret)


def folder_uri(path: str) -> str:
    """URI of a folder below the mounted artifact volume."""
    return f"file://{PurePosixPath(request.ARTIFACT_MOUNT) / path}"


def dump(value: Resources | Toleration) -> Json:
    """A passed-through API type as Kubernetes wants it: camelCase, absent and empty fields left out."""
    dumped = value.model_dump(by_alias=True, exclude_none=True, mode="json")
    return {key: item for key, item in dumped.items() if item not in ({}, [])}


def placement(
    node_selector: dict[str, str] | None, tolerations: Iterable[Toleration], affinity: dict[str, Any] | None
) -> Json:
    """The scheduling fields of a pod, only those that say something."""
    fields: Json = {}
    if node_selector:
        fields["nodeSelector"] = dict(node_selector)
    if listed := [dump(toleration) for toleration in tolerations]:
        fields["tolerations"] = listed
    if affinity:
        fields["affinity"] = affinity
    return fields


def pod_spec(
    settings: Settings,
    namespace: str,
    container: Json,
    parts: PodParts,
    scheduling: Json,
) -> Json:
    """A pod that the restricted profile admits, around one container."""
    account = settings.worker_service_account
    if settings.proxy is not None:
        parts.proxy(settings.proxy)
    if settings.ca_bundle is not None:
        parts.ca_bundle(settings.ca_bundle)
    parts.scratch("scratch", request.SCRATCH_PATH)
    parts.scratch("tmp", "/tmp")  # noqa: S108 -- the container's own emptyDir, not a shared folder
    spec: Json = {
        "serviceAccountName": account.name if namespace in account.namespaces else "default",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # Without this a large volume is walked, file by file, at every start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                **container,
                "imagePullPolicy": settings.image_pull_policy,
                "env": parts.environment,
                "volumeMounts": parts.mounts,
                # A process that dies without a report leaves the end of its log in the termination message.
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
        "volumes": parts.volumes,
        **scheduling,
    }
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.priority_class_name:
        spec["priorityClassName"] = settings.priority_class_name
    return spec


def job_pod_spec(settings: Settings, namespace: str, container: Json, parts: PodParts, scheduling: Json) -> Json:
    """The same for a Job."""
    spec = pod_spec(settings, namespace, container, parts, scheduling)
    if settings.job_priority_class_name:
        spec["priorityClassName"] = settings.job_priority_class_name
    return {**spec, "restartPolicy": "Never"}
