"""An image registry on this machine: the Docker project's own, as Debian packages it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cluster import network, packages, run_node
from tests.cluster.components import answers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "127.0.0.1"
"""The node's containerd runs on this machine, too, and takes plain HTTP from a loopback address as Docker does."""
START_SECONDS = 30


@dataclass(frozen=True)
class Registry:
    """Where it is, and what it has been asked."""

    address: str
    """Host and port."""
    log: Path

    def asked(self, agent: str) -> set[str]:
        """Paths that a client, by the beginning of its name, was given."""
        line = re.compile(rf'"(?:GET|HEAD) (\S+) HTTP/1\.1" 200 \d+ "[^"]*" "{re.escape(agent)}')
        return set(line.findall(self.log.read_text()))


@contextmanager
def served_registry(folder: Path, passwords: str | None = None) -> Iterator[Registry]:
    """A new and empty registry below `folder` for as long as the block runs; the node forgets its images then.

    `passwords`: who may push and pull, as an htpasswd file with bcrypt has it; everybody when absent.
    """
    packages.require("docker-registry", "/usr/bin/docker-registry")
    program = shutil.which("docker-registry")
    assert program is not None
    (port,) = network.free_ports(1)
    address = f"{HOST}:{port}"
    settings: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": address},
    }
    folder.mkdir(parents=True, exist_ok=True)
    if passwords is not None:
        (folder / "htpasswd").write_text(passwords)
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(settings))  # JSON is YAML
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=output, stderr=output)
    try:
        _wait(process, f"http://{address}/", log)
        yield Registry(address, log)
    finally:
        process.terminate()
        process.wait(START_SECONDS)
        run_node.forget_images(f"{address}/")
        shutil.rmtree(folder / "storage", ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            msg = f"the registry does not answer:\n{log.read_text()[-2000:]}"
            raise RuntimeError(msg)
        time.sleep(0.05)
