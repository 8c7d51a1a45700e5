"""Where things lie: folders of this machine, and what a URI on the command line means."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from torchscript_operator.artifact import digest as digests
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.artifact.manifest import MANIFEST_NAME
from torchscript_operator.artifact.request import ARTIFACT_CREDENTIALS_PREFIX, StoreLocation
from torchscript_operator.artifact.store import Credentials, Store, open_store
from torchscript_operator.cli.errors import CliError

FOLDER_NAME = "torchscript-operator"
REPORT_NAME = "report.json"
"""Beside the manifest; all that a refused export leaves under its key."""
KEY_DIGITS = 64
"""A key is a SHA-256 in hexadecimal."""
MINIMUM_KEY_DIGITS = 6
"""Shorter beginnings of a key are taken for names of folders."""


def default_store(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that artifacts go to when the command line names no store."""
    return _base(environment, "XDG_DATA_HOME", ".local/share") / FOLDER_NAME / "artifacts"


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """For what may be deleted at any time: logs of the last runs and files in the making."""
    return _base(environment, "XDG_CACHE_HOME", ".cache") / FOLDER_NAME


def _base(environment: Mapping[str, str], variable: str, otherwise: str) -> Path:
    given = Path(environment.get(variable, ""))
    # The specification of these variables says that a relative path is to be ignored.
    return given if given.is_absolute() else Path.home() / otherwise


def location(text: str, endpoint: str | None = None, region: str | None = None) -> StoreLocation:
    """The place that an s3:// URI, a file:// URI or a path names. CliError for another scheme."""
    parts = urlsplit(text)
    if parts.scheme == "s3" and parts.netloc:
        return StoreLocation(uri=text.rstrip("/"), endpoint=endpoint, region=region)
    if parts.scheme == "file" and not parts.netloc:
        return StoreLocation(uri=_file_uri(Path(unquote(parts.path))))
    if "://" in text:
        raise CliError(f"{text} is no place for artifacts.", advice="Give s3://bucket/prefix or a folder.")
    return StoreLocation(uri=_file_uri(Path(text).expanduser()))


def _file_uri(path: Path) -> str:
    return f"file://{quote(str(path.absolute()))}".rstrip("/")


@dataclass(frozen=True)
class Place:
    """A store's root, or the folder of one artifact."""

    location: StoreLocation
    store: Store
    digest: str | None
    """sha256:<hex> of the artifact's manifest; None at a root and where there is no whole artifact."""
    has_report: bool = False

    @property
    def is_artifact(self) -> bool:
        """Whether this is an artifact, or what is left of a refused one."""
        return self.digest is not None or self.has_report


def find(text: str, root: StoreLocation, endpoint: str | None = None, region: str | None = None) -> Place:
    """What a URI argument means: an artifact, a store, or the beginning of a key in the store `root`.

    WorkerError as the store's own, CliError where there is no such folder or key.
    """
    if _is_key(text) and not Path(text).exists():
        return _by_key(text, root)
    return look(location(text, endpoint, region))


def meant(text: str, store: str | None, endpoint: str | None, region: str | None) -> Place | None:
    """The place that an argument means; None for the name of a model in the cluster.

    The first digits of a key could be a name as well: tsm/NAME is always a model.
    """
    kind, slash, _ = text.partition("/")
    is_model = (
        not _is_key(text) if not slash else kind.lower().startswith(("tsm", "torchscriptmodel")) and ":" not in kind
    )
    if is_model and store is None and not Path(text).expanduser().is_dir():
        return None
    return find(text, location(store or str(default_store()), endpoint, region), endpoint, region)


def root(where: StoreLocation) -> Place:
    """A store as a whole; the default store need not be there yet."""
    if where.uri == location(str(default_store())).uri and not default_store().is_dir():
        default_store().mkdir(parents=True)
    return look(where)


def look(where: StoreLocation, credentials: Credentials | None = None) -> Place:
    """What lies at a place, with the environment's credentials unless others are given.

    WorkerError as the store's own, CliError where the folder is not there at all.
    """
    store = open_at(where) if credentials is None else open_store(where, credentials)
    folder = Path(unquote(urlsplit(where.uri).path))
    if where.uri.startswith("file:") and not folder.is_dir():
        advice = "Give s3://bucket/prefix/key, a folder, or the first digits of a key; `tsm inspect` lists the store."
        raise CliError(f"There is no folder {folder}.", CLASSES[FailureReason.ARTIFACT_NOT_FOUND].exit_code, advice)
    has_report = store.exists(REPORT_NAME)
    if not store.exists(MANIFEST_NAME):
        return Place(where, store, None, has_report)
    sha256 = digests.of_bytes(store.read_bytes(MANIFEST_NAME))
    return Place(where, store, f"{digests.PREFIX}{sha256}", has_report)


def open_at(where: StoreLocation) -> Store:
    """The store, with the credentials of the environment or of boto3's own chain."""
    return open_store(where, Credentials.from_environment(ARTIFACT_CREDENTIALS_PREFIX))


def keys(store: Store) -> dict[str, frozenset[str]]:
    """Key to the names right below it, of all artifacts below a store's root."""
    found: dict[str, set[str]] = {}
    for path in store.list_files():
        key, _, name = path.partition("/")
        if len(key) == KEY_DIGITS and _is_key(key):
            found.setdefault(key, set()).add(name)
    return {key: frozenset(names) for key, names in found.items() if names & {MANIFEST_NAME, REPORT_NAME}}


def below(root: StoreLocation, key: str) -> StoreLocation:
    """The place of one artifact of a store."""
    return root.model_copy(update={"uri": f"{root.uri}/{key}"})


def _is_key(text: str) -> bool:
    return MINIMUM_KEY_DIGITS <= len(text) <= KEY_DIGITS and set(text) <= set("0123456789abcdef")


def _by_key(start: str, root: StoreLocation) -> Place:
    if len(start) == KEY_DIGITS:
        return look(below(root, start))
    found = [key for key in keys(look(root).store) if key.startswith(start)]
    if len(found) != 1:
        many = (
            f"{len(found)} keys of {unquote(root.uri.removeprefix('file://'))} begin"
            if found
            else f"No key of {unquote(root.uri.removeprefix('file://'))} begins"
        )
        raise CliError(f"{many} with {start}.", advice="`tsm inspect` lists the store's artifacts.")
    return look(below(root, found[0]))
