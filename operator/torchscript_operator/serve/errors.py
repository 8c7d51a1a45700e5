"""Errors that clients see: a status, a sentence, and never a stack, a path or a secret."""

from typing import Any, NoReturn

from torchscript_operator.serve.buckets import TooLongError
from torchscript_operator.serve.engine import (
    DeadlineError,
    EngineDeadError,
    EngineError,
    QueueFullError,
)

CLIENT_ERROR = 400
"""The first status that is the client's fault."""
SERVER_ERROR = 500
"""The first status that is ours."""
UNAUTHENTICATED = 401
"""No token, or a wrong one."""
LONGEST_MESSAGE = 1000
"""Characters of an error's message."""


class ApiError(Exception):
    """An answer that is no result."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        parameter: str | None = None,
        retry: int | None = None,
    ) -> None:
        """Take the HTTP status, one sentence, OpenAI's error code and parameter, and Retry-After in seconds."""
        super().__init__(message)
        self.status = status
        # A message may quote what the client sent, which may be megabytes.
        self.message = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}…"
        self.code = code
        self.parameter = parameter
        self.retry = retry

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        found = {} if self.retry is None else {"Retry-After": str(self.retry)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == UNAUTHENTICATED else {})

    def openai(self) -> dict[str, Any]:
        """The body in OpenAI's shape."""
        kind = "server_error" if self.status >= SERVER_ERROR else "invalid_request_error"
        kind = {UNAUTHENTICATED: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}

    def body(self, path: str) -> dict[str, Any]:
        """The body in the shape of the protocol that a path belongs to."""
        return self.openai() if path.startswith("/v1/") else self.inference()

    def inference(self) -> dict[str, Any]:
        """The body in the Open Inference Protocol's shape."""
        return {"error": self.message}


def refuse(message: str, parameter: str | None = None) -> NoReturn:
    """Raise the error of a request that no retry will make right."""
    raise ApiError(400, message, parameter=parameter)


def too_long(error: TooLongError, parameter: str) -> ApiError:
    """A text beyond the limit."""
    return ApiError(400, str(error), code="context_length_exceeded", parameter=parameter)


def unauthenticated() -> ApiError:
    """No token, or a wrong one."""
    return ApiError(UNAUTHENTICATED, "a bearer token of this server is needed", code="invalid_api_key")


def not_ready(stage: str) -> ApiError:
    """Loading, draining or broken."""
    return ApiError(503, f"the model is not ready (stage: {stage})", code="not_ready", retry=1)


def of_engine(error: EngineError) -> ApiError:
    """What became of a request in the queue."""
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), code="queue_full", retry=error.retry_after)
    if isinstance(error, DeadlineError):
        return ApiError(503, "the request's time ran out before its answer", code="deadline_exceeded", retry=1)
    if isinstance(error, EngineDeadError):
        return ApiError(503, "the model has stopped computing", code="not_ready", retry=1)
    return ApiError(500, str(error), code="forward_failed")
