"""The only module of the command line that talks to an API server: the user's kubeconfig, plain JSON in and out.

Nothing is cached and nothing is retried, since a person is there to see what the server says; but for a token that has
had its time, where the kubeconfig has another one.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import urllib3
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.rest import RESTResponse
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import load_incluster_config

from torchscript_operator.api.v1alpha1 import API_VERSION, GROUP, PLURAL
from torchscript_operator.cli.cluster import kubeconfig
from torchscript_operator.cli.cluster.kubeconfig import Renewal
from torchscript_operator.cli.errors import REFUSED, CliError

Json = dict[str, Any]
"""A Kubernetes object as the API server sends it."""

CONNECT_SECONDS = 10
READ_SECONDS = 60
"""Time for one answer."""
WATCH_SECONDS = 240
"""After which a watch is begun anew, so that one whose connection died unnoticed is not waited for."""
CONNECTIONS = 32
"""Kept open at most: more than the watches of a page, and than what doctor asks at once."""
PAGE_SIZE = 500
"""Objects in one page of a list, as kubectl asks for."""
MANAGER = "tsm"
"""Field manager of what a person changes by the command line."""
SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
"""What an object may be called; anything else would be another path of the API."""


class ApiError(CliError):
    """The API server said no, or nothing."""

    def __init__(self, status: int, message: str, advice: str = "") -> None:
        """Take the HTTP status, 0 without an answer, and what to tell the person."""
        super().__init__(message, REFUSED, advice)
        self.status = status


@dataclass(frozen=True)
class Options:
    """Which cluster, and where in it: what kubectl's options of the same names mean."""

    context: str | None = None
    namespace: str | None = None
    all_namespaces: bool = False
    kubeconfig: str | None = None


def path(api_version: str, namespace: str | None, plural: str, name: str = "") -> str:
    """Path of a resource, in one namespace or in all, or of one object."""
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    place = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{place}/{plural}/{name}".rstrip("/")


def split_name(text: str) -> str:
    """The name in `minilm` or, as kubectl writes it, `tsm/minilm`. CliError for another kind and what is no name."""
    kind, slash, name = text.rpartition("/")
    known = {"tsm", PLURAL, PLURAL.removesuffix("s"), f"{PLURAL}.{GROUP}", f"{PLURAL.removesuffix('s')}.{GROUP}"}
    if (slash and kind.lower() not in known) or not NAME.fullmatch(name):
        raise CliError(f"{text!r} is no model.", advice="Give a model's name, such as minilm or tsm/minilm.")
    return name


