"""Who may ask: a bearer token and TLS, both from mounted files, both read again when a Secret is renewed."""

import hmac
import logging
import ssl
from pathlib import Path

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.serve.settings import Settings

LOGGER = logging.getLogger(__name__)
SCHEME = "bearer "
"""Before the token in an Authorization header; clients write it in any case."""


class Tokens:
    """The tokens of a file, one a line, so that an old and a new one can hold at the same time."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises WorkerError (InvalidRequest) when it cannot be read or holds no token: nobody asked for an open server.
        """
        self._path = path
        self._seen: int | None = None
        self._tokens: list[bytes] = []
        try:
            self._read()
        except OSError as error:
            msg = f"the tokens (spec.serving.access) cannot be read: {error.strerror}"
            raise WorkerError(FailureReason.INVALID_REQUEST, msg) from error
        if not self._tokens:
            raise WorkerError(FailureReason.INVALID_REQUEST, "the tokens (spec.serving.access) are empty")

    def allow(self, authorization: bytes) -> bool:
        """Whether an Authorization header's value holds one of the tokens."""
        try:
            self._read()
        except OSError:
            LOGGER.warning("the token file cannot be read any more; its last tokens hold")
        if authorization[: len(SCHEME)].lower() != SCHEME.encode():
            return False
        given = authorization[len(SCHEME) :].strip()
        # Every token is compared, and each in constant time: how long it takes says nothing about any of them.
        matches = [hmac.compare_digest(given, token) for token in self._tokens]
        return any(matches)

    def _read(self) -> None:
        changed = self._path.stat().st_mtime_ns
        if changed == self._seen:
            return
        tokens = [line.strip() for line in self._path.read_bytes().splitlines() if line.strip()]
        self._seen = changed
        if tokens:
            self._tokens = tokens


class Tls:
    """A server certificate, its key and, for mutual TLS, the authorities of client certificates."""

    def __init__(self, certificate: Path, key: Path, client_authority: Path | None) -> None:
        """Read the files.

        Raises WorkerError (InvalidRequest) for files that are missing or do not fit together.
        """
        self.certificate = certificate
        self.key = key
        self.client_authority = client_authority
        self._seen = self._changed()
        try:
            self.context = self._read()
        except (OSError, ssl.SSLError) as error:
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            msg = f"the certificate, its key or the clients' authority (spec.serving.tls) cannot be used: {reason}"
            raise WorkerError(FailureReason.INVALID_REQUEST, msg) from error
        self._latest = self.context
        # A server keeps the context that it was started with: each of its handshakes is led to the latest.
        self.context.sni_callback = self._lead

    def renew(self) -> None:
        """Use renewed files for new connections; what cannot be used leaves the last ones in place."""
        seen = self._changed()
        if seen == self._seen:
            return
        try:
            self._latest = self._read()
        except (OSError, ssl.SSLError):
            # Files of one Secret change at once, those of two do not: they are looked at again at the next turn.
            LOGGER.exception("the renewed certificate cannot be used")
        else:
            self._seen = seen
            LOGGER.info("the certificate was renewed")

    def _lead(self, connection: ssl.SSLObject, _host: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._latest

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        if self.client_authority is not None:
            context.load_verify_locations(self.client_authority)
            context.verify_mode = ssl.CERT_REQUIRED
            # A ticket would let a client in again without a look at its certificate.
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
        return context

    def _changed(self) -> tuple[int, ...]:
        paths = (self.certificate, self.key, self.client_authority)
        return tuple(path.stat().st_mtime_ns for path in paths if path is not None and path.exists())


def tokens_of(settings: Settings) -> Tokens | None:
    """Tokens where the settings ask for them. Raises WorkerError (InvalidRequest)."""
    return Tokens(Path(settings.token_file)) if settings.token_file else None


def tls_of(settings: Settings) -> Tls | None:
    """TLS where the settings ask for it. Raises WorkerError (InvalidRequest)."""
    if not settings.tls_certificate_file:
        return None
    authority = settings.tls_client_authority_file
    return Tls(Path(settings.tls_certificate_file), Path(settings.tls_key_file), Path(authority) if authority else None)
