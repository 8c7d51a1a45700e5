"""Serving children: the Deployment of a served target and the Service of a model. All pure."""

from torchscript_operator.api.v1alpha1.spec import Target
from torchscript_operator.api.v1alpha1.status import ServedArtifact
from torchscript_operator.artifact import digest, request
from torchscript_operator.controller import edge, placement, pods, replicas
from torchscript_operator.controller.model import (
    APPLIED_ANNOTATION,
    COMPONENT_LABEL,
    DIGEST_ANNOTATION,
    MODEL_LABEL,
    SERVING,
    TARGET_LABEL,
    Json,
    Model,
)
from torchscript_operator.controller.settings import Settings

CONTAINER = "server"
PROBE_SECONDS = 2
"""Time between two looks at a starting pod; loading takes some seconds, so this is the error in its start-up time."""
GRACE_SECONDS = 60
"""Time a pod has to answer what it has accepted; longer than the server's own limit for one request."""


def deployment_name(model: Model, target: str) -> str:
    """Name of a target's Deployment, at most 61 characters."""
    return f"{model.name}-{target}"


def url(model: Model, settings: Settings) -> str:
    """Base URL of the model's Service inside the cluster."""
    scheme = edge.scheme(model.spec.serving)
    return f"{scheme}://{model.name}.{model.namespace}.svc.{settings.cluster_domain}"


def selector(model: Model) -> dict[str, str]:
    """Labels that all serving pods of a model share."""
    return {MODEL_LABEL: model.name, COMPONENT_LABEL: SERVING}


def selector_text(model: Model) -> str:
    """The same as the scale subresource wants it."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector(model).items()))


def sealed(body: Json) -> Json:
    """Note on a child what is applied, so that the next pass sees whether anything changed."""
    metadata = body["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED_ANNOTATION: digest.of_value(body)}
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def serve_request(model: Model, target: Target, served: ServedArtifact) -> request.ServeRequest:
    """What a pod loads."""
    artifact = served.artifact
    batching = model.spec.serving.batching
    return request.ServeRequest(
        model=f"{model.namespace}/{model.name}",
        target=target.name,
        artifact=request.StoreLocation(
            uri=artifact.uri, endpoint=artifact.store.endpoint, region=artifact.store.region
        ),
        digest=artifact.digest,
        batching=request.Batching(**batching.model_dump()),
    )


def deployment(
    model: Model, target: Target, settings: Settings, served: ServedArtifact, live: Json | None = None
) -> Json:
    """The Deployment that serves one proven artifact; `live` is the one that is there."""
    serving = model.spec.serving
    place = placement.serving(model, target, settings)
    labels = model.labels(SERVING, target.name)
    matched = {**selector(model), TARGET_LABEL: target.name}
    count = replicas.replicas(serving, live)
    parts = pods.PodParts()
    parts.set(request.SERVE_VARIABLE, serve_request(model, target, served).to_json())
    parts.artifact_store(served.artifact.store, read_only=True)
    edge.add(parts, serving, model.name)
    container = {
        "name": CONTAINER,
        "image": serving.image or served.worker_image,
        "command": ["python", "-m", "torchscript_operator.serve"],
        "ports": edge.container_ports(serving),
        "resources": place.container_resources(),
        "startupProbe": edge.probe(
            serving,
            "/v2/health/ready",
            periodSeconds=PROBE_SECONDS,
            failureThreshold=-(-serving.progress_deadline_seconds // PROBE_SECONDS),
        ),
        "readinessProbe": edge.probe(serving, "/v2/health/ready", periodSeconds=PROBE_SECONDS, failureThreshold=1),
        "livenessProbe": edge.probe(serving, "/v2/health/live", periodSeconds=10, failureThreshold=3),
    }
    body: Json = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": deployment_name(model, target.name),
            "namespace": model.namespace,
            "labels": labels,
            "ownerReferences": [model.owner_reference],
            "annotations": replicas.marks(serving),
        },
        "spec": {
            **({} if count is None else {"replicas": count}),
            "selector": {"matchLabels": matched},
            # The old pods stay until new ones have replayed the golden inputs.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "progressDeadlineSeconds": serving.progress_deadline_seconds,
            # Of one that somebody has paused no rollout would ever end, well or badly; spec.suspend is the way.
            "paused": False,
            "revisionHistoryLimit": 2,
            "template": {
                "metadata": {
                    "labels": {**labels, **edge.pod_labels(serving)},
                    "annotations": {DIGEST_ANNOTATION: served.artifact.digest},
                },
                "spec": {
                    **pods.pod_spec(settings, model.namespace, container, parts, place.scheduling()),
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "topologySpreadConstraints": [
                        {
                            "maxSkew": 1,
                            "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": {"matchLabels": matched},
                        }
                    ],
                },
            },
        },
    }
    return sealed(body)


def service(model: Model) -> Json:
    """The Service in front of all Deployments of a model."""
    return sealed(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": model.name,
                "namespace": model.namespace,
                "labels": model.labels(SERVING),
                "ownerReferences": [model.owner_reference],
            },
            "spec": {
                "selector": selector(model),
                "ports": edge.service_ports(model.spec.serving),
            },
        }
    )
