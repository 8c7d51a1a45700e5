"""kubectl as a function, for one cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from string import Template
from typing import Any

from tests.cluster import binaries

MANIFESTS = Path(__file__).parent / "manifests"
"""YAML with `$name` placeholders."""


class KubectlError(RuntimeError):
    """kubectl said no; the message is its own."""


class Kubectl:
    """Runs kubectl against the cluster of a kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        """The kubeconfig need not exist yet."""
        self.kubeconfig = kubeconfig

    def run(self, *arguments: str, stdin: str | None = None, seconds: float = 120) -> str:
        """Standard output; KubectlError with standard error when it fails."""
        command = [program(), f"--kubeconfig={self.kubeconfig}", *arguments]
        environment = dict(os.environ)
        if (self.kubeconfig.parent / "pki").exists():  # a cluster of ours: its cache of API types goes with it
            environment["KUBECACHEDIR"] = str(self.kubeconfig.parent / "kubectl-cache")
        try:
            done = subprocess.run(
                command, input=stdin, env=environment, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            msg = f"kubectl {' '.join(arguments)}: no end after {seconds:.0f} s"
            raise KubectlError(msg) from error
        if done.returncode:
            msg = f"kubectl {' '.join(arguments)}: {done.stderr.strip()}"
            raise KubectlError(msg)
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """An object or a list as JSON; None when it does not exist."""
        output = self.run("get", *arguments, "--output=json", "--ignore-not-found")
        return json.loads(output) if output.strip() else None

    def apply(self, manifest: str, **values: str) -> None:
        """Applies a file of `manifests/`, its placeholders filled in."""
        text = Template((MANIFESTS / manifest).read_text()).substitute(values)
        self.run("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=text)

    def patch_node_status(self, node: str, *operations: dict[str, str]) -> None:
        """A JSON patch of a node's status."""
        self.run("patch", "node", node, "--subresource=status", "--type=json", f"--patch={json.dumps(operations)}")


def program() -> str:
    """The one that we built, else the user's: for a cluster of theirs none need be built."""
    try:
        return str(binaries.binary("kubectl"))
    except FileNotFoundError:
        if found := shutil.which("kubectl"):
            return found
        raise
