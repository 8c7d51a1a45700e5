"""Where everything of the embedded cluster lives. Other rooms of the tests import from here."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cluster import binaries

NODE = "node-1"
"""Name of the only real node."""


def state() -> Path:
    """Everything that `down` deletes. Kept short: a unix socket's path holds at most 107 bytes."""
    return Path(os.environ.get("TSM_CLUSTER_DIR", "/var/lib/torchscript-operator/cluster"))


def logs() -> Path:
    """One `<component>.log` each, and the API server's `audit.log` (JSON lines, level Metadata)."""
    return state() / "logs"


def audit_log() -> Path:
    """What the API server answered, to whom: one JSON event a line."""
    return logs() / "audit.log"


def pki() -> Path:
    """The CA, and the certificates and kubeconfigs of every component."""
    return state() / "pki"


def kubeconfig() -> Path:
    """The administrator's kubeconfig."""
    return state() / "kubeconfig"


def containerd_socket() -> Path:
    """Our containerd's socket; images live in its namespace `k8s.io`."""
    return state() / "containerd.sock"


def images() -> Path:
    """Archives of the images that the cluster itself needs (pause, CoreDNS, versitygw)."""
    return state() / "images"


def binary(name: str) -> Path:
    """The built command `name` (`kubectl`, `helm`, `kwok` …); FileNotFoundError says how to build it."""
    return binaries.binary(name)
