"""What the file system raises, as failure classes; sources and artifact stores share the mapping."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

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

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_FAULTY = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.ENOTCONN, errno.EHOSTDOWN}


def without_userinfo(url: str) -> str:
    """An endpoint or repository address that may be shown: user and password are cut out."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def of_system(error: Exception, reasons: StoreReasons) -> tuple[FailureReason | None, str]:
    """The class of an error and what may be said of it; None for one that the operating system does not raise."""
    if isinstance(error, OSError):
        return _of_errno(error.errno, reasons), error.strerror or type(error).__name__
    return None, ""


@contextmanager
def mapped(
    action: str,
    where: str,
    reasons: StoreReasons,
    classify: Callable[[Exception, StoreReasons], tuple[FailureReason | None, str]] = of_system,
) -> Iterator[None]:
    """Turn the errors that `classify` knows into WorkerError; `where` has to be free of secrets.

    Only error codes enter the message: what a server writes beside them may repeat what it was sent.
    """
    try:
        yield
    except Exception as error:
        reason, found = classify(error, reasons)
        if reason is None:
            raise
        raise WorkerError(reason, f"Cannot {action} {where}: {found}.") from error


def _of_errno(number: int | None, reasons: StoreReasons) -> FailureReason:
    if number in _DISK_FULL:
        return FailureReason.OUT_OF_DISK
    if number in _DENIED:
        return reasons.access_denied
    if number in _MISSING:
        return reasons.object_missing
    return reasons.unreachable if number in _FAULTY else FailureReason.INTERNAL_ERROR
