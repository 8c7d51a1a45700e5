"""A cluster that the user has already, for `make demo CONTEXT=… IMAGE_REPOSITORY=…`.

What would fail or do harm is looked for first: nothing of somebody else's is changed, and minutes of building are not
spent before an error that a second finds.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cluster import binaries, images
from tests.cluster.image_store import push_archive
from tests.cluster.kubectl import Kubectl, KubectlError, program
from tests.cluster.s3 import s3_archive
from tests.cluster.scratch import ARCHITECTURE
from tests.e2e.site import MARK, RELEASE, S3_NAMESPACE, SYSTEM_NAMESPACE, Images, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEFINITION = "torchscriptmodels.torchscript.dev"
ANSWER_SECONDS = 20


@contextmanager
def own_cluster(context: str, repository: str, namespace: str, say: Callable[[str], None]) -> Iterator[Site]:
    """The cluster of a kubeconfig's context, with images pushed where its nodes can pull them.

    namespace: where the demo's model will be. RuntimeError says what is in the way.
    """
    if shutil.which("kubectl") is None:
        say("kubectl (about 7 min the first time: it is built with the rest of Kubernetes)")
        binaries.build(["kubernetes"])
    # The copy holds the user's credentials.
    with tempfile.TemporaryDirectory(prefix="tsm-demo-") as folder:
        kubeconfig = Path(folder) / "kubeconfig"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(_config_of(context))
        check(Kubectl(kubeconfig), context, namespace)
        say("helm and an S3 server (about 3 min the first time)")
        binaries.build(["helm", "versitygw"])
        say(f"the S3 server's image to {repository}")
        s3 = push_archive(s3_archive(), repository)
        say("images of operator and worker (about 4 min the first time)")
        operator, worker = images.build_operator(), images.build_worker()
        say(f"these to {repository}")
        yield Site(kubeconfig, Images(operator.push(repository), worker.push(repository), s3))


def _config_of(context: str) -> str:
    """One context of the user's kubeconfig, with what it refers to."""
    command = [program(), "config", "view", "--minify", "--flatten", f"--context={context}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        listed = [program(), "config", "get-contexts", "--output=name"]
        known = subprocess.run(listed, capture_output=True, text=True, check=False).stdout.split()
        msg = f"your kubeconfig has no context {context!r}, or not all of it ({done.stderr.strip()}); "
        raise RuntimeError(msg + (f"it has {', '.join(known)}" if known else "it has none"))
    return done.stdout


def check(kubectl: Kubectl, context: str, namespace: str) -> None:
    """Whether the demo can run here without touching anything but its own; RuntimeError says what is in the way."""
    try:
        kubectl.run("get", "--raw=/readyz", f"--request-timeout={ANSWER_SECONDS}s", seconds=2 * ANSWER_SECONDS)
        nodes: list[dict[str, Any]] = kubectl.get("nodes")["items"]
    except KubectlError as error:
        msg = f"the cluster of context {context!r} does not answer as it should: {error}"
        raise RuntimeError(msg) from error
    found = {node["status"]["nodeInfo"]["architecture"] for node in nodes}
    if ARCHITECTURE not in found:
        there = ", ".join(sorted(found)) or "none"
        msg = f"images built on this machine are for {ARCHITECTURE}, and the cluster's nodes are {there}"
        raise RuntimeError(msg)
    for name in (SYSTEM_NAMESPACE, S3_NAMESPACE, namespace):
        there = kubectl.get("namespace", name)
        if there is not None and MARK not in there["metadata"].get("labels", {}):
            msg = (
                f"namespace {name!r} is there already, and not of this demo, which would change what is in it. "
                f"If it may: `kubectl --context {context} label namespace {name} {MARK}=true`"
            )
            raise RuntimeError(msg)
    definition = kubectl.get("customresourcedefinition", DEFINITION) or {}
    notes = definition.get("metadata", {}).get("annotations", {})
    owner = notes.get("meta.helm.sh/release-namespace"), notes.get("meta.helm.sh/release-name")
    if definition and owner != (SYSTEM_NAMESPACE, RELEASE):
        msg = (
            f"{DEFINITION} is there already, of {'/'.join(filter(None, owner)) or 'no release of Helm'}: "
            "the demo brings an operator of its own, and two would look after the same models"
        )
        raise RuntimeError(msg)


def farewell(context: str, namespace: str) -> str:
    """How to look around, and how to remove everything: models first, while there is an operator to end them."""
    kubectl = f"kubectl --context {context}"
    return "\n".join(
        (
            f"{kubectl} -n {namespace} get tsm   # to look around; to remove everything:",
            f"  {kubectl} -n {namespace} delete tsm --all",
            f"  helm --kube-context {context} -n {SYSTEM_NAMESPACE} uninstall {RELEASE}",
            f"  {kubectl} delete namespace {namespace} {S3_NAMESPACE} {SYSTEM_NAMESPACE}",
            f"  {kubectl} delete crd {DEFINITION}",
        )
    )
