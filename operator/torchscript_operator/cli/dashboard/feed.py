"""The cluster's models as they change: one list and one watch for each kind, whoever looks at the page.

A watch costs the API server an open connection and nothing while nothing changes, however many models there are. Where
only lists are allowed they are read again every POLL_SECONDS.
"""

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus

from torchscript_operator.api.v1alpha1 import API_VERSION, KIND, PLURAL
from torchscript_operator.cli.cluster.access import ApiError, Cluster, Json
from torchscript_operator.cli.cluster.read import CHILDREN, ModelView, joined, parse
from torchscript_operator.controller.model import MODEL_LABEL
from torchscript_operator.controller.observed import label

POLL_SECONDS = 10.0
"""Between two lists of a kind that may not be watched."""
REFUSED_SECONDS = 60.0
"""Before a kind is asked for again that may not be read."""
RETRY_SECONDS = 2.0
"""Before a server is asked again that did not answer."""
PAUSE_SECONDS = 0.5
"""Between the end of a watch and the next."""
Key = tuple[str, str]
"""Namespace and name of a model."""


class Kind:
    """Objects of one kind, by model."""

    def __init__(self, api_version: str, plural: str, selector: str | None, fields: str | None) -> None:
        """Take what is listed and watched."""
        self.api_version = api_version
        self.plural = plural
        self.selector = selector
        self.fields = fields
        self.read = False
        """Whether it has been listed, or may not be."""
        self.problem: ApiError | None = None
        """Why it is not there, or may be old."""
        self._of: dict[Key, dict[Key, Json]] = defaultdict(dict)

    def key(self, item: Json) -> Key:
        """The model that an object belongs to."""
        metadata = item["metadata"]
        if self.plural == "events":
            about = item["involvedObject"]
            return about.get("namespace", ""), about.get("name", "")
        name = metadata["name"] if self.plural == PLURAL else label(item, MODEL_LABEL) or ""
        return metadata["namespace"], name

    def put(self, item: Json) -> Key:
        """Keep an object, but for what is only long; returns whose it is."""
        item["metadata"].pop("managedFields", None)
        key = self.key(item)
        self._of[key][_own(item)] = item
        return key

    def remove(self, item: Json) -> Key:
        """Forget an object."""
        key = self.key(item)
        self._of[key].pop(_own(item), None)
        if not self._of[key]:
            del self._of[key]
        return key

    def replace(self, items: Iterable[Json]) -> set[Key]:
        """Keep these and no others; returns the models of which something is new."""
        before, self._of = self._of, defaultdict(dict)
        keys = set(before) | {self.put(item) for item in items}
        return {key for key in keys if _versions(before.get(key, {})) != _versions(self._of.get(key, {}))}

    def of(self, key: Key) -> list[Json]:
        """Objects of one model."""
        return list(self._of.get(key, {}).values())


def _own(item: Json) -> Key:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _versions(items: Mapping[Key, Json]) -> dict[Key, str]:
    return {own: item["metadata"]["resourceVersion"] for own, item in items.items()}


