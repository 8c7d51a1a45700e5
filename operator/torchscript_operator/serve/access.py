"""Who may ask: a bearer token and TLS, both from mounted files, both read again when a Secret is renewed."""

import hmac
import logging
import ssl
from pathlib import Path

from torchscript_operator.artifact.failures import FailureReason, WorkerError

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
            msg = f"the token file cannot be read: {error.strerror}"
            raise WorkerError(FailureReason.INVALID_REQUEST, msg) from error
        if not self._tokens:
            raise WorkerError(FailureReason.INVALID_REQUEST, "the token file holds no token")

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
    """A server certificate, its key and, for mutual TLS, the authority of client certificates."""

    def __init__(self, certificate: Path, key: Path, client_authority: Path | None) -> None:
        """Read the files.

        Raises WorkerError (InvalidRequest) for files that are missing or do not fit together.
        """
        self.certificate = certificate
        self.key = key
        self.client_authority = client_authority
        self._seen = self._changed()
        try:
            self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.context.load_cert_chain(certificate, key)
            if client_authority is not None:
                self.context.load_verify_locations(client_authority)
                self.context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            msg = f"the certificate, its key or the clients' authority cannot be used: {reason}"
            raise WorkerError(FailureReason.INVALID_REQUEST, msg) from error

    def renew(self) -> None:
        """Use renewed files for new connections; what cannot be used leaves the last certificate in place."""
        seen = self._changed()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self.context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError):
            LOGGER.exception("the renewed certificate cannot be used")
        else:
            LOGGER.info("the certificate was renewed")

    def _changed(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in (self.certificate, self.key))
