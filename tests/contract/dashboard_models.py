"""Models in every state as a cluster holds them, the planner's own, with figures and events like those of real ones."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.contract.api_server import ApiServer
from tests.unit import model_states, views, workers
from tests.unit.world import World, spec
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.cli.cluster.read import ModelView
from torchscript_operator.controller import events
from torchscript_operator.controller.export_plan import stamp
from torchscript_operator.controller.plan import Plan

Json = dict[str, Any]
TIME = re.compile(r'"(20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ)"')
REPEATED = re.compile(r"\b([0-9a-f])\1{11,63}\b")
"""Digests of the tests' artifacts, one letter many times; here they look like digests."""
STORE = "s3://models/torchscript"
HUB = {"huggingFace": {"repository": "sentence-transformers/all-MiniLM-L6-v2"}}
NEW = {"huggingFace": {"repository": "sentence-transformers/all-MiniLM-L12-v2"}}
SHAPES = [{"batch": 1, "sequence": 128}, {"batch": 8, "sequence": 128}, {"batch": 8, "sequence": 384}]


def figure(output: str, shape: str, difference: str, cosine: str, *, passed: bool = True, **more: Any) -> Json:
    return {
        "output": output,
        "shape": shape,
        "rows": 128,
        "maximumAbsoluteDifference": difference,
        "maximumRelativeDifference": "1.12e-04",
        "minimumCosineSimilarity": cosine,
        "passed": passed,
        **more,
    }


FIGURES = [
    figure("last_hidden_state", "b8-s384", "2.51e-06", "0.9999999999712"),
    figure("last_hidden_state", "b8-s128", "1.79e-06", "0.99999999999211"),
    figure("last_hidden_state", "b1-s128", "4.77e-07", "0.99999999999689"),
    figure("sentence_embedding", "b8-s384", "2.99e-08", "0.99999999999999622"),
]
LOOSE = [
    figure("last_hidden_state", "b8-s384", "1.13e-01", "0.99958"),
    figure("last_hidden_state", "b8-s128", "9.72e-02", "0.99967"),
    figure("sentence_embedding", "b8-s128", "3.90e-03", "0.99991"),
]
REFUSED = [
    figure("logits", "b8-s384", "3.00e-01", "0.94810000000000005", passed=False, agreement="0.9375"),
    figure("logits", "b8-s128", "2.20e-04", "0.99910000000000002", passed=False, agreement="1"),
    figure("logits", "b1-s128", "6.10e-06", "0.99999999997", agreement="1"),
]
CANDIDATES = [
    ("bfloat16", "packed", 0, 4, "412.6", "0.99958", "Passed", True),
    ("int8", "frozen", 6, 4, "388.1", "0.99921", "Passed", False),
    ("int8", "frozen", 0, 4, "455.9", "0.9871", "Failed", False),
    ("float32", "packed", 0, 4, "221.4", "0.99999999999689", "Passed", False),
    ("float32", "traced", 0, 4, "204.0", "0.99999999999702", "Passed", False),
    ("float32", "packed", 0, 2, "131.7", "0.99999999999689", "Passed", False),
    ("bfloat16", "frozen", 0, 4, None, None, "NotMeasured", False),
]


def candidate(
    precision: str,
    made: str,
    kept: int,
    threads: int,
    speed: str | None,
    cosine: str | None,
    verdict: str,
    chosen: bool,
) -> Json:
    found = {"precision": precision, "keptLayers": kept, "threads": threads, "verdict": verdict}
    found |= {"frozen": made == "frozen", "packed": made == "packed"}
    return found | {"textsPerSecond": speed, "minimumCosineSimilarity": cosine, "chosen": chosen}


