"""What this machine knows about fetching Python packages, for builds that happen in a container.

Indexes, certificates and the cache of wheels are the machine's business: nothing of them is committed or gets into
an image.
"""

from __future__ import annotations

import configparser
import json
import os
import ssl
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian's images keep the certificates of authorities; ours is mounted over it while a build runs."""

WHEELS = "/var/cache/uv"
"""Where the machine's cache of wheels is mounted while a build runs."""


@dataclass(frozen=True)
class Index:
    """Where packages come from; all empty means each tool's own default."""

    url: str | None = None
    extra: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()

    def pip_conf(self) -> str:
        """pip's configuration inside the container."""
        lines = ["[global]", f"cert = {CA_BUNDLE}"]
        if self.url:
            lines.append(f"index-url = {self.url}")
        for key, values in (("extra-index-url", self.extra), ("trusted-host", self.trusted_hosts)):
            if values:
                lines += [f"{key} =", *(f"    {value}" for value in values)]
        return "\n".join(lines) + "\n"

    def uv_toml(self) -> str:
        """uv's configuration inside the container. A JSON string or list is a TOML one too."""
        lines = [f"cache-dir = {json.dumps(WHEELS)}", "system-certs = true"]
        if self.trusted_hosts:
            lines.append(f"allow-insecure-host = {json.dumps(self.trusted_hosts)}")
        for url in self.extra:
            lines += ["[[index]]", f"url = {json.dumps(url)}"]
        if self.url:
            lines += ["[[index]]", f"url = {json.dumps(self.url)}", "default = true"]
        return "\n".join(lines) + "\n"


def index(environment: Mapping[str, str] = os.environ, home: Path | None = None, etc: Path = Path("/etc")) -> Index:
    """uv's settings if there are any, else pip's: the environment before the user's file before the machine's."""
    home = home or Path.home()
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    uv = [_uv_environment(environment)]
    uv += [_uv_file(path) for path in (config / "uv/uv.toml", etc / "uv/uv.toml")]
    pip = [_pip_environment(environment)]
    pip_files = [config / "pip/pip.conf", home / ".pip/pip.conf", etc / "pip.conf"]
    if chosen := environment.get("PIP_CONFIG_FILE"):
        pip_files.insert(0, Path(chosen))
    pip += [_pip_file(path) for path in pip_files]
    return next((found for found in (*uv, *pip) if found != Index()), Index())


def certificates(environment: Mapping[str, str] = os.environ) -> Path | None:
    """This machine's bundle of certificate authorities, which may hold one of a proxy."""
    paths = (environment.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, CA_BUNDLE)
    return next((Path(path) for path in paths if path and Path(path).is_file()), None)


def wheels(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> Path:
    """uv's cache on this machine: what a virtual environment here has fetched, an image need not fetch again."""
    chosen = environment.get("UV_CACHE_DIR")
    return (
        Path(chosen) if chosen else Path(environment.get("XDG_CACHE_HOME") or (home or Path.home()) / ".cache") / "uv"
    )


def _uv_environment(environment: Mapping[str, str]) -> Index:
    url = environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL")
    extra = f"{environment.get('UV_INDEX', '')} {environment.get('UV_EXTRA_INDEX_URL', '')}".split()
    return Index(url, tuple(extra), tuple(environment.get("UV_INSECURE_HOST", "").split()))


def _uv_file(path: Path) -> Index:
    if not path.is_file():
        return Index()
    settings = tomllib.loads(path.read_text())
    indexes = settings.get("index", [])
    default = next((entry["url"] for entry in indexes if entry.get("default")), settings.get("index-url"))
    extra = [entry["url"] for entry in indexes if not entry.get("default")] + settings.get("extra-index-url", [])
    return Index(default, tuple(extra), tuple(settings.get("allow-insecure-host", [])))


def _pip_environment(environment: Mapping[str, str]) -> Index:
    return Index(
        environment.get("PIP_INDEX_URL") or None,
        tuple(environment.get("PIP_EXTRA_INDEX_URL", "").split()),
        tuple(environment.get("PIP_TRUSTED_HOST", "").split()),
    )


def _pip_file(path: Path) -> Index:
    parser = configparser.RawConfigParser()
    parser.read(path)
    merged = {
        key: value for name in ("global", "install") if parser.has_section(name) for key, value in parser.items(name)
    }
    return Index(
        merged.get("index-url") or None,
        tuple(merged.get("extra-index-url", "").split()),
        tuple(merged.get("trusted-host", "").split()),
    )
