"""Where a model comes from: its files on this machine, and an identity that does not depend on where they lay."""

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from torchscript_operator.artifact import digest, request
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import SourceIdentity
from torchscript_operator.artifact.store import SOURCE_REASONS, Credentials, FolderStore, Store, open_store
from torchscript_operator.artifact.store_errors import mapped, without_userinfo
from torchscript_operator.export import files

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

HUB_TIMEOUT_SECONDS = 30
"""Time for one answer about files; the files themselves are read for as long as bytes arrive."""
HTTP_LIBRARIES = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}
"""Libraries that versions of huggingface_hub speak HTTP with; their errors share no base class."""
SERVER_ERROR = 500
UNAUTHORIZED = 401
FORBIDDEN = 403
TOO_MANY_REQUESTS = 429
MOST_NAMES = 3
"""Of files, in a message."""


@dataclass(frozen=True)
class ResolvedSource:
    """A model folder that can be read."""

    folder: Path
    identity: SourceIdentity
    check: Callable[[], None] = lambda: None
    """Raises WorkerError SOURCE_CHANGED where files that are read in place are others by now."""


def resolve(
    source: request.Source, scratch: Path, environment: Mapping[str, str], trust: Collection[request.Trust] = ()
) -> ResolvedSource:
    """Bring the source's files to this machine and digest them. WorkerError with a SOURCE_ class.

    Downloads go below `scratch`, or of the Hub into the cache that the environment names; a folder is read where it is.
    """
    if isinstance(source, request.FolderSource):
        store = FolderStore(Path(source.path), SOURCE_REASONS)
        listed = _listed(store, source.path, trust)
        with mapped("read", source.path, SOURCE_REASONS):
            digests = {name: digest.of_file(Path(source.path) / name) for name in listed}
        check = partial(_check_unchanged, store, source.path, trust, listed)
        check()
        return replace(_resolved(Path(source.path), source.path, None, digests), check=check)
    folder = scratch / "source"
    # What an earlier attempt left in the same volume is not part of this source.
    shutil.rmtree(folder, ignore_errors=True)
    if isinstance(source, request.S3Source):
        location = request.StoreLocation(uri=source.uri, endpoint=source.endpoint, region=source.region)
        credentials = Credentials.from_environment(request.SOURCE_CREDENTIALS_PREFIX, environment)
        store_s3 = open_store(location, credentials, SOURCE_REASONS)
        listed = _listed(store_s3, store_s3.uri, trust)
        digests = {name: store_s3.download(name, folder / name) for name in listed}
        _check_unchanged(store_s3, store_s3.uri, trust, listed)
        return _resolved(folder, store_s3.uri, None, digests)
    endpoint = source.endpoint or environment.get(request.HUB_ENDPOINT_VARIABLE) or None
    asked = source.model_copy(update={"endpoint": endpoint})
    cache = environment.get(request.SOURCE_CACHE_VARIABLE)
    hub = _download_from_hub(
        asked, Path(cache) if cache else folder, environment.get(request.HUB_TOKEN_VARIABLE), trust, keep=bool(cache)
    )
    digests = {name: digest.of_file(hub.folder / name) for name in hub.names}
    return _resolved(hub.folder, f"hf://{source.repository}@{hub.commit}", hub.commit, digests)


def _listed(store: Store, where: str, trust: Collection[request.Trust]) -> dict[str, str]:
    """What is read of a source, each with what changes with the content."""
    found = store.list_files()
    if not found:
        message = f"There is no file below {where}."
        raise WorkerError(FailureReason.SOURCE_NOT_FOUND, message)
    return {name: found[name] for name in files.read_names(found, trust)}


def _check_unchanged(store: Store, where: str, trust: Collection[request.Trust], before: Mapping[str, str]) -> None:
    """Compare with what was listed: who replaces a model file by file leaves parts of two for a while."""
    now = _listed(store, where, trust)
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        message = f"Files of {where} changed while they were read: {', '.join(changed[:MOST_NAMES])}."
        raise WorkerError(FailureReason.SOURCE_CHANGED, message)


def _resolved(folder: Path, location: str, revision: str | None, digests: dict[str, str]) -> ResolvedSource:
    files.read_config(folder)
    files.check_weights(folder, digests)
    identity = SourceIdentity(location=location, revision=revision, files_digest=digest.of_value(digests))
    return ResolvedSource(folder, identity)


