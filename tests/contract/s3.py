"""A real S3 server for tests: versitygw over a folder, as a process of the test run."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.paths import binary
from torchscript_operator.artifact.request import StoreLocation
from torchscript_operator.artifact.store import Credentials
from torchscript_operator.artifact.store_s3 import S3Store

ACCESS_KEY = "tests-access-key"
SECRET_KEY = "tests-secret-key"  # noqa: S105 - opens nothing but this server
BUCKET = "models"


@dataclass(frozen=True)
class S3Server:
    """A running server with one bucket."""

    endpoint: str
    folder: Path
    """Where the server keeps buckets as folders and objects as files."""

    @property
    def bucket(self) -> Path:
        return self.folder / BUCKET

    def location(self, prefix: str, bucket: str = BUCKET) -> StoreLocation:
        return StoreLocation(uri=f"s3://{bucket}/{prefix}", endpoint=self.endpoint, region="us-east-1")

    def store(self, prefix: str, bucket: str = BUCKET) -> S3Store:
        return S3Store(self.location(prefix, bucket), Credentials(ACCESS_KEY, SECRET_KEY))

    def upload_folder(self, folder: Path, prefix: str, bucket: str = BUCKET) -> None:
        (self.folder / bucket).mkdir(exist_ok=True)
        store = self.store(prefix, bucket)
        for path in folder.rglob("*"):
            if path.is_file():
                store.upload(path.relative_to(folder).as_posix(), path)

    @staticmethod
    def variables(prefix: str, secret: str = SECRET_KEY) -> dict[str, str]:
        """Credentials as a worker finds them in its environment."""
        return {f"{prefix}AWS_ACCESS_KEY_ID": ACCESS_KEY, f"{prefix}AWS_SECRET_ACCESS_KEY": secret}


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[S3Server]:
    """Run the server on a free port; FileNotFoundError where it has not been built."""
    command = binary("versitygw")
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    port = _free_port()
    arguments = ["--access", ACCESS_KEY, "--secret", SECRET_KEY, "--port", f"127.0.0.1:{port}", "--quiet", *options]
    sidecar = folder.with_name("metadata")
    sidecar.mkdir(exist_ok=True)
    # Metadata in a folder of its own: not every file system has extended attributes.
    posix = ["posix", "--sidecar", str(sidecar), str(folder)]
    process = subprocess.Popen([str(command), *arguments, *posix], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait_for(port, process)
        yield S3Server(f"http://127.0.0.1:{port}", folder)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr is not None
            raise RuntimeError(process.stderr.read().decode())
        with socket.socket() as client:
            client.settimeout(0.2)
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    message = f"the S3 server does not listen on port {port}"
    raise TimeoutError(message)
