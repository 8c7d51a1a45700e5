"""The operator's settings, one YAML file that the chart renders from its values."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from torchscript_operator.api.v1alpha1.pods import Resources, Toleration
from torchscript_operator.api.v1alpha1.spec import Artifact, Compiler, Trust

PATH_VARIABLE = "TSM_SETTINGS"
"""Environment variable with the file's path."""


class Section(BaseModel):
    """Part of the settings: camelCase in the file, unknown keys refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )


class Placement(Section):
    """Where pods of one kind run, and with what."""

    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    resources: Resources = Resources()


NEURON_RESOURCE = "aws.amazon.com/neuron"
"""One whole chip: fewer than all but more than one need a scheduler extension that keeps them together."""
NEURON_TAINT = "aws.amazon.com/neuron"
"""The usual taint of nodes with Neuron devices, whatever its value."""


class CompilerDefaults(Section):
    """Defaults of one compiler's Jobs and serving pods; a field in a model's spec replaces its default as a whole."""

    image: str | None = None
    """Worker image; the general one when absent."""
    job: Placement = Placement()
    """Of the Job that compiles and proves."""
    compile: Placement | None = None
    """Of the Job that only compiles, for targets with verify; as `job` when absent."""
    verify: Placement | None = None
    """Of the Job that only proves; as `job` when absent."""
    serving: Placement = Placement()
    instance_types: tuple[str, ...] = ()
    """Instance types that pods which need a device are held to, unless the spec names others."""
    active_deadline_seconds: int = 3600
    """Seconds for an export, retries included."""
    backoff_limit: int = 3
    """Retries after failures that can pass by themselves."""


_ON_DEVICE = Placement(
    tolerations=(Toleration(key=NEURON_TAINT, operator="Exists"),), resources=Resources(limits={NEURON_RESOURCE: "1"})
)
_DEFAULTS: dict[Compiler, CompilerDefaults] = {
    "torchscript": CompilerDefaults(),
    "neuron": CompilerDefaults(
        job=_ON_DEVICE,
        compile=Placement(),
        serving=_ON_DEVICE,
        instance_types=("inf1.xlarge", "inf1.2xlarge", "inf1.6xlarge", "inf1.24xlarge"),
    ),
    "neuronx": CompilerDefaults(
        job=_ON_DEVICE,
        compile=Placement(),
        serving=_ON_DEVICE,
        instance_types=("inf2.xlarge", "inf2.8xlarge", "inf2.24xlarge", "inf2.48xlarge"),
    ),
}
"""What holds where the settings say nothing of a compiler, so that its pods still go where its device is."""


class WorkerServiceAccount(Section):
    """The identity of worker pods, which never see an API token."""

    name: str = "default"
    namespaces: tuple[str, ...] = ()
    """Namespaces where it exists; pods elsewhere use the account named default."""


class LeaderElection(Section):
    """Which of several operators acts; the others wait with warm caches."""

    enabled: bool = False
    """Off, this process always leads."""
    name: str = "torchscript-operator"
    """Of the Lease: operators that share it take turns."""
    namespace: str | None = None
    """Of the Lease; the namespace of the pod's ServiceAccount when absent."""
    lease_duration_seconds: Annotated[float, Field(ge=1)] = 15
    """How long others respect a lease that its holder no longer renews."""
    renew_deadline_seconds: Annotated[float, Field(gt=0)] = 10
    """A leader that could not renew for so long writes nothing more and ends."""
    retry_seconds: Annotated[float, Field(gt=0)] = 2
    """Between two renewals, and between two looks at another's lease."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.retry_seconds < self.renew_deadline_seconds < self.lease_duration_seconds:
            raise ValueError("leaderElection needs retrySeconds < renewDeadlineSeconds < leaseDurationSeconds")
        return self


class CaBundle(Section):
    """Certificates that worker pods trust in place of the public ones."""

    config_map: str
    """Name of a ConfigMap in the model's namespace."""
    key: str = "ca.crt"
    """Key of the PEM file in it."""


class Proxy(Section):
    """The way out of the cluster, for worker pods; the operator itself talks to nobody but the API server."""

    http: str | None = None
    https: str | None = None
    secret: str | None = None
    """Name of a Secret in the model's namespace with HTTP_PROXY and HTTPS_PROXY, for proxies with passwords."""
    excluded: tuple[str, ...] = ()
    """Hosts, domains with a leading dot and addresses that are reached without it."""


class Settings(Section):
    """All settings."""

    worker_image: str
    """Image for export and serving, by digest where possible: it is part of every artifact's key."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the model's namespace."""
    artifact_store: Artifact | None = None
    """Where artifacts go when a model does not say."""
    worker_service_account: WorkerServiceAccount = WorkerServiceAccount()
    trust: tuple[Trust, ...] = ()
    """What models may ask for in spec.source.trust; nothing by default."""
    watch_namespaces: tuple[str, ...] = ()
    """Namespaces to watch; all when empty."""
    compilers: dict[Compiler, CompilerDefaults] = {}
    cluster_domain: str = "cluster.local"
    """For the URL in the status."""
    job_history_seconds: Annotated[int, Field(ge=60)] = 86400
    """Seconds that a finished Job is kept for its log."""
    workers: Annotated[int, Field(ge=1, le=64)] = 64
    """Models reconciled at once; all wait for the API server, whose priority and fairness is what keeps order."""
    resync_seconds: Annotated[int, Field(ge=30)] = 600
    """Seconds between two full looks at every model, give or take a tenth."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    priority_class_name: str | None = None
    """PriorityClass of worker pods."""
    leader_election: LeaderElection = LeaderElection()
    job_priority_class_name: str | None = None
    """PriorityClass of Jobs' pods; that of all worker pods when absent."""
    hugging_face_endpoint: str | None = None
    """Mirror of the Hugging Face Hub, for sources that name none. No part of a request: its commits are the Hub's."""
    ca_bundle: CaBundle | None = None
    proxy: Proxy | None = None

    def defaults(self, compiler: Compiler) -> CompilerDefaults:
        """The defaults of a compiler."""
        return self.compilers.get(compiler) or _DEFAULTS[compiler]


def load(path: Path | None = None) -> Settings:
    """Read the settings file.

    Raises KeyError without a path, OSError for an unreadable file, yaml.YAMLError or pydantic.ValidationError for one
    that makes no settings.
    """
    return Settings.model_validate(yaml.safe_load((path or Path(os.environ[PATH_VARIABLE])).read_text()))