class Told(World):
    """A world whose operator's events are kept, and in which time passes."""

    def __init__(self, given: Json | None = None) -> None:
        super().__init__(given or spec(source=HUB, inputs={"shapes": SHAPES}, serving={"replicas": 3}))
        self.told: list[Json] = []

    def step(self) -> Plan:
        before = self.model.status.conditions
        planned = super().step()
        changed = events.changes(before, planned.status.conditions)
        self.told += [events.build(self.model, found, self.now) for found in changed]
        return planned

    def proves(self, letter: str, figures: list[Json], minutes: float = 3, **fields: Any) -> None:
        self.wait(60 * minutes)
        parity = {"verdict": "Passed", "report": f"{STORE}/{letter * 64}/report.html", "outputs": figures}
        versions = {"torch": "2.13.0", "transformers": "5.2.0"}
        self.export_ends(workers.proven(letter, store=STORE, parity=parity, versions=versions, **fields))
        self.settle()

    def rolls(self, minutes: float = 1) -> None:
        self.wait(60 * minutes)
        self.rollout_ends()
        self.settle()

    def pods_are_ready(self, count: int = 3) -> None:
        deployment = self.deployments["minilm-cpu"]
        self.pods = [pod for pod in self.pods if pod["metadata"]["ownerReferences"][0]["uid"] in self._jobs_uids()]
        for _ in range(count):
            state = workers.pod_status("server", {"running": {}}, ready=True)
            self._pod(deployment, deployment["spec"]["template"], state)

    def _jobs_uids(self) -> set[str]:
        return {job["metadata"]["uid"] for job in self.jobs.values()}


def serving() -> Told:
    world = Told()
    world.settle()
    world.proves("4", FIGURES)
    world.rolls()
    world.wait(3600 * 30)
    world.edit(source=HUB, targets=[{"name": "cpu", "precision": "auto"}])
    world.settle()
    world.proves("6", LOOSE, 21, precision="bfloat16", candidates=[candidate(*row) for row in CANDIDATES])
    world.rolls()
    world.pods_are_ready()
    world.wait(3600 * 4)
    return world


def exporting() -> Told:
    world = Told()
    world.settle()
    world.pod_of(world.running(), workers.pod_status("export", {"running": {}}))
    world.wait(95)
    world.settle()
    return world


def rolling() -> Told:
    world = serving()
    world.edit(source=NEW)
    world.settle()
    world.proves("b", FIGURES, precision="float32")
    deployment = world.deployments["minilm-cpu"]
    deployment["status"] = workers.rolling(deployment, old=2)
    world._pod(deployment, deployment["spec"]["template"], workers.pod_status("server", {"running": {}}))
    world.wait(40)
    world.settle()
    return world


def rolling_back() -> Told:
    """The new pods were not Ready in time, and the old artifact's are on their way back."""
    world = serving()
    world.edit(source=NEW)
    world.settle()
    world.proves("b", FIGURES, precision="float32")
    world.rollout_hangs(late=True)
    world.wait(600)
    world.settle()
    return world


def rolled_back() -> Told:
    world = rolling_back()
    world.rolls()
    world.pods_are_ready()
    return world


def parity_failed() -> Told:
    world = Told(spec(source=HUB, task="text-classification", inputs={"shapes": SHAPES}))
    world.settle()
    told = "logits at b8-s384 differs by up to 0.3 where 1e-4 is allowed, and 6 % of rows have another class."
    found = workers.parsed(workers.failed(FailureReason.PARITY_FAILED, told))
    found["failure"]["stage"] = "parity"
    found["parity"] = {"verdict": "Failed", "report": f"{STORE}/{'c' * 64}/report.html", "outputs": REFUSED}
    message = workers.ExportOutcome.model_validate(found).to_json()
    world.wait(200)
    world.export_fails(CLASSES[FailureReason.PARITY_FAILED].exit_code, message)
    world.settle()
    world.wait(1260)
    return world


