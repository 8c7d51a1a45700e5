"""What a store is opened with."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Credentials:
    """S3 credentials that a Secret holds; never part of a request, a message or a log."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, prefix: str, environment: Mapping[str, str] | None = None) -> "Credentials | None":
        """Read `<prefix>AWS_ACCESS_KEY_ID` and so on; None when absent, so that boto3's own chain applies."""
        variables = os.environ if environment is None else environment
        access_key_id = variables.get(f"{prefix}AWS_ACCESS_KEY_ID")
        secret_access_key = variables.get(f"{prefix}AWS_SECRET_ACCESS_KEY")
        if not access_key_id or not secret_access_key:
            return None
        return cls(access_key_id, secret_access_key, variables.get(f"{prefix}AWS_SESSION_TOKEN") or None)
