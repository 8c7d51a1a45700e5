"""Write what the documentation holds of the code: the API, tolerances, failures, the operator's rights and metrics.

`python docs/generate.py` writes, `python docs/generate.py --check` compares and exits 1 on a difference.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.metrics import MetricWrapperBase

from torchscript_operator.api import conditions, crd
from torchscript_operator.api.v1alpha1.base import VALIDATIONS
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.artifact.tolerances import DEFAULTS
from torchscript_operator.controller import metrics as measured
from torchscript_operator.controller.census import Census

ROOT = Path(__file__).resolve().parent.parent
END = "<!-- End of what is generated. -->\n"
RULES = Path("charts/torchscript-operator/templates/_helpers.tpl")

Json = dict[str, Any]

CONDITIONS = {
    conditions.READY: "a proven artifact answers for every served target (one that is added to a Ready model counts"
    " once all its pods were Ready); without serving: every target is proven",
    conditions.SOURCE_RESOLVED: "the source was found, read and identified",
    conditions.COMPILED: "every target of the present spec is compiled",
    conditions.PARITY_VERIFIED: "every target of the present spec computes what eager computes, within the tolerances",
    conditions.AVAILABLE: "every Deployment has the pods that it wants, all Ready",
    conditions.RECONCILING: "work is under way, or waits for something that can pass by itself",
    conditions.STALLED: "nothing more happens until somebody changes something; the message says what",
}
"""What True means."""

REASONS: dict[str, tuple[str, str]] = {
    conditions.SUCCEEDED: ("What the condition is about is done.", ""),
    conditions.SERVING: ("The Deployment serves the artifact that is wanted.", ""),
    conditions.EXPORTING: ("The export Job runs, or is being started.", "`tsm logs NAME` follows it."),
    conditions.VERIFYING: ("Compiled; a Job on the accelerator has yet to prove it.", "`tsm logs NAME` follows it."),
    conditions.RETRYING_WITH_MEMORY: (
        "The Job was killed for want of memory and is tried once more with `retryMemory`.",
        "Nothing; where it passes, raise `job.resources` for the next time.",
    ),
    conditions.PENDING: ("No artifact is proven yet, so nothing is rolled out.", "See the export's condition."),
    conditions.ROLLING_OUT: ("Pods of the proven artifact are starting; the ones before it still serve.", ""),
    conditions.NOT_SERVED: ("`spec.serving.targets` is empty.", ""),
    conditions.SUSPENDED: ("`spec.suspend` holds new exports and rollouts.", "`tsm resume NAME`."),
    conditions.INVALID_SPEC: (
        "The operator cannot read the spec; CRD and operator are of different releases.",
        "Install the CRD of the operator's release, then correct the spec.",
    ),
    conditions.REJECTED: (
        "The API server refuses an object that the operator makes: admission, quota, missing rights.",
        "Change what the message names; it is tried again every minute.",
    ),
    conditions.NO_ARTIFACT_STORE: (
        "Neither the model nor the chart names a store.",
        "Set `spec.artifact`, or the chart's value `artifactStore`.",
    ),
    conditions.NOT_TRUSTED: (
        "`spec.source.trust` asks for what the chart's value `trust` does not allow.",
        "Take a model that needs no trust, or have whoever runs the operator allow it.",
    ),
    conditions.NAME_CONFLICT: (
        "A Job, Deployment, Service, autoscaler or disruption budget of the name belongs to somebody else.",
        "Rename the model, or delete the object.",
    ),
    conditions.INCOMPATIBLE_NODE: (
        "The spec sends files of one Neuron compiler to nodes of another family. Nothing was scheduled.",
        "Correct the compiler, or the selector that the message names.",
    ),
    conditions.UNSCHEDULABLE: (
        "No node takes the pod; the scheduler's words, and which field of the spec they are about.",
        "Change that field, or add such nodes; `tsm doctor` lists what there is.",
    ),
    conditions.SCHEDULING_GATED: (
        "Scheduling gates hold the pod, mostly those of a queue for quota; the scheduler does not look at it yet.",
        "Ask whoever runs what has set them why they stay; the pod gets a node by itself once they are gone.",
    ),
    conditions.IMAGE_PULL_FAILED: (
        "The image cannot be pulled.",
        "Correct the image or its pull secret; the pull is tried again by itself.",
    ),
    conditions.CONFIGURATION_MISSING: (
        "A Secret, a ConfigMap, a volume or a key of one that the spec or `worker.caBundle` names is not there.",
        "Create it in the model's namespace; the pod starts by itself.",
    ),
    conditions.START_FAILED: (
        "The container was created but its command cannot run, or the node cannot set the pod up.",
        "Check that the image is one of the operator's workers; of a node, its network plugin.",
    ),
    conditions.MOUNT_FAILED: (
        "A volume is there but cannot be mounted; the message has the kubelet's words.",
        "Check the volume and its storage driver; mounting is tried again by itself.",
    ),
    conditions.POD_REJECTED: (
        "The API server refuses the pods: quota, Pod Security, a missing ServiceAccount.",
        "Change the quota or the policy that the message names; it is tried again by itself.",
    ),
    conditions.EVICTED: (
        "The node stopped the pod: pressure, preemption, shutdown, a lost spot instance.",
        "Another takes its place; where this goes on, raise the requests.",
    ),
    conditions.ROLLED_BACK: (
        "Pods of the new artifact did not get Ready; the last good one is back.",
        "The message has the cause. Correct the spec, or `tsm retry NAME`.",
    ),
    conditions.PINNED: (
        "The annotation `torchscript.dev/rollback-to` has an earlier artifact served.",
        "`tsm rollback NAME --undo` ends it.",
    ),
    conditions.ROLLBACK_UNKNOWN: (
        "The annotation names no artifact of the status.",
        "`tsm history NAME` lists them; `tsm rollback NAME --undo` gives up.",
    ),
    conditions.PODS_NOT_READY: (
        "Pods were not Ready within `spec.serving.progressDeadlineSeconds`.",
        "`tsm logs NAME`; where they only need longer, raise that field.",
    ),
    conditions.ARTIFACTS_RETAINED: (
        "Event: artifacts stay although the deleted model had `deletionPolicy: Delete`.",
        "Remove what the event names by hand.",
    ),
    conditions.WARNED: (
        "Parity failed and `spec.parity.policy` is `Warn`, so the artifact is served.",
        "`tsm report NAME` shows how far off it is.",
    ),
}
"""Reasons that are no failure class: what it means, and what to do, where there is something to do."""

FAILURES: dict[FailureReason, str] = {
    FailureReason.INTERNAL_ERROR: "The worker met what it has no name for.",
    FailureReason.INVALID_REQUEST: "The worker cannot do what it was asked: an argument, a setting, another version.",
    FailureReason.SOURCE_NOT_FOUND: "There is no such repository, revision, object or folder.",
    FailureReason.SOURCE_ACCESS_DENIED: "The source wants credentials, or others.",
    FailureReason.SOURCE_INVALID: "The source holds no model that can be read.",
    FailureReason.SOURCE_UNREACHABLE: "The source did not answer.",
    FailureReason.SOURCE_CHANGED: "Files of the source were written while they were read: parts of two models.",
    FailureReason.TASK_MISMATCH: "The model has no head, or no weights of one, for the task.",
    FailureReason.SHAPE_TOO_LONG: "A declared sequence is longer than the model's positions.",
    FailureReason.SHAPE_ERROR: "The model does not run at a declared shape.",
    FailureReason.UNSUPPORTED_OPERATOR: "The compiler cannot compile an operator of the model.",
    FailureReason.COMPILATION_FAILED: "The compiler failed.",
    FailureReason.DEVICE_UNAVAILABLE: "There is no Neuron device, or another process holds it.",
    FailureReason.PARITY_FAILED: "Outputs differ from eager's by more than the tolerances.",
    FailureReason.STORE_NOT_FOUND: "There is no such bucket or volume.",
    FailureReason.STORE_ACCESS_DENIED: "The artifact store refuses the credentials.",
    FailureReason.STORE_UNREACHABLE: "The artifact store did not answer.",
    FailureReason.ARTIFACT_NOT_FOUND: "The store no longer has an artifact that was there.",
    FailureReason.DIGEST_MISMATCH: "A stored file is not the one that was exported.",
    FailureReason.REPLAY_FAILED: "A serving pod's hardware gives other outputs than the recorded ones.",
    FailureReason.OUT_OF_MEMORY: "The process was killed for its memory, or an allocation failed.",
    FailureReason.OUT_OF_DISK: "No room for the files.",
    FailureReason.DEADLINE_EXCEEDED: "The Job or its compiler took longer than it may.",
}
"""What each class means."""


def start(name: str) -> str:
    """The mark before what is generated."""
    return f"<!-- Generated by docs/generate.py from {name}; `make generate` writes it. -->\n"


def table(*rows: tuple[str, ...]) -> str:
    """Rows as a table, the first one being its head."""
    head, *body = ("| " + " | ".join(map(cell, row)) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body]) + "\n"


def cell(text: str) -> str:
    """Words in a cell: one line, and nothing that Markdown takes for a cell's end or for HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def parity() -> str:
    """Default tolerances, with reasons."""
    rows = [
        (f"`{compiler}`", f"`{precision}`", it.absolute, it.relative, it.cosine, it.agreement, it.reason)
        for (compiler, precision), it in DEFAULTS.items()
    ]
    return table(("compiler", "precision", "absolute", "relative", "cosine", "agreement", "why"), *rows)


