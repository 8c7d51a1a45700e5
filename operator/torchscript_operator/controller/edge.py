"""What a serving pod's clients meet: tokens, TLS, traces, and the ports and probes that follow from them. All pure."""

from torchscript_operator.api.v1alpha1 import GROUP
from torchscript_operator.api.v1alpha1.serving import Access, Serving, Tls, Tracing
from torchscript_operator.artifact import request
from torchscript_operator.controller.model import Json
from torchscript_operator.controller.pods import PodParts

HTTP, HTTPS, GRPC, HEALTH = "http", "https", "grpc", "health"
"""Names of ports."""
HTTP_SERVICE_PORT, HTTPS_SERVICE_PORT = 80, 443
METRICS_LABEL = f"{GROUP}/metrics"
"""Of a pod whose metrics are at another port than its clients'."""


def guarded(serving: Serving) -> bool:
    """Whether the kubelet and Prometheus need a port of their own: neither has a client's token or certificate."""
    return serving.access is not None or serving.tls is not None


def scheme(serving: Serving) -> str:
    """Of the URL, and the name of its port."""
    return HTTP if serving.tls is None else HTTPS


def container_ports(serving: Serving) -> list[Json]:
    """The ports of a pod."""
    ports: list[Json] = [
        {"name": scheme(serving), "containerPort": request.SERVE_PORT},
        {"name": GRPC, "containerPort": request.SERVE_GRPC_PORT},
    ]
    if guarded(serving):
        ports.append({"name": HEALTH, "containerPort": request.SERVE_HEALTH_PORT})
    return ports


def pod_labels(serving: Serving) -> dict[str, str]:
    """Labels by which the chart's PodMonitor finds the port of a guarded pod's metrics; none for others."""
    return {METRICS_LABEL: HEALTH} if guarded(serving) else {}


def service_ports(serving: Serving) -> list[Json]:
    """The ports of the Service; appProtocol is what meshes and ingresses choose TLS and HTTP/2 by."""
    name = scheme(serving)
    http: Json = {
        "name": name,
        "port": HTTP_SERVICE_PORT if serving.tls is None else HTTPS_SERVICE_PORT,
        "targetPort": name,
        "protocol": "TCP",
    }
    if serving.tls is not None:
        http["appProtocol"] = HTTPS
    return [
        http,
        {
            "name": GRPC,
            "port": request.SERVE_GRPC_PORT,
            "targetPort": GRPC,
            "protocol": "TCP",
            "appProtocol": "kubernetes.io/h2c" if serving.tls is None else HTTPS,
        },
    ]


def probe(serving: Serving, path: str, **timing: int) -> Json:
    """A probe by plain HTTP, whatever clients need."""
    port = HEALTH if guarded(serving) else HTTP
    return {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 5, **timing}


def add(parts: PodParts, serving: Serving, name: str) -> None:
    """Add what the server needs for all this; name: the model's, for traces."""
    if guarded(serving):
        parts.set(request.SERVE_HEALTH_PORT_VARIABLE, str(request.SERVE_HEALTH_PORT))
    if serving.access_log:
        parts.set(request.SERVE_ACCESS_LOG_VARIABLE, "true")
    if serving.access is not None:
        _tokens(parts, serving.access)
    if serving.tls is not None:
        _certificates(parts, serving.tls)
    if serving.tracing is not None:
        _tracing(parts, serving.tracing, name)


def _tokens(parts: PodParts, access: Access) -> None:
    folder = f"{request.SERVE_SECRETS_MOUNT}/access"
    secret = access.token_secret
    parts.secret_files("access", secret.name, folder, {secret.key: "tokens"})
    parts.set(request.SERVE_TOKEN_FILE_VARIABLE, f"{folder}/tokens")


def _certificates(parts: PodParts, tls: Tls) -> None:
    folder = f"{request.SERVE_SECRETS_MOUNT}/tls"
    parts.secret_files("tls", tls.secret_name, folder, {name: name for name in ("tls.crt", "tls.key")})
    parts.set(request.SERVE_TLS_CERTIFICATE_VARIABLE, f"{folder}/tls.crt")
    parts.set(request.SERVE_TLS_KEY_VARIABLE, f"{folder}/tls.key")
    authority = tls.client_authority
    if authority is not None:
        folder = f"{request.SERVE_SECRETS_MOUNT}/client-authority"
        parts.secret_files("client-authority", authority.name, folder, {authority.key: "ca.crt"})
        parts.set(request.SERVE_TLS_CLIENT_AUTHORITY_VARIABLE, f"{folder}/ca.crt")


def _tracing(parts: PodParts, tracing: Tracing, name: str) -> None:
    """OpenTelemetry's own variables, so that its documentation holds here."""
    parts.set("OTEL_SERVICE_NAME", name)
    parts.set("OTEL_EXPORTER_OTLP_ENDPOINT", tracing.endpoint)
    parts.set("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    parts.set("OTEL_TRACES_SAMPLER_ARG", tracing.sampling_ratio)