class Cluster:
    """An API server as the user sees it."""

    def __init__(
        self,
        client: ApiClient,
        namespace: str | None,
        context: str,
        renewal: Renewal | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Take an open client, the namespace to look at (None: all), and what the cluster is called in messages.

        renewal: where to look for other credentials, when these have had their time. headers: of every request.
        """
        self.client = client
        self.namespace = namespace
        self.context = context
        self.renewal = renewal
        self.headers = tuple(headers)

    def within(self, namespace: str) -> "Cluster":
        """The same cluster, looked at in one namespace."""
        return Cluster(self.client, namespace, self.context, self.renewal, self.headers)

    def get(self, api_version: str, plural: str, namespace: str | None, name: str) -> Json | None:
        """One object, or None. ApiError."""
        try:
            return self.call("GET", path(api_version, namespace, plural, name))
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def list(
        self,
        api_version: str,
        plural: str,
        namespace: str | None,
        selector: str | None = None,
        fields: str | None = None,
    ) -> list[Json]:
        """All objects that match, each with its own apiVersion and kind, which items of a list lack. ApiError."""
        return [*self.snapshot(api_version, plural, namespace, selector, fields)[0]]

    def snapshot(
        self,
        api_version: str,
        plural: str,
        namespace: str | None,
        selector: str | None = None,
        fields: str | None = None,
    ) -> tuple[Sequence[Json], str]:
        """The same with the resourceVersion that a watch goes on from. ApiError."""
        found = []
        query = {"limit": str(PAGE_SIZE), "labelSelector": selector, "fieldSelector": fields, "continue": None}
        while True:
            page = self.call("GET", path(api_version, namespace, plural), query=query)
            kind = page["kind"].removesuffix("List")
            found += [{"apiVersion": api_version, "kind": kind, **item} for item in page["items"]]
            query["continue"] = page["metadata"].get("continue")
            if not query["continue"]:
                return found, str(page["metadata"].get("resourceVersion") or "")

    def watch(
        self,
        api_version: str,
        plural: str,
        namespace: str | None,
        version: str,
        selector: str | None = None,
        fields: str | None = None,
    ) -> Iterator[Json]:
        """Changes since a resourceVersion as the API server tells them, until it ends the watch after some minutes.

        ApiError, also where the connection breaks off.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
            "resourceVersion": version,
            "labelSelector": selector,
            "fieldSelector": fields,
        }
        where = _with_query(path(api_version, namespace, plural), query)
        with self._open("GET", where, timeout=WATCH_SECONDS + CONNECT_SECONDS) as answer:
            for line in _lines(answer, f"The watch of {plural}"):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ApiError(0, f"The watch of {plural} broke off within a line.") from error

    def merge(self, api_version: str, plural: str, namespace: str, name: str, patch: Json) -> Json:
        """Change an object by a merge patch, and return it. ApiError."""
        content = "application/merge-patch+json"
        where = path(api_version, namespace, plural, name)
        return self.call("PATCH", where, patch, content, query={"fieldManager": MANAGER})

    def ask(self, api_version: str, plural: str, spec: Json, namespace: str | None = None) -> Json:
        """Create a review, which is a question and stores nothing; returns its status. ApiError."""
        singular = plural.removesuffix("s")
        kind = {
            "selfsubjectaccessreview": "SelfSubjectAccessReview",
            "selfsubjectrulesreview": "SelfSubjectRulesReview",
            "subjectaccessreview": "SubjectAccessReview",
        }[singular]
        body = {"apiVersion": api_version, "kind": kind, "spec": spec}
        status: Json = self.call("POST", path(api_version, namespace, plural), body)["status"]
        return status

    def model(self, namespace: str, name: str) -> Json:
        """One TorchScriptModel. ApiError where there is none of the name."""
        found = self.get(API_VERSION, PLURAL, namespace, name)
        if found is None:
            raise self.no_model(namespace, name)
        return found

    def no_model(self, namespace: str, name: str) -> ApiError:
        """What to say where a model is not."""
        message = f"There is no model {name} in the namespace {namespace} of {self.context}."
        return ApiError(
            HTTPStatus.NOT_FOUND, message, "`tsm status -A` lists all models; -n NAMESPACE looks elsewhere."
        )

    def version(self) -> str:
        """Version of the API server, such as v1.34.1. ApiError."""
        return str(self.call("GET", "/version").get("gitVersion", ""))

    def log(self, namespace: str, pod: str, **options: object) -> Iterator[str]:
        """Lines of a container's log as they come; options as the API names them. ApiError."""
        given = {key: str(value).lower() if isinstance(value, bool) else value for key, value in options.items()}
        where = f"{path('v1', namespace, 'pods', pod)}/log"
        limit = None if options.get("follow") else READ_SECONDS
        with self._open("GET", _with_query(where, given), timeout=limit) as answer:
            yield from _lines(answer, f"The log of pod {pod}")

    def call(
        self,
        method: str,
        where: str,
        body: Json | None = None,
        content: str = "application/json",
        query: Mapping[str, object] | None = None,
    ) -> Json:
        """One call; ApiError for any answer but a good one."""
        with self._open(method, _with_query(where, query or {}), body, content) as answer:
            text = answer.read()  # type: ignore[no-untyped-call]
        return cast("Json", json.loads(text)) if text else {}

    @contextmanager
    def _open(
        self,
        method: str,
        where: str,
        body: Json | None = None,
        content: str = "application/json",
        timeout: float | None = READ_SECONDS,
    ) -> Iterator[RESTResponse]:
        try:
            answer, token = self._send(method, where, body, content, timeout)
            if answer.status == HTTPStatus.UNAUTHORIZED and self.renewal is not None and self.renewal.renew(token):
                _leave(answer)
                answer, _ = self._send(method, where, body, content, timeout)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._silent(error) from error
        except ConfigException as error:
            raise ApiError(0, f"The credentials of {self.context} cannot be renewed: {error}") from error
        try:
            if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
                raise self._refusal(answer, where)
            yield answer
        finally:
            _leave(answer)

    def _send(
        self, method: str, where: str, body: Json | None, content: str, timeout: float | None
    ) -> tuple[RESTResponse, str | None]:
        """Ask once; the answer, and the token that was shown."""
        headers = urllib3.HTTPHeaderDict({"Accept": "application/json, */*", "User-Agent": MANAGER})
        for name, value in self.headers:
            headers.add(name, value)
        if body is not None:
            headers["Content-Type"] = content
        url = f"{self.client.configuration.host}{where}"
        self.client.update_params_for_auth(headers, [], ["BearerToken"], where, method, body)
        answer: RESTResponse = self.client.rest_client.request(  # type: ignore[no-untyped-call]
            method, url, headers=headers, body=body, _request_timeout=(CONNECT_SECONDS, timeout)
        )
        return answer, headers.get("authorization")

    def _silent(self, error: Exception) -> ApiError:
        words = str(error).rpartition(": ")[2] or type(error).__name__
        message = f"The API server of {self.context} ({self.client.configuration.host}) does not answer: {words}."
        return ApiError(0, message, "Check the network and the context: `kubectl cluster-info` asks the same server.")

    def _refusal(self, answer: RESTResponse, where: str) -> ApiError:
        try:
            said = str(json.loads(answer.read() or b"")["message"])  # type: ignore[no-untyped-call]
        except (TypeError, ValueError, KeyError):
            said = str(answer.reason or answer.status)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            return ApiError(answer.status, f"{self.context} does not know you: {said}.", "Log in to the cluster again.")
        if answer.status == HTTPStatus.FORBIDDEN:
            advice = "Ask the cluster's administrator for this right; `tsm doctor` lists which ones there are."
            return ApiError(answer.status, f"{self.context} forbids it: {said}.", advice)
        if answer.status == HTTPStatus.NOT_FOUND and f"/{PLURAL}" in where and "could not find the requested" in said:
            advice = (
                "Install the chart torchscript-operator, which brings the resource; `tsm doctor` says what is there."
            )
            return ApiError(answer.status, f"{self.context} has no resource {PLURAL}.{GROUP}.", advice)
        return ApiError(answer.status, f"The API server of {self.context} says: {said}.")


