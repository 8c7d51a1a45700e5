"""Structured logs of the worker processes: one JSON object a line, fixed fields, credentials blotted out."""

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from torchscript_operator.artifact.request import (
    ARTIFACT_CREDENTIALS_PREFIX,
    HUB_TOKEN_VARIABLE,
    SOURCE_CREDENTIALS_PREFIX,
)

REDACTED = "[redacted]"
"""Stands where a credential stood."""
SECRET_VARIABLES = (
    HUB_TOKEN_VARIABLE,
    *(
        f"{prefix}{name}"
        for prefix in ("", SOURCE_CREDENTIALS_PREFIX, ARTIFACT_CREDENTIALS_PREFIX)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    ),
)
"""Environment variables whose values never appear in a log line."""
MINIMUM_SECRET_CHARACTERS = 4
"""Shorter values are no credentials, and blotting them out would tear words apart."""
SIGNED_URL = re.compile(r"(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+")
"""The parts of a presigned URL that grant access."""
TOKENS = re.compile(
    r"""
    (?P<kept> (?:authorization["']?\s*[:=]\s*["']?(?:basic|bearer|digest)?\s*)        # a header
            | (?:(?:api[_-]?key|password|passwd|secret(?:[_-]?access[_-]?key)?|token)["']?\s*[:=]\s*["']?)
            | (?:bearer\s+)
            | (?:[a-z][a-z0-9+.-]*://[^\s/:@]*:(?=[^\s/@]+@)) )                        # a password in a URL
        [^\s"',;&@]{8,}
    | \b(?:hf_[A-Za-z0-9]{20,} | (?:AKIA|ASIA)[A-Z0-9]{16} | gh[pousr]_[A-Za-z0-9]{20,} | eyJ[\w-]{10,}\.[\w-]+\.[\w-]+)
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""What looks like a credential, whoever wrote it: for text of processes whose environment is not known."""
STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""What every LogRecord has; anything else was given as `extra` and goes into the line."""


def secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The credential values of an environment, longest first so that none is cut by a shorter one inside it."""
    values = {environment.get(name, "") for name in SECRET_VARIABLES}
    return tuple(sorted((value for value in values if len(value) >= MINIMUM_SECRET_CHARACTERS), key=len, reverse=True))


def redact(text: str, hidden: tuple[str, ...]) -> str:
    """Blot out every hidden value and the granting parts of presigned URLs."""
    for value in hidden:
        text = text.replace(value, REDACTED)
    return SIGNED_URL.sub(rf"\1{REDACTED}", text)


def redact_unknown(text: str) -> str:
    """Blot out whatever looks like a credential, in text whose secrets nobody can tell."""
    return TOKENS.sub(lambda found: f"{found['kept'] or ''}{REDACTED}", redact(text, ()))


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time (UTC, milliseconds), level, logger, message, fixed fields, `extra` fields."""

    def __init__(self, fields: Mapping[str, str], hidden: tuple[str, ...]) -> None:
        """Take the fields that every line carries and the values that no line may carry."""
        super().__init__()
        self._fields = dict(fields)
        self._hidden = hidden

    def format(self, record: logging.LogRecord) -> str:
        """Encode one record; values that JSON does not know are written as their text."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields,
        }
        line |= {name: value for name, value in vars(record).items() if name not in STANDARD_FIELDS}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(line, default=str, ensure_ascii=False), self._hidden)


def configure(
    fields: Mapping[str, str], environment: Mapping[str, str], level: str = "INFO", stream: TextIO | None = None
) -> None:
    """Send all of the process's logs to one stream (standard error by default) in this format.

    Raises ValueError for an unknown level.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(fields, secrets(environment)))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