OTHERS = (
    "unseen",
    "verifying",
    "serving_two_targets",
    "pinned_to_unknown",
    "no_store",
    "child_rejected",
    "invalid_spec",
)
STATES: Mapping[str, Callable[[], World]] = {
    **views.STATES,
    **{name: model_states.STATES[name] for name in OTHERS},
    "serving": serving,
    "exporting": exporting,
    "rolling": rolling,
    "rolled_back": rolled_back,
    "rolling_back": rolling_back,
    "parity_failed": parity_failed,
}
LOG = [
    ("resolve", "Reading the source…", 0),
    ("resolve", "", 9),
    ("load", "Loading BertModel…", 9),
    ("load", "", 14),
    ("trace", "Compiling for b8-s384", 14),
]


def log_of(now: datetime) -> list[str]:
    """Of an export that traces."""
    began = now - timedelta(seconds=60)
    lines = []
    for stage, message, at in LOG:
        line = {"time": (began + timedelta(seconds=at)).isoformat(), "stage": stage, "message": message}
        lines.append(json.dumps(line if message else line | {"elapsedSeconds": 5.0}))
    return lines


class Cluster:
    """An API server that models are put into by the name of their state."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self._made: dict[str, tuple[Json, datetime]] = {}

    def add(self, state: str, name: str = "minilm", namespace: str = "ml", hours: float = 0) -> ModelView:
        """Put a model in; what has happened to it ended `hours` ago."""
        recorded, ended = self._recorded(state)
        now = datetime.now(UTC).replace(microsecond=0)
        shift = now - ended - timedelta(hours=hours)
        found = json.loads(TIME.sub(lambda match: f'"{_moved(match[1], shift)}"', _named(recorded, name, namespace)))
        for plural, items in found.items():
            for item in items:
                self.server.put(plural, item)
                if plural == "pods" and item["status"].get("phase") == "Running":
                    self.server.logs[namespace, item["metadata"]["name"]] = log_of(now)
        return views.parse(found["torchscriptmodels"][0])

    def add_fleet(self, count: int) -> None:
        """Many models, as in a company: most of them well."""
        rare = ["parity_failed", "rolled_back", "exporting", "rolling", "updating", "suspended", "degraded"]
        for number in range(count):
            state = rare[number // 25 % len(rare)] if number % 25 == 7 else "serving"
            self.add(state, f"{NAMES[number % len(NAMES)]}-{number:03d}", f"team-{number % 5}", hours=number % 400)

    def _recorded(self, state: str) -> tuple[Json, datetime]:
        if state not in self._made:
            self._made[state] = _record(STATES[state]())
        return self._made[state]


NAMES = ("minilm", "support-intent", "ner-contracts", "translate-en-de", "qa-handbook", "toxicity", "reranker")


def _moved(time: str, shift: timedelta) -> str:
    return stamp(datetime.fromisoformat(time) + shift)


def _record(world: World) -> tuple[Json, datetime]:
    found = views.view(world)
    children = {field.name: getattr(found.children, field.name) for field in dataclasses.fields(found.children)}
    body = found.body
    body["metadata"]["creationTimestamp"] = "2025-12-31T23:58:00Z"
    told = world.told if isinstance(world, Told) else found.events
    events_ = [
        {"metadata": {"name": f"minilm.{index}", "namespace": "ml"}, **event} for index, event in enumerate(told)
    ]
    service = children["service"]
    return {
        "torchscriptmodels": [body],
        "jobs": list(children["jobs"]),
        "pods": list(children["pods"]),
        "deployments": list(children["deployments"]),
        "services": [service] if service else [],
        "events": events_,
    }, world.now


def _named(recorded: Json, name: str, namespace: str) -> str:
    text = REPEATED.sub(
        lambda match: hashlib.sha256(match[1].encode()).hexdigest()[: len(match[0])], json.dumps(recorded)
    )
    text = re.sub(r'"(uid|name)": "(uid-|pod-|model-)(\d+)"', rf'"\1": "{name}-\2\3"', text)
    text = re.sub(r"\bminilm(?=[-\"./ ])", name, text)
    return text.replace('"namespace": "ml"', f'"namespace": "{namespace}"')