def states() -> str:
    """Conditions."""
    return table(("condition", "True means"), *((f"`{kind}`", CONDITIONS[kind]) for kind in conditions.ALL))


def reasons() -> str:
    """Reasons of conditions that are no failure of a worker."""
    return table(("reason", "means", "what to do"), *((f"`{key}`", *both) for key, both in REASONS.items()))


def failures() -> str:
    """Failure classes."""
    rows = [
        (f"`{reason.value}`", str(it.exit_code), "yes" if it.transient else "no", FAILURES[reason], it.advice)
        for reason, it in CLASSES.items()
    ]
    return table(("reason", "exit code", "tried again", "means", "what to do"), *rows)


def rights(root: Path) -> str:
    """The operator's rules, as the chart's template has them, with the comment on each."""
    found = re.search(
        r'define "torchscript-operator\.rules" -}}\n(.*?){{- end }}', (root / RULES).read_text(), re.DOTALL
    )
    if found is None:
        msg = f"{RULES} defines no torchscript-operator.rules"
        raise ValueError(msg)
    rows: list[tuple[str, ...]] = [("group", "resources", "verbs", "why")]
    comment: list[str] = []
    entry: list[str] = []
    for line in [*found[1].splitlines(), "#"]:
        if entry and not line.startswith(" "):
            (rule,) = yaml.safe_load("\n".join(entry))
            group = ", ".join(name or "core" for name in rule["apiGroups"])
            rows.append(
                (
                    group,
                    ", ".join(f"`{name}`" for name in rule["resources"]),
                    ", ".join(rule["verbs"]),
                    " ".join(comment),
                )
            )
            comment, entry = [], []
        if line.startswith("#"):
            comment.append(line.removeprefix("# ").removeprefix("#"))
        else:
            entry.append(line)
    return table(*rows)


