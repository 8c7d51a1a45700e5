"""How a serving process behaves beside its request: addresses, limits and times, each with its environment variable."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import SCRATCH_PATH, SCRATCH_VARIABLE, SERVE_GRPC_PORT, SERVE_PORT

PREFIX = "TSM_SERVE_"
"""A setting's variable is this and the field's name in capitals: TSM_SERVE_PORT."""


@dataclass(frozen=True)
class Settings:
    """Every limit has a default that suits a pod with a 60 seconds termination grace period."""

    host: str = "0.0.0.0"  # noqa: S104 - a pod's address is not known before it runs
    """Address to listen on."""
    port: int = SERVE_PORT
    """TCP port to listen on; 0 takes a free one, which the log names."""
    scratch: str = SCRATCH_PATH
    """Writable folder for the fetched artifact; its variable is the contract's TSM_SCRATCH_PATH."""
    log_level: str = "info"
    """debug writes one access line for each request too."""
    access_log: bool = False
    """Write one access line for each request."""
    log_probes: bool = False
    """Write access lines for health probes and metric scrapes too."""
    workers: int = 0
    """Forward passes at one time, one thread each while there is work for all; 0 takes one for each thread, up to 8.

    One pass split over threads waits at each of its barriers for the slowest; on a shared node that costs most of the
    throughput.
    """
    threads: int = 0
    """Compute threads of all workers together; 0 follows the container's CPU limit."""
    batch_tokens: int = 256
    """Padded tokens in one forward pass; one text longer than this runs alone. A core is busy from some 64 on, and
    every token more is a token that others wait for."""
    queue_rows: int = 8192
    """Texts that may wait; beyond, clients are told to come back later."""
    queue_tokens: int = 524288
    """Tokens that may wait: at 8 bytes and three inputs a token, 12 MiB."""
    queue_seconds: float = 5.0
    """Texts that would wait longer than this, as fast as passes are now, are refused at once with 429, so that whoever
    is let in is answered well within the request's own time."""
    request_bytes: int = 8 * 1024 * 1024
    """Longest request body."""
    buffered_bytes: int = 128 * 1024 * 1024
    """All request bodies held at one time."""
    request_rows: int = 2048
    """Texts in one request, OpenAI's own limit."""
    request_seconds: float = 30.0
    """From the request's head to its answer; a request that takes longer is given up with 503."""
    forward_seconds: float = 60.0
    """A forward pass that takes longer counts as hung, and the pod as not live."""
    connections: int = 1024
    """HTTP connections open at one time; beyond, the one that was idle longest is closed."""
    head_bytes: int = 32 * 1024
    """Longest request line and headers together."""
    head_seconds: float = 10.0
    """A client that takes longer to send them is given up."""
    write_seconds: float = 30.0
    """A client that reads nothing of its answer for this long is given up."""
    grpc: str = "auto"
    """on, off, or auto: on where the image has grpcio and protobuf."""
    grpc_port: int = SERVE_GRPC_PORT
    """TCP port of the Open Inference Protocol over gRPC; 0 takes a free one, which the log names."""
    grpc_message_bytes: int = 4 * 1024 * 1024
    """Longest request message, gRPC's own default."""
    grpc_calls: int = 256
    """Calls at one time; beyond, clients are told to come back later."""
    token_file: str = ""
    """File with bearer tokens, one a line, of which every request but the health probes must bear one; empty: none."""
    tls_certificate_file: str = ""
    """PEM file with the certificate chain of both ports; empty: no TLS."""
    tls_key_file: str = ""
    """PEM file with its key."""
    tls_client_authority_file: str = ""
    """PEM file with the authorities whose certificates clients must show; empty: clients need none."""
    health_port: int = 0
    """A port of its own for /v2/health and /metrics, with neither TLS nor token, for probes that have none; 0: none."""
    linger_seconds: float = 5.0
    """After SIGTERM new requests are still served for this long, while endpoints forget the pod."""
    drain_seconds: float = 45.0
    """After that, requests in flight have this long to finish."""

    @property
    def scratch_path(self) -> Path:
        """The scratch folder as a path."""
        return Path(self.scratch)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read what the environment overrides.

        Raises WorkerError (InvalidRequest) for a value that is not of the field's type or below zero.
        """
        given: dict[str, str | int | float | bool] = {}
        for field in fields(cls):
            variable = f"{PREFIX}{field.name.upper()}"
            if field.name == "scratch":
                variable = SCRATCH_VARIABLE
            if variable in environment:
                given[field.name] = _parse(variable, environment[variable], type(field.default))
        found = cls(**given)  # type: ignore[arg-type]  # each value was parsed as its field's own type
        found.check()
        return found

    def check(self) -> None:
        """Raise WorkerError (InvalidRequest) for values that do not go together."""
        problem = None
        if self.grpc not in {"on", "off", "auto"}:
            problem = f"{PREFIX}GRPC={self.grpc!r} is not on, off or auto"
        elif bool(self.tls_certificate_file) != bool(self.tls_key_file):
            problem = f"{PREFIX}TLS_CERTIFICATE_FILE and {PREFIX}TLS_KEY_FILE go together"
        elif self.tls_client_authority_file and not self.tls_certificate_file:
            problem = f"{PREFIX}TLS_CLIENT_AUTHORITY_FILE needs {PREFIX}TLS_CERTIFICATE_FILE"
        if problem is not None:
            raise WorkerError(FailureReason.INVALID_REQUEST, problem)


def _parse(variable: str, text: str, kind: type) -> str | int | float | bool:
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in {"true", "false"}:
            return text.lower() == "true"
    else:
        try:
            number: int | float = kind(text)
        except ValueError:
            number = -1
        if math.isfinite(number) and number >= 0:
            return number
    msg = f"{variable}={text!r} is not a valid {kind.__name__}"
    raise WorkerError(FailureReason.INVALID_REQUEST, msg)


def traced(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables ask for traces: an exporter, or the address that one would send them to."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "")
    if exporter:
        return "otlp" in exporter.split(",")
    return any(environment.get(name) for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"))
