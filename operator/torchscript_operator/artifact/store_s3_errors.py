"""What boto3 raises, as failure classes."""

from functools import partial
from typing import Any

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from torchscript_operator.artifact import store_errors
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.artifact.store_errors import StoreReasons

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


def of_boto(error: Exception, reasons: StoreReasons) -> tuple[FailureReason | None, str]:
    """The class of an error and what may be said of it; None for one that neither boto3 nor the system raises."""
    name = type(error).__name__
    if isinstance(error, boto.ClientError):
        return _of_response(error.response, reasons)
    if isinstance(error, _CREDENTIAL_ERRORS):
        return reasons.access_denied, f"there are no usable credentials ({name})"
    if isinstance(error, boto.ParamValidationError | boto.InvalidRegionError | boto.UnknownEndpointError):
        return reasons.container_missing, f"the address is not valid ({name})"
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError | boto.IncompleteReadError | HTTPError):
        return reasons.unreachable, name
    return store_errors.of_system(error, reasons)


mapped = partial(store_errors.mapped, classify=of_boto)
"""store_errors.mapped for what boto3 raises, too."""


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