class Feed:
    """The newest of everything, kept by threads; every method may be called by any thread."""

    def __init__(self, cluster: Cluster) -> None:
        """Take the cluster and the namespace to look at; nothing is read before `start`."""
        self.cluster = cluster
        self.models = Kind(API_VERSION, PLURAL, None, None)
        children = (Kind(version, plural, MODEL_LABEL, None) for version, plural in CHILDREN)
        self._kinds = (self.models, *children, Kind("v1", "events", None, f"involvedObject.kind={KIND}"))
        self._lock = threading.RLock()
        self._changed: dict[Key, int] = {}
        self._parsed: dict[Key, ModelView] = {}
        self._listeners: list[Callable[[], None]] = []
        self._stop = threading.Event()
        self.serial = 0
        """Counts changes."""

    def start(self) -> None:
        """Begin to read; the threads end with the process, or soon after `stop`."""
        for kind in self._kinds:
            threading.Thread(target=self._keep, args=(kind,), name=f"watch-{kind.plural}", daemon=True).start()

    def stop(self) -> None:
        """Read no more, and let everybody know who listens."""
        self._stop.set()
        self._tell()

    @property
    def stopped(self) -> bool:
        """Whether it has been stopped."""
        return self._stop.is_set()

    @property
    def problem(self) -> ApiError | None:
        """Why what is here may be old, or is not here at all."""
        told = [kind.problem for kind in self._kinds if kind.problem is not None]
        return next((error for error in told if error not in self._refusals), None)

    @property
    def missing(self) -> list[str]:
        """What the user may not read beside the models, in the server's words."""
        return [error.message for error in self._refusals]

    @property
    def _refusals(self) -> list[ApiError]:
        found = [kind.problem for kind in self._kinds if kind is not self.models and kind.problem is not None]
        return [error for error in found if error.status == HTTPStatus.FORBIDDEN]

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]:
        """Call `heard` at each change, from another thread; returns what ends that."""
        with self._lock:
            self._listeners.append(heard)

        def leave() -> None:
            with self._lock:
                self._listeners.remove(heard)

        return leave

    def since(self, serial: int) -> tuple[int, list[ModelView], list[Key]]:
        """What has changed after a serial: up to which one, the models as they are now, and those that have gone."""
        with self._lock:
            keys = [key for key, at in self._changed.items() if at > serial]
            views = [view for key in keys if (view := self.view(*key)) is not None]
            there = {(view.model.namespace, view.model.name) for view in views}
            return self.serial, views, [key for key in keys if key not in there]

    def view(self, namespace: str, name: str) -> ModelView | None:
        """One model with its children and events."""
        with self._lock:
            key = (namespace, name)
            bodies = self.models.of(key)
            if not bodies:
                self._parsed.pop(key, None)
                return None
            parsed = self._parsed.get(key)
            if parsed is None or parsed.body is not bodies[0]:
                parsed = self._parsed[key] = parse(bodies[0])
            children = {kind.plural: kind.of(key) for kind in self._kinds[1:-1]}
            (view,) = joined([parsed], children, self._kinds[-1].of(key))
            return view

    def _keep(self, kind: Kind) -> None:
        """List a kind, then take in its changes until the server wants it to be listed anew; and again."""
        where = (kind.api_version, kind.plural, self.cluster.namespace)
        while not self.stopped:
            pause = RETRY_SECONDS
            try:
                items, version = self.cluster.snapshot(*where, kind.selector, kind.fields)
            except ApiError as error:
                pause = self._fail(kind, error)
            else:
                with self._lock:
                    kind.read, kind.problem = True, None
                    self._note(kind.replace(items))
                # A connection that breaks off is no news: the next list will say whether the server is there.
                with contextlib.suppress(ApiError):
                    pause = self._watch(kind, version)
            self._stop.wait(pause)

    def _fail(self, kind: Kind, error: ApiError) -> float:
        """Take note of why a kind cannot be read; returns for how long to leave it alone."""
        forbidden = error.status == HTTPStatus.FORBIDDEN
        with self._lock:
            kind.read, kind.problem = kind.read or forbidden, error
            self._note(kind.replace(()) if forbidden else ())
        return REFUSED_SECONDS if forbidden else RETRY_SECONDS

    def _watch(self, kind: Kind, version: str) -> float:
        """Take in changes; returns seconds until the next list. ApiError."""
        where = (kind.api_version, kind.plural, self.cluster.namespace)
        while not self.stopped:
            try:
                for event in self.cluster.watch(*where, version, kind.selector, kind.fields):
                    item = event["object"]
                    if event["type"] == "ERROR":
                        # As a rule 410: what happened since this version is no longer known.
                        return RETRY_SECONDS
                    version = item["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        with self._lock:
                            self._note([kind.remove(item) if event["type"] == "DELETED" else kind.put(item)])
            except ApiError as error:
                if error.status != HTTPStatus.FORBIDDEN:
                    raise
                return POLL_SECONDS
            self._stop.wait(PAUSE_SECONDS)
        return 0.0

    def _note(self, keys: Iterable[Key]) -> None:
        self.serial += 1
        for key in keys:
            self._changed[key] = self.serial
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for heard in listeners:
            heard()