def _leave(answer: RESTResponse) -> None:
    """End an answer. One that was not read to its end takes its connection along: the rest of it is no next answer."""
    answer.response.close()
    answer.response.release_conn()


def _with_query(where: str, query: Mapping[str, object]) -> str:
    given = {key: value for key, value in query.items() if value is not None}
    return f"{where}?{urlencode(given)}" if given else where


def _lines(answer: RESTResponse, what: str) -> Iterator[str]:
    """Lines of an answer as they come. ApiError where it breaks off."""
    rest = b""
    try:
        for chunk in answer.response.stream(amt=None, decode_content=True):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
    except urllib3.exceptions.HTTPError as error:
        raise ApiError(0, f"{what} broke off: {type(error).__name__}.") from error
    if rest:
        yield rest.decode(errors="replace")


@contextmanager
def connect(options: Options) -> Iterator[Cluster]:
    """Connect as the kubeconfig says, or inside a pod as its ServiceAccount. CliError where neither is there."""
    if options.namespace and not NAME.fullmatch(options.namespace):
        raise CliError(f"{options.namespace!r} is no namespace.", advice="`tsm status -A` looks at all of them.")
    configuration = Configuration()
    # One try: the library would go on trying, and tell of each try on the terminal.
    configuration.retries = False
    configuration.connection_pool_maxsize = CONNECTIONS
    # Logs are followed without a time limit: a connection that died with a sleeping machine's network is found dead.
    configuration.keep_alive = True
    chosen, renewal = kubeconfig.files(options.kubeconfig), None
    headers: tuple[tuple[str, str], ...] = ()
    there = any(kubeconfig.has_text(part) for part in chosen.split(os.pathsep))
    if not there and options.context is None and SERVICE_ACCOUNT_NAMESPACE.is_file():
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        name: str = "this cluster"
        default: str | None = SERVICE_ACCOUNT_NAMESPACE.read_text().strip()
    else:
        loaded = kubeconfig.load(chosen, options.context, configuration)
        name, default, headers = loaded.context, loaded.namespace, loaded.headers
        renewal = Renewal(chosen, name, configuration)
    namespace = None if options.all_namespaces else options.namespace or default or "default"
    with ApiClient(configuration) as client:
        yield Cluster(client, namespace, name, renewal, headers)
