"""Which cluster a kubeconfig means, by kubectl's own rules for several files and for contexts."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from kubernetes.client.configuration import Configuration
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.kube_config import KubeConfigMerger, load_kube_config

from torchscript_operator.cli.errors import REFUSED, CliError

DEFAULT = "~/.kube/config"
RENEWAL_SECONDS = 10.0
"""Between two looks for another token: several threads are refused at once, again and again."""


def files(given: str | None) -> str:
    """The files to read, as $KUBECONFIG lists them; empty and missing ones are passed over where others are not."""
    named = given or os.environ.get("KUBECONFIG") or DEFAULT
    filled = [part for part in named.split(os.pathsep) if part and has_text(part)]
    return os.pathsep.join(filled) or named


def has_text(part: str) -> bool:
    """Whether there is such a file with anything in it."""
    path = Path(part).expanduser()
    return path.is_file() and path.stat().st_size > 0


@dataclass(frozen=True)
class Loaded:
    """What a kubeconfig says beside what a Configuration has room for."""

    context: str
    namespace: str | None
    headers: tuple[tuple[str, str], ...]
    """By which the user acts as another; a name may be there several times."""


def load(chosen: str, context: str | None, configuration: Configuration) -> Loaded:
    """Fill in the configuration. CliError where none can be used."""
    try:
        read: list[dict[str, Any]] = [*KubeConfigMerger(chosen).config_files.values()]  # type: ignore[no-untyped-call]
        name, found = _context(read, context)
        headers = tuple(_impersonating(_entries(read, "users", "user").get(found.get("user"), {})))
        load_kube_config(  # type: ignore[no-untyped-call]
            config_file=chosen, context=name, client_configuration=configuration, persist_config=False
        )
    except (ConfigException, OSError, ValueError, TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
        said = str(error).splitlines()[0]
        advice = "Name one by --kubeconfig or $KUBECONFIG, and a context by --context."
        raise CliError(f"There is no usable kubeconfig ({chosen}): {said}", REFUSED, advice) from error
    return Loaded(name, found.get("namespace"), headers)


def _impersonating(user: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Headers of the fields by which a kubeconfig's user acts as another; the library passes them over."""
    if name := user.get("as"):
        yield "Impersonate-User", str(name)
    if uid := user.get("as-uid"):
        yield "Impersonate-Uid", str(uid)
    for group in user.get("as-groups") or []:
        yield "Impersonate-Group", str(group)
    for key, values in (user.get("as-user-extra") or {}).items():
        for value in values:
            yield f"Impersonate-Extra-{quote(str(key), safe='')}", str(value)


class Renewal:
    """Where to look for another token when the server takes the present one no longer.

    Its owner may have logged in again since, as while a page is open for days, and a credentials plugin is asked anew,
    also where what it gave should still have held.
    """

    def __init__(self, chosen: str, context: str, configuration: Configuration) -> None:
        """Take what was loaded, and the configuration that is to have the new token."""
        self._chosen = chosen
        self._context = context
        self._configuration = configuration
        self._lock = threading.Lock()
        self._asked = -math.inf

    def renew(self, refused: str | None) -> bool:
        """Look for another token than the one that was refused; whether there is one. Any thread may ask."""
        with self._lock:
            if self._token() == refused and time.monotonic() - self._asked >= RENEWAL_SECONDS:
                self._asked = time.monotonic()
                with contextlib.suppress(CliError):
                    load(self._chosen, self._context, self._configuration)
            return self._token() != refused

    def _token(self) -> str | None:
        """As the header has it."""
        found = self._configuration.auth_settings().get("BearerToken")
        return found["value"] if found else None


def _entries(read: list[dict[str, Any]], plural: str, singular: str) -> dict[Any, dict[str, Any]]:
    """What has a name in a kubeconfig; the first file's where several have the same."""
    known: dict[Any, dict[str, Any]] = {}
    for each in read:
        for entry in each.get(plural) or []:
            known.setdefault(entry["name"], entry.get(singular) or {})
    return known


def _context(read: list[dict[str, Any]], wanted: str | None) -> tuple[str, dict[str, Any]]:
    """The context that is named, else that of the first file which names one: its name and what it holds.

    The library takes the last file's, and none at all where that one has gone, also when another is asked for.
    """
    known = _entries(read, "contexts", "context")
    if not known:
        raise ConfigException("No configuration found: it has no context.")
    active = wanted or next((str(found) for each in read if (found := each.get("current-context"))), None)
    names = ", ".join(known)
    if active is None:
        raise CliError("The kubeconfig has no current context.", REFUSED, f"Choose one with --context: {names}.")
    if active not in known:
        raise CliError(f"The kubeconfig has no context {active!r}.", REFUSED, f"Its contexts: {names}.")
    return active, known[active]
