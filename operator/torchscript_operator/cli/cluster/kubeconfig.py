"""Which cluster a kubeconfig means, by kubectl's own rules for several files and for contexts."""

import contextlib
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

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


def load(chosen: str, context: str | None, configuration: Configuration) -> tuple[str, str | None]:
    """Fill in the configuration; returns the context's name and its namespace. CliError where none can be used."""
    try:
        read: list[dict[str, Any]] = [*KubeConfigMerger(chosen).config_files.values()]  # type: ignore[no-untyped-call]
        name, namespace = _context(read, context)
        load_kube_config(  # type: ignore[no-untyped-call]
            config_file=chosen, context=name, client_configuration=configuration, persist_config=False
        )
    except (ConfigException, OSError, ValueError, TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
        said = str(error).splitlines()[0]
        advice = "Name one by --kubeconfig or $KUBECONFIG, and a context by --context."
        raise CliError(f"There is no usable kubeconfig ({chosen}): {said}", REFUSED, advice) from error
    return name, namespace


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


def _context(read: list[dict[str, Any]], wanted: str | None) -> tuple[str, str | None]:
    """The context that is named, else that of the first file which names one, with its namespace.

    The library takes the last file's, and none at all where that one has gone, also when another is asked for.
    """
    known: dict[str, Any] = {}
    for each in read:
        for entry in each.get("contexts") or []:
            known.setdefault(entry["name"], entry.get("context") or {})
    if not known:
        raise ConfigException("No configuration found: it has no context.")
    active = wanted or next((str(found) for each in read if (found := each.get("current-context"))), None)
    names = ", ".join(known)
    if active is None:
        raise CliError("The kubeconfig has no current context.", REFUSED, f"Choose one with --context: {names}.")
    if active not in known:
        raise CliError(f"The kubeconfig has no context {active!r}.", REFUSED, f"Its contexts: {names}.")
    return active, known[active].get("namespace")
