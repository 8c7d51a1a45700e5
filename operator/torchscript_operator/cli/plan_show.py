"""How a plan is told: to people as text, to programs as JSON, to CI as an exit code. All pure but for the printing."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from torchscript_operator.cli import output
from torchscript_operator.cli.cluster.access import Json
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.formats import Format
from torchscript_operator.cli.plan_facts import CHANGING, Change, ModelPlan, Placing, RollPlan, TargetPlan
from torchscript_operator.cli.status import SHORT

NOTHING, INVALID, CHANGES = 0, 1, 2
"""Exit codes, as terraform plan -detailed-exitcode has them."""
MARKS = {
    "unchanged": "[green]=[/]",
    "cached": "[cyan]~[/]",
    "export": "[yellow]+[/]",
    "verify": "[yellow]+[/]",
    "running": "[cyan]…[/]",
    "failed": "[bold red]![/]",
    "suspended": "[yellow]![/]",
    "refused": "[bold red]✗[/]",
    "create": "[yellow]+[/]",
    "roll": "[yellow]~[/]",
    "scale": "[yellow]~[/]",
    "update": "[yellow]~[/]",
    "delete": "[red]-[/]",
    "after proof": "[yellow]~[/]",
}
ACTIONS = {
    "unchanged": "unchanged",
    "cached": "cache hit",
    "export": "new export",
    "verify": "proof alone",
    "running": "under way",
    "failed": "has failed",
    "suspended": "suspended",
    "refused": "refused",
}
VALUE_CHARACTERS = 60


def exit_code(plans: Sequence[ModelPlan], wrong: Sequence[CliError], *, changes_ok: bool) -> int:
    """Of the whole: INVALID before CHANGES before NOTHING."""
    if wrong or any(plan.problems for plan in plans):
        return INVALID
    return CHANGES if any(plan.changes for plan in plans) and not changes_ok else NOTHING


def show(
    plans: Sequence[ModelPlan], wrong: Sequence[CliError], form: Format, console: Console, errors: Console
) -> None:
    """Print plans, and on standard error what is wrong with files."""
    if form is not Format.TABLE:
        output.write(
            {
                "valid": not wrong and not any(plan.problems for plan in plans),
                "changes": any(plan.changes for plan in plans),
                "errors": [error.message for error in wrong],
                "models": [facts(plan) for plan in plans],
            },
            form,
        )
        return
    for place, plan in enumerate(plans):
        if place:
            console.print()
        _show(plan, console)
    for error in wrong:
        errors.print(f"[bold red]error:[/] {escape(error.message)}")
    if plans:
        console.print()
        console.print(summary(plans))


def summary(plans: Sequence[ModelPlan]) -> str:
    """One line: 2 models: 1 new export, 1 cache hit, 3 unchanged targets."""
    targets = [target for plan in plans for target in plan.targets]
    counts = [
        (sum(target.action in {"export", "verify"} for target in targets), "to export"),
        (sum(target.action == "cached" for target in targets), "from the store"),
        (sum(target.action == "unchanged" for target in targets), "unchanged"),
        (sum(target.action not in {*CHANGING, "unchanged"} for target in targets), "held up"),
        (sum(len(plan.rolls) for plan in plans), "rollouts and other changes"),
    ]
    said = ", ".join(f"{count} {what}" for count, what in counts if count)
    models = "1 model" if len(plans) == 1 else f"{len(plans)} models"
    if not any(plan.changes for plan in plans):
        return f"{models}: nothing to do ({said or 'no targets'})."
    return f"{models}: {said or 'a new spec'}."


def _show(plan: ModelPlan, console: Console) -> None:
    what = "new" if plan.new else "changed" if plan.changes else "nothing to do"
    console.print(f"[bold]{escape(plan.namespace)}/{escape(plan.name)}[/]: {what}")
    for change in plan.spec_changes:
        console.print(f"  {_change(change)}")
    for target in plan.targets:
        _show_target(target, console, told={change.path for change in plan.spec_changes})
    for roll in plan.rolls:
        _show_roll(roll, console)
    for problem in plan.problems:
        console.print(f"  [bold red]✗[/] {escape(problem)}")
    for note in plan.notes:
        console.print(f"  [dim]note: {escape(note)}[/]")


def _show_target(target: TargetPlan, console: Console, told: set[str]) -> None:
    key = f" {target.key[:SHORT]}" if target.key else ""
    name, action = escape(target.name), ACTIONS[target.action]
    console.print(f"  {MARKS[target.action]} target {name}: {action}{key}: {escape(target.why)}")
    # What the spec's own difference has said is said again only in brief.
    for change in target.changes:
        brief = escape(f"because of {change.path}") if change.path in told else f"because of {_change(change)}"
        console.print(f"      {brief}")
    if target.action == "unchanged":
        return
    for place in target.places:
        console.print(f"      {place.kind}: {escape(where(place))}")


def _show_roll(roll: RollPlan, console: Console) -> None:
    console.print(f"  {MARKS[roll.action]} {roll.kind} {escape(roll.name)}: {roll.action}: {escape(roll.why)}")
    for change in roll.changes:
        console.print(f"      {_change(change)}")


def _change(change: Change) -> str:
    before, after = _value(change.before), _value(change.after)
    return f"{escape(change.path)}: [red]{escape(before)}[/] → [green]{escape(after)}[/]"


def _value(value: Any) -> str:
    if value is None:
        return "(none)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_CHARACTERS else f"{text[:VALUE_CHARACTERS]}…"


def where(place: Placing) -> str:
    """The nodes and the resources of a kind of pods, in one line."""
    scheduling, parts = place.scheduling, []
    selector = scheduling.get("nodeSelector") or {}
    parts += [f"{key}={value}" for key, value in selector.items()]
    parts += list(_affinity(scheduling.get("affinity") or {}))
    taints = [toleration.get("key") or "all taints" for toleration in scheduling.get("tolerations") or []]
    on = f"nodes with {', '.join(parts)}" if parts else "any node"
    if taints:
        on += f", tolerating {', '.join(taints)}"
    asked = {**place.resources.get("limits", {}), **place.resources.get("requests", {})}
    needs = f"; needs {', '.join(f'{name} {amount}' for name, amount in asked.items())}" if asked else ""
    fits = f"; {place.fit.text}" if place.fit else ""
    return f"{on}{needs}{fits}"


def _affinity(affinity: Mapping[str, Any]) -> list[str]:
    node = affinity.get("nodeAffinity") or {}
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return [
        f"{it['key']} {it['operator']} {'|'.join(it.get('values') or [])}".strip()
        for term in required.get("nodeSelectorTerms") or []
        for it in term.get("matchExpressions") or []
    ]


def facts(plan: ModelPlan) -> Json:
    """A plan for programs."""
    return {
        "namespace": plan.namespace,
        "name": plan.name,
        "new": plan.new,
        "changes": plan.changes,
        "specChanges": [vars(change) for change in plan.spec_changes],
        "targets": [
            {
                "name": target.name,
                "action": target.action,
                "why": target.why,
                "inputsChanged": [vars(change) for change in target.changes],
                "key": target.key,
                "job": target.job,
                "placement": [
                    {
                        "for": place.kind,
                        "scheduling": place.scheduling,
                        "resources": place.resources,
                        "nodesThatFit": list(place.fit.fitting) if place.fit else None,
                        "nodes": place.fit.total if place.fit else None,
                        "otherNodes": dict(place.fit.reasons) if place.fit else None,
                    }
                    for place in target.places
                ],
            }
            for target in plan.targets
        ],
        "children": [
            {
                "kind": roll.kind,
                "name": roll.name,
                "action": roll.action,
                "why": roll.why,
                "changes": [vars(change) for change in roll.changes],
            }
            for roll in plan.rolls
        ],
        "problems": list(plan.problems),
        "notes": list(plan.notes),
    }
