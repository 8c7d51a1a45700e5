"""`make demo`: from a machine, or a cluster of your own, to an answered request, saying what happens meanwhile."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
import urllib.request
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.e2e import site as sites
from tests.e2e.own_cluster import farewell, own_cluster

NAMESPACE = "demo"
MODEL = "minilm"
TIMEOUT_SECONDS = 900
SENTENCES = ("A man is playing a guitar on stage.", "Someone performs music for an audience.")
COLOURS = {"True": "green", "False": "yellow", "Unknown": "dim"}

console = Console(highlight=False, width=None if sys.stdout.isatty() else 140, soft_wrap=True)
started = time.monotonic()


def say(text: str) -> None:
    """One step, with the time since the start."""
    console.print(f"[dim]{time.monotonic() - started:5.0f} s[/dim] [bold]{text}[/bold]")


def conditions(model: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The model's conditions."""
    found: list[dict[str, Any]] = (model or {}).get("status", {}).get("conditions", [])
    return found


def holds(model: dict[str, Any] | None, kind: str) -> dict[str, Any] | None:
    """A condition that is True."""
    return next((item for item in conditions(model) if item["type"] == kind and item["status"] == "True"), None)


def picture(model: dict[str, Any] | None, pods: list[dict[str, Any]]) -> Group:
    """What the live view shows: conditions, and the pods that are at work."""
    table = Table(box=None, pad_edge=False)
    for column in ("condition", "status", "reason", "message"):
        table.add_column(column, no_wrap=column != "message")
    for item in conditions(model):
        table.add_row(
            item["type"],
            Text(item["status"], style=COLOURS[item["status"]]),
            item["reason"],
            Text(item["message"][:100], style="dim"),
        )
    lines = [Text(f"{pod['metadata']['name']}: {pod['status'].get('phase', '')}", style="dim") for pod in pods]
    return Group(table, *lines)


def follow(site: sites.Site) -> dict[str, Any]:
    """Show progress until the model is Ready; exits with what went wrong when it stalls."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    seen = ""
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while time.monotonic() < deadline:
            model = site.kubectl.get("torchscriptmodel", MODEL, f"--namespace={NAMESPACE}")
            listed = site.kubectl.get("pods", f"--namespace={NAMESPACE}", f"--selector=torchscript.dev/model={MODEL}")
            view = picture(model, (listed or {}).get("items", []))
            if console.is_terminal:
                live.update(view)
            elif (now := json.dumps([[item["type"], item["reason"]] for item in conditions(model)])) != seen:
                seen = now
                live.console.print(view)
            generation = (model or {}).get("metadata", {}).get("generation")
            current = (model or {}).get("status", {}).get("observedGeneration") == generation
            if current and holds(model, "Ready") and not holds(model, "Reconciling"):
                return model or {}
            if current and (stall := holds(model, "Stalled")):
                console.print(f"[red]{stall['reason']}[/red]:", Text(stall["message"]))
                raise SystemExit(1)
            time.sleep(1)
    console.print(f"[red]not Ready within {TIMEOUT_SECONDS} s[/red]; see `kubectl describe tsm {MODEL} -n {NAMESPACE}`")
    raise SystemExit(1)


def report(model: dict[str, Any]) -> None:
    """The part of the status that matters most."""
    target = model["status"]["targets"][0]
    console.print(f"artifact   {target['artifact']['uri']}")
    console.print(f"digest     {target['artifact']['digest']}  ({target['artifact']['sizeBytes'] / 1e6:.1f} MB)")
    console.print(f"parity     {target['parity']['verdict']}, report at {target['parity'].get('report', '-')}")
    table = Table(box=None, pad_edge=False)
    for column in ("output", "shape", "rows", "max abs diff", "max rel diff", "min cosine"):
        table.add_column(column, justify="left" if column in {"output", "shape"} else "right")
    for row in target["parity"]["outputs"]:
        table.add_row(
            row["output"],
            row["shape"],
            str(row["rows"]),
            row["maximumAbsoluteDifference"],
            row["maximumRelativeDifference"],
            row["minimumCosineSimilarity"],
        )
    console.print(table)
    console.print(f"versions   {', '.join(f'{name} {version}' for name, version in target['versions'].items())}")


def ask(url: str) -> None:
    """Two sentences to the model's Service, as any OpenAI client would send them."""
    body = json.dumps({"model": MODEL, "input": list(SENTENCES)}).encode()
    request = urllib.request.Request(f"{url}/v1/embeddings", body, {"Content-Type": "application/json"})  # noqa: S310 -- our own URL
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        answer = json.load(response)
    first, second = (item["embedding"] for item in answer["data"])
    cosine = sum(a * b for a, b in zip(first, second, strict=True)) / (math.hypot(*first) * math.hypot(*second))
    for sentence, vector in zip(SENTENCES, (first, second), strict=True):
        shown = ", ".join(f"{value:+.4f}" for value in vector[:4])
        console.print(f"  {sentence!r}\n    [{shown}, …] ({len(vector)} numbers)")
    console.print(f"  cosine similarity [bold]{cosine:.4f}[/bold]; usage {answer['usage']}")


def run(site: sites.Site) -> None:
    """From a cluster and images that its nodes can run to an answered request."""
    say("S3 server, and the real all-MiniLM-L6-v2 into it (about 10 s)")
    sites.provide_namespace(site, NAMESPACE, sites.provide_s3(site))
    say("helm install (about 15 s)")
    sites.install(site)
    say("kubectl apply -f examples/minilm.yaml (an export and a rollout: about 1 min)")
    there = f"--namespace={NAMESPACE}"
    if holds(site.kubectl.get("torchscriptmodel", MODEL, there), "Stalled"):
        # What stopped an earlier run may be mended, and an unchanged spec would not be tried again.
        site.kubectl.run("delete", "torchscriptmodel", MODEL, there, "--timeout=60s")
    example = sites.ROOT / "examples" / "minilm.yaml"
    site.kubectl.run("apply", "--server-side", there, f"--filename={example}")
    model = follow(site)
    report(model)
    say(f"POST {model['status']['serving']['url']}/v1/embeddings (through a forwarded port)")
    with site.forward(f"service/{MODEL}", 80, NAMESPACE) as url:
        ask(url)


def main() -> int:
    """Run the demo; it can be run again at any time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", help="kubeconfig context of a cluster of yours; the embedded one when absent")
    parser.add_argument("--image-repository", help="where that cluster's nodes can pull images from")
    arguments = parser.parse_args()
    if bool(arguments.context) != bool(arguments.image_repository):
        parser.error("CONTEXT and IMAGE_REPOSITORY go together")
    try:
        with contextlib.ExitStack() as stack:
            if arguments.context:
                own = own_cluster(arguments.context, arguments.image_repository, NAMESPACE, say)
                site = stack.enter_context(own)
            else:
                site = sites.embedded(say)
            run(site)
    except (RuntimeError, OSError, LookupError, BotoCoreError, ClientError) as error:
        console.print("[red]error:[/red]", Text(str(error)))
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; `make demo` goes on from there")
        return 130
    say("done")
    if arguments.context:
        console.print(Text(farewell(arguments.context, NAMESPACE)))
    else:
        console.print(
            f"export KUBECONFIG={site.kubeconfig}   # to look around with kubectl; `make cluster-down` ends it"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
