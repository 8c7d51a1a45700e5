"""An API server in front of a world: each call is a moment before its effect and one before its answer.

It keeps what the operator's own writes rest on: identities, generations, versions and who has set a field.
"""

import asyncio
import selectors
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

import orjson

from tests.unit.world import World
from torchscript_operator.controller.children import KINDS, PLURALS
from torchscript_operator.controller.connection import ApiError, ExistsError
from torchscript_operator.controller.drift import WHOLE
from torchscript_operator.controller.model import MODEL_LABEL, Json
from torchscript_operator.controller.queue import Key

KEY = Key("ml", "minilm")
MODELS = "models"
READS = ("get", "list")
STATUSES = ("apply status", "create Event")


class _Waits(selectors.DefaultSelector):
    late = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nobody will ever wake up"
        self.late += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Waits for nothing: once all have run, it is at once as late as the first of them wants."""

    def __init__(self) -> None:
        self._clock = _Waits()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.late


class Event(NamedTuple):
    """What a watch says, and from which moment on."""

    due: int
    type: str
    body: Json


def _copy(found: Any) -> Any:
    """As it comes over the network."""
    return orjson.loads(orjson.dumps(found))


def merged(live: Any, before: Any, wanted: Any) -> Any:
    """A server-side apply: what was applied before and no longer is goes, what others have added stays."""
    if not (isinstance(live, dict) and isinstance(wanted, dict)):
        return _copy(wanted)
    past = before if isinstance(before, dict) else {}
    kept = {key: value for key, value in live.items() if key in wanted or key not in past}
    return kept | {
        key: _copy(value) if key in WHOLE else merged(live.get(key), past.get(key), value)
        for key, value in wanted.items()
    }


class Server:
    """The calls that a reconciler, a watch and a full look make, and the events that follow from any change."""

    def __init__(self, world: World, moment: Callable[[str], Awaitable[None]], due: Callable[[], int]) -> None:
        self.world = world
        self.clock = SimpleNamespace(now=lambda: world.now)
        self.writes: list[str] = []
        """Of children and finalizers."""
        self.fails = False
        """The next call to begin or to be answered gets no further."""
        self.streams: defaultdict[str, deque[Event]] = defaultdict(deque)
        """What the watch of a kind has not said yet."""
        self.listing: set[str] = set()
        """Kinds whose list is on its way: their watch goes on from it."""
        self._moment, self._due = moment, due
        self._version = 1
        self._seen: defaultdict[str, dict[str, tuple[bytes, Json]]] = defaultdict(dict)
        self._applied: dict[str, Json] = {}
        """What was applied last, by uid."""
        self.note()

    # What there is.

    def objects(self) -> dict[str, dict[str, Json]]:
        """All children, by resource and name."""
        world = self.world
        found: dict[str, dict[str, Json]] = {plural: {} for plural in KINDS}
        found |= {"jobs": world.jobs, "deployments": world.deployments}
        found["pods"] = {pod["metadata"]["name"]: pod for pod in world.pods}
        if world.service is not None:
            found["services"] = {world.service["metadata"]["name"]: world.service}
        for (kind, name), body in world.companions.items():
            found[PLURALS[kind]][name] = body
        return found

    def _shown(self) -> dict[str, dict[str, Json]]:
        """What lists and watches show: what bears the label."""
        found = {
            plural: {name: it for name, it in bodies.items() if MODEL_LABEL in it["metadata"].get("labels", {})}
            for plural, bodies in self.objects().items()
        }
        return {**found, MODELS: {KEY.name: self.world.body} if self.world.body else {}}

    def note(self) -> None:
        """Have watches tell of whatever has changed."""
        for plural, bodies in self._shown().items():
            seen = self._seen[plural]
            for name in [name for name in seen if name not in bodies]:
                self._emit(plural, "DELETED", seen.pop(name)[1])
            for name, body in bodies.items():
                text = orjson.dumps(body)
                if name in seen and seen[name][0] == text:
                    continue
                if name in seen and seen[name][1]["metadata"]["uid"] != body["metadata"]["uid"]:
                    self._emit(plural, "DELETED", seen.pop(name)[1])
                kind = "MODIFIED" if name in seen else "ADDED"
                seen[name] = text, self._emit(plural, kind, body)

    def begin_anew(self, plural: str) -> None:
        """A watch begins with all that there is."""
        self.streams[plural].clear()
        self._seen[plural].clear()
        self.note()

    def _emit(self, plural: str, kind: str, body: Json) -> Json:
        self._version += 1
        told = _copy(body)
        told["metadata"]["resourceVersion"] = str(self._version)
        self.streams[plural].append(Event(self._due(), kind, told))
        return told

    # Calls.

    async def _call(self, what: str, effect: Callable[[], Any]) -> Any:
        await self._moment(f"before {what}")
        self._fail()
        error, found = None, None
        try:
            found = _copy(effect())
        except ApiError as refusal:
            error = refusal
        self.note()
        if not what.startswith((*READS, *STATUSES)):
            self.writes.append(what)
        await self._moment(f"after {what}")
        self._fail()
        if error is not None:
            raise error
        return found

    def _fail(self) -> None:
        if self.fails:
            self.fails = False
            raise ApiError(0, "no answer from the API server")

    async def model(self, *_: str) -> Json | None:
        found: Json | None = await self._call("get model", self._model)
        return found

    def _model(self) -> Json | None:
        self.note()
        return self._seen[MODELS][KEY.name][1] if self.world.body else None

    async def find(self, _: str, plural: str, __: str, name: str) -> Json | None:
        found: Json | None = await self._call(f"get {plural}", lambda: self.objects()[plural].get(name))
        return found

    async def children(self, _: str, plural: str, *__: str) -> tuple[Json, ...]:
        found: list[Json] = await self._call(f"list {plural}", lambda: list(self._shown()[plural].values()))
        return tuple(found)

    async def pages(self, _: str, plural: str, *__: str | None) -> AsyncIterator[tuple[list[Json], str]]:
        kind = plural if plural in KINDS else MODELS

        def effect() -> list[Json]:
            self.note()
            if kind != MODELS:
                self.streams[kind].clear()
            return [body for _, body in self._seen[kind].values()]

        self.listing.add(kind)
        try:
            yield await self._call(f"list all {kind}", effect), str(self._version)
        finally:
            self.listing.discard(kind)

    async def create(self, body: Json) -> Json | None:
        def effect() -> Json | None:
            if body["kind"] == "Event":
                return None
            name = body["metadata"]["name"]
            live = self.world.jobs.get(name) or self.world._stored(body)
            self.world.jobs[name] = live
            owners, mine = (
                {it["uid"] for it in found["metadata"].get("ownerReferences", [])} for found in (live, body)
            )
            if mine and mine.isdisjoint(owners):
                raise ApiError(422, "it belongs to another object")
            return live

        found: Json | None = await self._call(f"create {body['kind']}", effect)
        return found

    async def apply(self, body: Json) -> Json:
        found: Json = await self._call(f"apply {body['kind']}", lambda: self._apply(body))
        return found

    async def apply_new(self, body: Json) -> Json:
        def effect() -> Json:
            if body["metadata"]["name"] in self.objects()[PLURALS[body["kind"]]]:
                raise ExistsError(409, "the object has been modified")
            return self._apply(body)

        found: Json = await self._call(f"apply new {body['kind']}", effect)
        return found

    def _apply(self, body: Json) -> Json:
        kind, name = body["kind"], body["metadata"]["name"]
        live = self.objects()[PLURALS[kind]].get(name)
        if live is None:
            new = self.world._stored(body)
        else:
            new = merged(live, self._applied.get(live["metadata"]["uid"]), body)
        if kind == "Deployment":
            # A field that its last owner no longer applies falls back to 1; a number that we change becomes ours.
            held = live is not None and live["metadata"].get("managedFields")
            new["spec"].setdefault("replicas", live["spec"]["replicas"] if live is not None and held else 1)
            if live is not None and new["spec"]["replicas"] != live["spec"]["replicas"]:
                new["metadata"].pop("managedFields", None)
        if live is not None:
            new["metadata"]["generation"] += new["spec"] != live["spec"]
        self._applied[new["metadata"]["uid"]] = _copy(body)
        self.put(kind, name, new)
        return new

    def put(self, kind: str, name: str, body: Json) -> None:
        """Let a child be as it is given."""
        if kind == "Service":
            self.world.service = body
        elif kind == "Deployment":
            self.world.deployments[name] = body
        else:
            self.world.companions[kind, name] = body

    async def apply_status(self, read: Json, status: Json) -> bool:
        def effect() -> bool:
            live = self._model()
            if live is None or any(live["metadata"][it] != read["metadata"][it] for it in ("uid", "resourceVersion")):
                return False
            self.world.body["status"] = _copy(status)
            return True

        return bool(await self._call("apply status", effect))

    async def apply_finalizers(self, _: str, __: str, uid: str, finalizers: Iterable[str]) -> Json | None:
        def effect() -> Json | None:
            body = self.world.body
            if not body or body["metadata"]["uid"] != uid:
                return None
            body["metadata"]["finalizers"] = list(finalizers)
            found = self._model()
            if "deletionTimestamp" in body["metadata"] and not body["metadata"]["finalizers"]:
                self.world.body = {}
            return found

        found: Json | None = await self._call("apply finalizers", effect)
        return found

    async def delete(self, item: Json) -> None:
        await self._call(f"delete {item['metadata']['name']}", lambda: self.world._delete(item))

    async def list(self, _: str, plural: str, *__: str | None, fields: str = "") -> list[Json]:
        """Events about one object; other models there are none."""
        name = fields.rpartition("=")[2]
        told = [it for it in self.world.events if it["involvedObject"]["name"] == name]
        found: list[Json] = await self._call(f"list {plural}", lambda: told)
        return found