@dataclass(frozen=True)
class _Downloaded:
    """A commit's files."""

    folder: Path
    names: list[str]
    commit: str


def _download_from_hub(
    source: request.HuggingFaceSource, folder: Path, token: str | None, trust: Collection[request.Trust], *, keep: bool
) -> _Downloaded:
    """Download what is read of a repository, at the commit that its revision stands for.

    keep: the folder is a cache of many repositories, where what is there already is not downloaded again.
    """
    # Imported late: it takes longer than reading a small folder.
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    where = f"{source.repository}@{source.revision}"
    if source.endpoint:
        where += f" at {without_userinfo(source.endpoint)}"
    # False keeps the library from looking for a token of its own.
    api = HfApi(endpoint=source.endpoint, token=token or False)
    try:
        found = api.model_info(source.repository, revision=source.revision, timeout=HUB_TIMEOUT_SECONDS)
        commit = str(found.sha)
        if keep:
            folder = folder / digest.of_value([source.endpoint, source.repository])[:16] / commit
        names = files.read_names((sibling.rfilename for sibling in found.siblings or ()), trust)
        # File by file, since mirrors have this call, but not always the one that lists a commit's tree.
        for name in names:
            api.hf_hub_download(
                source.repository, name, revision=commit, local_dir=folder, etag_timeout=HUB_TIMEOUT_SECONDS
            )
    except HfHubHTTPError as error:
        _raise_hub_error(error, where, has_token=bool(token))
    except HFValidationError as error:
        message = f"{source.repository!r} is not the name of a repository."
        raise WorkerError(FailureReason.SOURCE_NOT_FOUND, message) from error
    except WorkerError:
        raise
    except Exception as error:  # noqa: BLE001 - classified or raised again
        _raise_other_hub_error(error, where, has_token=bool(token))
    if not keep:
        shutil.rmtree(folder / ".cache", ignore_errors=True)
    return _Downloaded(folder, names, commit)


def _raise_other_hub_error(error: Exception, where: str, *, has_token: bool) -> NoReturn:
    """Classify what is no answer of the Hub: a connection that broke, a full disk, or an error of ours."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    cause = error.__cause__ or error
    if isinstance(cause, HfHubHTTPError):
        _raise_hub_error(cause, where, has_token=has_token)
    library = type(cause).__module__.partition(".")[0]
    if library in HTTP_LIBRARIES or isinstance(error, LocalEntryNotFoundError):
        message = f"Cannot read {where}: {type(cause).__name__}."
        raise WorkerError(FailureReason.SOURCE_UNREACHABLE, message) from error
    with mapped("read", where, SOURCE_REASONS):
        raise error


def _raise_hub_error(error: "HfHubHTTPError", where: str, *, has_token: bool) -> NoReturn:
    from huggingface_hub import errors  # noqa: PLC0415

    status = error.response.status_code if error.response is not None else 0
    # A gated repository is reported as a kind of missing one, so it has to be asked for first.
    if isinstance(error, (errors.GatedRepoError, errors.DisabledRepoError)):
        reason, found = (
            FailureReason.SOURCE_ACCESS_DENIED,
            "access to the repository has not been granted to this token",
        )
        if not has_token:
            found = "the repository is gated and no token was given"
    elif isinstance(error, errors.RevisionNotFoundError):
        reason, found = FailureReason.SOURCE_NOT_FOUND, "the repository has no such revision"
    elif isinstance(error, errors.EntryNotFoundError):
        reason, found = FailureReason.SOURCE_NOT_FOUND, "a file of the repository is not there"
    elif isinstance(error, errors.RepositoryNotFoundError) and not (status == UNAUTHORIZED and has_token):
        # The Hub does not tell strangers which private repositories exist.
        reason = FailureReason.SOURCE_NOT_FOUND
        found = "there is no such repository" + ("" if has_token else ", or it is private and needs a token")
    elif status in {UNAUTHORIZED, FORBIDDEN}:
        reason, found = FailureReason.SOURCE_ACCESS_DENIED, f"the token is not accepted (the server answered {status})"
    elif status == TOO_MANY_REQUESTS or status >= SERVER_ERROR:
        reason, found = FailureReason.SOURCE_UNREACHABLE, f"the server answered {status}"
    else:
        reason, found = FailureReason.SOURCE_NOT_FOUND, f"the server answered {status}"
    raise WorkerError(reason, f"Cannot read {where}: {found}.") from error
