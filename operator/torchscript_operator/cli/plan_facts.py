"""What a plan consists of."""

from dataclasses import dataclass
from typing import Any, Literal

from torchscript_operator.cli.cluster.access import Json
from torchscript_operator.cli.cluster.nodes import Fit

Action = Literal["unchanged", "cached", "export", "verify", "running", "failed", "suspended", "refused"]
Roll = Literal["create", "roll", "scale", "update", "delete", "after proof"]
CHANGING: frozenset[Action] = frozenset({"cached", "export", "verify"})
"""Actions that start something."""
STARTED: frozenset[Action] = frozenset({"export", "verify", "running"})
"""Actions whose artifact is still to come."""


@dataclass(frozen=True)
class Change:
    """A value that differs."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Placing:
    """Where the pods of one kind would go."""

    kind: str
    """export, verify or serving."""
    scheduling: Json
    resources: Json
    fit: Fit | None = None
    """None without a cluster, or without the right to list nodes."""


@dataclass(frozen=True)
class TargetPlan:
    """What becomes of a target."""

    name: str
    action: Action
    why: str
    """One sentence."""
    changes: tuple[Change, ...] = ()
    """Inputs of the export that differ from those that the present artifact was made from."""
    key: str | None = None
    """Of the artifact, where it is known before the export."""
    job: str | None = None
    places: tuple[Placing, ...] = ()


@dataclass(frozen=True)
class RollPlan:
    """What becomes of a child other than a Job."""

    kind: str
    name: str
    action: Roll
    why: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class ModelPlan:
    """What becomes of a model."""

    namespace: str
    name: str
    new: bool
    """There is no such model yet."""
    spec_changes: tuple[Change, ...]
    targets: tuple[TargetPlan, ...]
    rolls: tuple[RollPlan, ...]
    problems: tuple[str, ...] = ()
    """Why it could not be carried out; each says what to do."""
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether applying the file changes anything."""
        acts = any(target.action in CHANGING for target in self.targets)
        return self.new or bool(self.spec_changes) or acts or bool(self.rolls)
