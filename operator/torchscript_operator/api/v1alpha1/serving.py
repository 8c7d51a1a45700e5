"""What a user writes of the inference Deployments."""

from typing import Annotated, Any

from pydantic import Field

from torchscript_operator.api.v1alpha1.base import ApiModel, DnsLabel, DnsSubdomain, Share, Url, opaque, rule, rules
from torchscript_operator.api.v1alpha1.pods import Image, NodeSelector, Resources, SecretKey, Tolerations


class Batching(ApiModel):
    """How a pod gathers waiting requests into one forward pass."""

    maximum_batch_size: Annotated[int, Field(ge=1, le=1024)] = 32
    """Texts in one forward pass."""
    maximum_delay_milliseconds: Annotated[int, Field(ge=0, le=1000)] = 0
    """How long an idle pod waits for company; 0 gathers only what arrives while it computes."""


class Autoscaling(ApiModel):
    """A HorizontalPodAutoscaler per Deployment."""

    model_config = rules(
        rule("self.minReplicas <= self.maxReplicas", "spec.serving.autoscaling.minReplicas must not exceed maxReplicas")
    )

    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods at the least; a Deployment starts with these."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Pods at the most."""
    metrics: Annotated[
        tuple[Annotated[dict[str, Any], opaque("MetricSpec as in autoscaling/v2.")], ...], Field(max_length=8)
    ] = ()
    """What to scale by; absent: 70 per cent of the CPU that pods request."""


class Access(ApiModel):
    """Who may ask: clients that send one of these tokens as `Authorization: Bearer`. Health probes need none."""

    token_secret: SecretKey
    """Key whose value holds the tokens, one a line, so that an old and a new one can hold at the same time. A change
    is taken up without a restart."""


class Tls(ApiModel):
    """HTTPS and gRPC over TLS in place of plain text. Renewed Secrets are taken up without a restart."""

    secret_name: DnsSubdomain
    """A Secret of the type kubernetes.io/tls, as cert-manager makes it. Clients inside the cluster use the host
    NAME.NAMESPACE.svc."""
    client_authority: SecretKey | None = None
    """Authorities in PEM, such as a Secret's ca.crt. Given, clients must show a certificate that one of them signed."""


class Tracing(ApiModel):
    """OpenTelemetry traces: a span for each request, with its time in the queue, computing and encoding."""

    endpoint: Url
    """Base URL of a collector that takes OTLP over HTTP, such as http://collector.observability:4318."""
    sampling_ratio: Share = "1"
    """Share of the requests without a trace of their own that are sent; a caller's own decision is kept."""


class Serving(ApiModel):
    """The inference Deployments, one a served target, behind one Service."""

    targets: Annotated[tuple[DnsLabel, ...] | None, Field(max_length=8)] = None
    """Names of the targets to serve: all when absent, none when empty."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Pods of each Deployment; what the scale subresource reads and writes. Beside autoscaling only 0 counts: it turns
    serving off."""
    autoscaling: Autoscaling | None = None
    """In place of replicas, which has a default and therefore may be there too."""
    resources: Resources | None = None
    """Given, they replace the compiler's default. The CPU limit sets the number of threads."""
    node_selector: NodeSelector | None = None
    """Labels a node must have. Given, it replaces the compiler's default."""
    tolerations: Tolerations | None = None
    """Taints the pods accept. Given, they replace the compiler's default."""
    image: Image | None = None
    """Image of the pods; the one that exported the artifact when absent."""
    batching: Batching = Batching()
    """Batching of requests."""
    access: Access | None = None
    """Tokens that clients need; everybody is let in when absent."""
    tls: Tls | None = None
    """Certificates; plain text when absent."""
    tracing: Tracing | None = None
    """Where traces go; none are made when absent."""
    access_log: bool = False
    """Write a line of JSON for each request, with its id, status and duration. Faults are always written."""
    progress_deadline_seconds: Annotated[int, Field(ge=30, le=86400)] = 600
    """Seconds a rollout may take; then the last good artifact is put back."""