def metrics() -> str:
    """The operator's metrics, by the names that they are scraped under."""
    own = [(each, *each.describe()) for each in vars(measured).values() if isinstance(each, MetricWrapperBase)]
    rows = [
        (
            f"`{it.name}_total`" if it.type == "counter" else f"`{it.name}`",
            it.type,
            ", ".join(f"`{name}`" for name in labelled._labelnames),  # noqa: SLF001 -- nothing public has them
            it.documentation,
        )
        for labelled, it in (*own, *((it, it) for it in Census().collect()))
    ]
    return table(("metric", "type", "labels", "is"), *rows)


def kind_of(field: Json) -> str:
    """A field's type in words."""
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in field:
        return "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        return f"list of {kind_of(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {kind_of(field['additionalProperties'])}"
    return str(field["type"])


def bounds(field: Json) -> str:
    """What limits a value, beside its type."""
    least = field.get("minimum", field.get("minItems"))
    most = field.get("maximum", field.get("maxItems"))
    unit = " items" if field.get("type") == "array" else ""
    parts = []
    if least is not None and most is not None:
        parts.append(f"{least} to {most}{unit}")
    elif most is not None:
        parts.append(f"at most {most}{unit}")
    elif least is not None:
        parts.append(f"at least {least}{unit}")
    return f" ({', '.join(parts)})" if parts else ""


def default_of(field: Json) -> str:
    """A default. An object's fields have their own; of objects in a list, what has none is shown."""
    value = field.get("default")
    if value is None or isinstance(value, dict) or value == []:
        return ""
    if isinstance(value, list):
        return "; ".join(", ".join(f"{name} {item[name]}" for name in field["items"]["required"]) for item in value)
    return f"`{json.dumps(value)}`"


def objects(path: str, schema: Json) -> Iterator[str]:
    """A section for an object and one for each object in it."""
    yield f"## `{path}`\n\n{schema.get('description', '')}\n"
    rows = [("field", "type", "default", "meaning")]
    inner: list[tuple[str, Json]] = []
    for name, field in schema["properties"].items():
        item = field["items"] if field.get("type") == "array" else field
        below = f"{path}.{name}" + ("[]" if item is not field else "")
        if "properties" in item:
            inner.append((below, item))
        needed = "required" if name in schema.get("required", ()) else default_of(field)
        rows.append((f"`{name}`", kind_of(field) + bounds(field), needed, field.get("description", "")))
    yield "\n" + table(*rows)
    if found := schema.get(VALIDATIONS):
        yield "\nRefused by the API server:\n\n" + "".join(f"- {it['message']}\n" for it in found)
    for below, item in inner:
        yield "\n"
        yield from objects(below, item)


def api() -> str:
    """All fields of spec and status."""
    version = crd.build()["spec"]["versions"][0]
    whole = version["schema"]["openAPIV3Schema"]
    refused = "".join(f"- {it['message']}\n" for it in whole[VALIDATIONS])
    halves = ("".join(objects(name, whole["properties"][name])) for name in ("spec", "status"))
    return f"Refused by the API server:\n\n{refused}\n" + "\n".join(halves)


def generated(root: Path) -> Mapping[Path, tuple[tuple[str, str], ...]]:
    """Page to what is generated in it, each part with the place that it is made from."""
    package = "operator/torchscript_operator"
    return {
        Path("docs/parity.md"): ((f"{package}/artifact/tolerances.py", parity()),),
        Path("docs/failures.md"): (
            (f"{package}/api/conditions.py (what is True)", states()),
            (f"{package}/api/conditions.py (reasons)", reasons()),
            (f"{package}/artifact/failures.py", failures()),
        ),
        Path("docs/security.md"): ((str(RULES), rights(root)),),
        Path("docs/operations.md"): ((f"{package}/controller/metrics.py and census.py", metrics()),),
        Path("docs/api.md"): ((f"{package}/api", api()),),
    }


def filled(text: str, path: Path, parts: tuple[tuple[str, str], ...]) -> str:
    """A page with its parts between their marks. Raises ValueError where a mark is missing."""
    for name, part in parts:
        before, found, rest = text.partition(start(name))
        _, end, after = rest.partition(END)
        if not found or not end:
            msg = f"{path} lacks the marks that what is generated from {name} goes between"
            raise ValueError(msg)
        text = f"{before}{found}\n{part}\n{end}{after}"
    return text


def contents(root: Path) -> Mapping[Path, str]:
    """What every page with generated parts should hold."""
    return {path: filled((root / path).read_text(), path, parts) for path, parts in generated(root).items()}


def main() -> int:
    """Write the pages, or with --check only compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    check = parser.parse_args().check
    stale = {path: text for path, text in contents(ROOT).items() if (ROOT / path).read_text() != text}
    for path, text in stale.items():
        if check:
            sys.stderr.write(f"{path} is out of date: run `make generate`\n")
        else:
            (ROOT / path).write_text(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
