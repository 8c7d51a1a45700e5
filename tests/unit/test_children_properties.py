"""A pass that reads only what is remembered, when it is asked for, decides as one that always reads everything."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_plan_properties import ACTIONS, checked
from tests.unit.world import World, spec
from torchscript_operator.controller import plan as planning
from torchscript_operator.controller import serving
from torchscript_operator.controller.children import Children
from torchscript_operator.controller.model import Json
from torchscript_operator.controller.observed import Observed
from torchscript_operator.controller.plan import Plan
from torchscript_operator.controller.queue import Key

KEY = Key("ml", "minilm")
SILENT = {"status is lost", "an hour passes", "a moment passes"}
"""Of these no event tells: a timer or the next full look brings the pass."""
SERVED = ["cpu: export ends", "cpu: rollout ends"]
"""What leads to a model that serves, where most of what can go wrong begins."""
histories = st.tuples(st.sampled_from([["nothing"], SERVED]), st.lists(st.sampled_from(sorted(ACTIONS)), max_size=12))


def live(world: World) -> dict[str, dict[str, Json]]:
    services = {world.service["metadata"]["name"]: world.service} if world.service else {}
    pods = {pod["metadata"]["name"]: pod for pod in world.pods}
    return {"jobs": world.jobs, "pods": pods, "deployments": world.deployments, "services": services}


def listen(children: Children, world: World) -> bool:
    """Take in what has changed since the last time; returns whether a pass is wanted."""
    wanted = []
    for plural, bodies in live(world).items():
        wanted += [children.note(plural, body) for body in bodies.values()]
        gone = children.of(plural, KEY).keys() - bodies.keys()
        wanted += [children.forget(plural, KEY, name) for name in gone]
    return any(wanted)


def applied(children: Children, world: World, planned: Plan) -> None:
    """Take in the API server's answers to the applications of a pass that was carried out."""
    for wanted in planned.apply:
        if wanted["kind"] == "Service" and world.service is not None:
            children.begin("services", KEY, wanted["metadata"]["name"])
            children.finish("services", KEY, wanted["metadata"]["name"], world.service)


def narrow(children: Children, world: World) -> Observed:
    """What the reconciler reads."""
    names, there, whole = children.to_read(world.model), live(world), world.observed()
    wanted = serving.service(world.model) if world.model.served else None
    if wanted is not None and children.is_as_applied(wanted):
        return replace(narrowed(names | {"services": []}, there, whole), service=wanted)
    return narrowed(names, there, whole)


def narrowed(names: dict[str, list[str]], there: dict[str, dict[str, Json]], whole: Observed) -> Observed:
    """Of all that is there, what bears one of the names."""
    jobs, pods, deployments, services = (
        tuple(there[plural][name] for name in names[plural] if name in there[plural])
        for plural in ("jobs", "pods", "deployments", "services")
    )
    service = next(iter(services), None)
    return replace(whole, jobs=jobs, pods=pods, deployments=deployments, service=service)


def decided(children: Children, world: World) -> Plan:
    """A plan from what the reconciler reads; it lists everything before it deletes or looks for events."""
    planned = planning.plan(world.model, world.settings, narrow(children, world), world.now)
    return world.plan() if planned.delete or planned.look_for_events else planned


@checked
@given(histories)
def test_what_is_read_suffices_for_the_decision(history: tuple[list[str], list[str]]) -> None:
    world, children = World(spec(source={"s3": {"uri": "s3://models/a"}})), Children()
    world.step()
    for name in history[0] + history[1]:
        ACTIONS[name](world)
        listen(children, world)
        assert decided(children, world) == world.plan()
        applied(children, world, world.step())


@checked
@given(histories, st.sampled_from(sorted(set(ACTIONS) - SILENT)))
def test_whatever_would_change_a_plan_asks_for_a_pass(history: tuple[list[str], list[str]], last: str) -> None:
    world, children = World(spec(source={"s3": {"uri": "s3://models/a"}})), Children()
    world.step()
    for name in history[0] + history[1]:
        ACTIONS[name](world)
        world.step()
    world.settle()
    listen(children, world)
    generation, annotations = world.model.generation, dict(world.model.annotations)
    ACTIONS[last](world)
    asked = listen(children, world)
    edited = (world.model.generation, world.model.annotations) != (generation, annotations)
    assert asked or edited or world.is_quiet(world.plan())
