"""What boto3 and the file system raise, as failure classes; sources and artifact stores share the mapping."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from torchscript_operator.artifact.failures import FailureReason, WorkerError


@dataclass(frozen=True)
class StoreReasons:
    """The failure classes of one side: the artifact store's, or the source's."""

    container_missing: FailureReason
    object_missing: FailureReason
    access_denied: FailureReason
    unreachable: FailureReason


ARTIFACT_REASONS = StoreReasons(
    FailureReason.STORE_NOT_FOUND,
    FailureReason.ARTIFACT_NOT_FOUND,
    FailureReason.STORE_ACCESS_DENIED,
    FailureReason.STORE_UNREACHABLE,
)
SOURCE_REASONS = StoreReasons(
    FailureReason.SOURCE_NOT_FOUND,
    FailureReason.SOURCE_NOT_FOUND,
    FailureReason.SOURCE_ACCESS_DENIED,
    FailureReason.SOURCE_UNREACHABLE,
)

_DENIED_CODES = {
    "AccessDenied",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    # versitygw, of an access key that it does not know.
    "XAdminUserNotFound",
}
_MISSING_CODES = {"404", "NoSuchKey", "NotFound", "NoSuchVersion"}
_BUSY_CODES = {"RequestTimeout", "RequestTimeTooSkewed", "SlowDown", "Throttling", "TooManyRequests"}
_ELSEWHERE_CODES = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_CREDENTIAL_ERRORS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.NoAuthTokenError,
    boto.ProfileNotFound,
)
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_FAULTY = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.ENOTCONN, errno.EHOSTDOWN}


def without_userinfo(url: str) -> str:
    """An endpoint or repository address that may be shown: user and password are cut out."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


@contextmanager
def mapped(action: str, where: str, reasons: StoreReasons) -> Iterator[None]:
    """Turn errors of boto3 and the operating system into WorkerError; `where` has to be free of secrets.

    Only error codes enter the message: what a server writes beside them may repeat what it was sent.
    """
    try:
        yield
    except boto.ClientError as error:
        reason, found = _of_response(error.response, reasons)
        raise WorkerError(reason, f"Cannot {action} {where}: {found}.") from error
    except _CREDENTIAL_ERRORS as error:
        found = f"there are no usable credentials ({type(error).__name__})"
        raise WorkerError(reasons.access_denied, f"Cannot {action} {where}: {found}.") from error
    except (boto.ParamValidationError, boto.InvalidRegionError, boto.UnknownEndpointError) as error:
        found = f"the address is not valid ({type(error).__name__})"
        raise WorkerError(reasons.container_missing, f"Cannot {action} {where}: {found}.") from error
    except (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, HTTPError) as error:
        raise WorkerError(reasons.unreachable, f"Cannot {action} {where}: {type(error).__name__}.") from error
    except OSError as error:
        reason = _of_errno(error.errno, reasons)
        found = error.strerror or type(error).__name__
        raise WorkerError(reason, f"Cannot {action} {where}: {found}.") from error


def _of_response(response: Any, reasons: StoreReasons) -> tuple[FailureReason, str]:
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    found = f"the server answered {status} {code}" if code != str(status) else f"the server answered {status}"
    if code == "NoSuchBucket":
        return reasons.container_missing, "the bucket does not exist"
    if code in _ELSEWHERE_CODES or status == 301:  # noqa: PLR2004
        return reasons.container_missing, f"the bucket is in another region ({code})"
    # Before the status: versitygw answers 404 for an access key that it does not know.
    if code in _DENIED_CODES or status in {401, 403}:
        return reasons.access_denied, found
    if code in _MISSING_CODES or status == 404:  # noqa: PLR2004
        return reasons.object_missing, "there is no such object"
    if code in _BUSY_CODES or status == 429 or status >= 500:  # noqa: PLR2004
        return reasons.unreachable, found
    return FailureReason.INTERNAL_ERROR, found


def _of_errno(number: int | None, reasons: StoreReasons) -> FailureReason:
    if number in _DISK_FULL:
        return FailureReason.OUT_OF_DISK
    if number in _DENIED:
        return reasons.access_denied
    if number in _MISSING:
        return reasons.object_missing
    return reasons.unreachable if number in _FAULTY else FailureReason.INTERNAL_ERROR
