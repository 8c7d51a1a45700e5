"""Command line of the embedded cluster: `python -m tests.cluster --help`, from the repository's root."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.cluster import binaries, packages, paths, run_node
from tests.cluster.down import down
from tests.cluster.processes import ClusterError
from tests.cluster.s3 import deploy_s3
from tests.cluster.status import status
from tests.cluster.up import up


def main() -> int:
    """Runs one command; the exit code is 0 when it did what it says."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments) or 0)
    except (RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        if arguments.command == "up":
            print("Next: `python -m tests.cluster up` repairs what it finds; `down` starts over.", file=sys.stderr)
        return 1


def _build(arguments: argparse.Namespace) -> None:
    packages.install()
    binaries.build(arguments.tool)


def _up(arguments: argparse.Namespace) -> None:
    up(neuron=arguments.neuron_node)


def _down(_: argparse.Namespace) -> bool:
    left = down()
    for line in left:
        print(f"still there: {line}", file=sys.stderr)
    if left:
        print("Next: `down` again, with the TSM_CLUSTER_DIR that the cluster was started with.", file=sys.stderr)
    return bool(left)


def _status(_: argparse.Namespace) -> bool:
    text, well = status()
    print(text)
    return not well


def _kubeconfig(_: argparse.Namespace) -> None:
    if not paths.kubeconfig().exists():
        raise ClusterError("the cluster is down: run `python -m tests.cluster up`")
    print(paths.kubeconfig())


def _load_image(arguments: argparse.Namespace) -> None:
    for archive in arguments.archive:
        print(run_node.import_archive(archive))


def _s3_up(_: argparse.Namespace) -> None:
    s3 = deploy_s3(paths.kubeconfig())
    print(f"{s3.endpoint} (from this machine: {s3.node_endpoint}); keys in the Secret s3/versitygw-root")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="A real Kubernetes on this machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="build the binaries and install the packages, start nothing")
    build.add_argument("tool", nargs="*", help=f"of {', '.join(binaries.TOOLS)}; default: what the cluster needs")
    build.set_defaults(run=_build)

    start = commands.add_parser("up", help="start the cluster, or repair what does not run")
    start.add_argument("--neuron-node", action="store_true", help="let the node look like inf1: type, taint, a device")
    start.set_defaults(run=_up)

    commands.add_parser("down", help="remove the cluster, and check that nothing is left").set_defaults(run=_down)
    commands.add_parser("status", help="show what runs, and what to do next").set_defaults(run=_status)
    commands.add_parser("kubeconfig", help="print the kubeconfig's path").set_defaults(run=_kubeconfig)
    commands.add_parser("s3-up", help="deploy an S3 server into namespace s3").set_defaults(run=_s3_up)

    load = commands.add_parser("load-image", help="put images into the node")
    load.add_argument("archive", type=Path, nargs="+", help="OCI archive: buildah push IMAGE oci-archive:FILE:IMAGE")
    load.set_defaults(run=_load_image)
    return parser


if __name__ == "__main__":
    sys.exit(main())
