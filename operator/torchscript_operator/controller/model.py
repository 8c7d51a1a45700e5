"""A TorchScriptModel as the planner sees it: identity, spec and status parsed once."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from torchscript_operator.api.v1alpha1 import API_VERSION, GROUP, KIND
from torchscript_operator.api.v1alpha1.spec import TorchScriptModelSpec
from torchscript_operator.api.v1alpha1.status import TargetStatus, TorchScriptModelStatus

Json = dict[str, Any]
"""A Kubernetes object as the API server sends it."""

RETRY_ANNOTATION = f"{GROUP}/retry"
"""Any new value starts a new attempt of what failed."""
ROLLBACK_ANNOTATION = f"{GROUP}/rollback-to"
"""Beginning of the digest or key of an earlier artifact that is to be served in place of the newest."""
MODEL_LABEL = f"{GROUP}/model"
TARGET_LABEL = f"{GROUP}/target"
COMPONENT_LABEL = f"{GROUP}/component"
ATTEMPT_LABEL = f"{GROUP}/attempt"
DIGEST_ANNOTATION = f"{GROUP}/artifact-digest"
"""On a serving pod template: the manifest digest that the pods load."""
APPLIED_ANNOTATION = f"{GROUP}/applied"
"""On applied children: digest of what was applied, so that an unchanged child costs no write."""
SCALING_ANNOTATION = f"{GROUP}/scaling"
"""On a Deployment beside which an autoscaler or a disruption budget stands; beside others no pass looks for one."""
MANAGER = "torchscript-operator"
"""Field manager of every write, and the value of app.kubernetes.io/managed-by."""
FINALIZER = f"{GROUP}/artifacts"
"""On models whose artifacts are to be removed with them, and on no others."""
EXPORT = "export"
VERIFY = "verify"
SERVING = "serving"
REMOVE = "remove"


def _read_status(status: Json) -> TorchScriptModelStatus:
    """Read a status; one that another release wrote in another form is made anew from the children."""
    try:
        return TorchScriptModelStatus.model_validate(status)
    except ValidationError:
        return TorchScriptModelStatus()


@dataclass(frozen=True)
class Model:
    """Identity, spec and status of one custom resource."""

    namespace: str
    name: str
    uid: str
    generation: int
    annotations: dict[str, str]
    spec: TorchScriptModelSpec
    status: TorchScriptModelStatus

    @classmethod
    def parse(cls, body: Json) -> "Model":
        """Read an object of the API server's. Raises pydantic.ValidationError for a spec that the types refuse."""
        metadata = body["metadata"]
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            generation=metadata["generation"],
            annotations=metadata.get("annotations", {}),
            spec=TorchScriptModelSpec.model_validate(body["spec"]),
            status=_read_status(body.get("status", {})),
        )

    @classmethod
    def unreadable(cls, body: Json) -> "Model":
        """The same for an object whose spec the types refuse: enough to report that."""
        spec = {"source": {"s3": {"uri": "s3://unreadable"}}, "task": "feature-extraction"}
        return cls.parse({**body, "spec": spec})

    @property
    def retry(self) -> str:
        """The value of the retry annotation, empty when absent."""
        return self.annotations.get(RETRY_ANNOTATION, "")

    @property
    def owner_reference(self) -> Json:
        """What makes a child go when the model goes."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }

    def labels(self, component: str, target: str | None = None) -> dict[str, str]:
        """Labels of a child; the model's own labels are not copied, since GitOps tools prune by theirs."""
        labels = {
            "app.kubernetes.io/name": self.name,
            "app.kubernetes.io/component": component,
            "app.kubernetes.io/managed-by": MANAGER,
            MODEL_LABEL: self.name,
            COMPONENT_LABEL: component,
        }
        return labels if target is None else {**labels, TARGET_LABEL: target}

    def target_status(self, name: str) -> TargetStatus:
        """What is known of a target; an empty status for a new one."""
        return next(
            (known for known in self.status.targets if known.name == name), TargetStatus(name=name, state="Pending")
        )

    @property
    def served(self) -> tuple[str, ...]:
        """Names of the targets to serve."""
        names = self.spec.serving.targets
        return tuple(target.name for target in self.spec.targets) if names is None else names
