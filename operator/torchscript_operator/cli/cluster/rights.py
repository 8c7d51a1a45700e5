"""What the user and the operator may do, as the API server itself decides it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from torchscript_operator.api.v1alpha1 import GROUP, PLURAL
from torchscript_operator.cli.cluster.access import Cluster, Json
from torchscript_operator.cli.cluster.installation import RIGHTS, Installation

NEEDED = (
    ("status, wait, plan", GROUP, PLURAL, "", "list"),
    ("status of one model, history, logs, report", GROUP, PLURAL, "", "get"),
    ("status of one model", "", "pods", "", "list"),
    ("status of one model", "batch", "jobs", "", "list"),
    ("status of one model", "apps", "deployments", "", "list"),
    ("status of one model", "", "services", "", "list"),
    ("status of one model", "", "events", "", "list"),
    ("logs, wait", "", "pods", "log", "get"),
    ("retry, rollback, suspend, resume", GROUP, PLURAL, "", "patch"),
    ("plan", "", "services", "", "get"),
    ("plan", "autoscaling", "horizontalpodautoscalers", "", "get"),
    ("plan", "policy", "poddisruptionbudgets", "", "get"),
    ("plan's nodes", "", "nodes", "", "list"),
    ("dashboard without delay", GROUP, PLURAL, "", "watch"),
)
"""What a command needs: command, API group, resource, subresource, verb."""
FIRST = NEEDED[0][0]
"""Without this right there is nothing to be seen."""
QUESTIONS_AT_ONCE = 8
"""Of what somebody may do."""


def lacking(cluster: Cluster) -> dict[str, list[str]]:
    """What the user may not do in the cluster's namespace, by the commands that need it. ApiError."""
    questions = [
        {"resourceAttributes": _about(group, resource, subresource, verb, _place(resource, cluster.namespace))}
        for _, group, resource, subresource, verb in NEEDED
    ]
    found: dict[str, list[str]] = {}
    answers = _allowed(cluster, "selfsubjectaccessreviews", questions)
    for (command, _, resource, subresource, verb), allowed in zip(NEEDED, answers, strict=True):
        if not allowed:
            found.setdefault(command, []).append(f"{verb} {resource}{'/' if subresource else ''}{subresource}")
    return found


def lacking_of(operator: Installation, cluster: Cluster) -> list[str]:
    """What an operator may not do in the namespaces that it watches. ApiError."""
    watched: Sequence[str | None] = (operator.settings.watch_namespaces if operator.settings else ()) or (None,)
    needed = [
        (verb, resource, group, namespace)
        for namespace in watched
        for group, resources, verbs in RIGHTS
        for resource in resources
        for verb in verbs
    ]
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{operator.namespace}", "system:authenticated"]
    questions = []
    for verb, resource, group, namespace in needed:
        plural, _, subresource = resource.partition("/")
        about = _about(group, plural, subresource, verb, namespace)
        questions.append({"user": operator.user, "groups": groups, "resourceAttributes": about})
    answers = _allowed(cluster, "subjectaccessreviews", questions)
    return [
        f"{verb} {resource}" + (f" in {namespace}" if namespace else "")
        for (verb, resource, _, namespace), allowed in zip(needed, answers, strict=True)
        if not allowed
    ]


def _place(resource: str, namespace: str | None) -> str | None:
    return None if resource == "nodes" else namespace


def _about(group: str, resource: str, subresource: str, verb: str, namespace: str | None) -> Json:
    """What a review asks for; in all namespaces where none is given."""
    found = {"group": group, "resource": resource, "subresource": subresource, "verb": verb}
    return found | ({"namespace": namespace} if namespace else {})


def _allowed(cluster: Cluster, review: str, questions: Sequence[Json]) -> list[bool]:
    """The answer to each; several are asked at once, since a list of namespaces makes hundreds of them. ApiError."""

    def ask(question: Json) -> bool:
        return bool(cluster.ask("authorization.k8s.io/v1", review, question).get("allowed"))

    with ThreadPoolExecutor(QUESTIONS_AT_ONCE) as pool:
        return list(pool.map(ask, questions))
