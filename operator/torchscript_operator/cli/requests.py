"""What is asked of the worker: the controller's own request, with this machine in place of the cluster."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from torchscript_operator.api.v1alpha1.spec import Artifact, ArtifactVolume, Target
from torchscript_operator.artifact.outcome import ArtifactReference
from torchscript_operator.artifact.request import (
    Batching,
    ExportRequest,
    FolderSource,
    Samples,
    ServeRequest,
    StoreLocation,
    Trust,
)
from torchscript_operator.cli.errors import CliError
from torchscript_operator.controller import jobs
from torchscript_operator.controller.model import Model
from torchscript_operator.controller.settings import Settings

SETTINGS = Settings(
    worker_image="", artifact_store=Artifact(persistent_volume_claim=ArtifactVolume(claim_name="this-machine"))
)
"""The operator's settings without a cluster: no image, and a store that every request replaces."""
TRUST_VARIABLE = "TSM_TRUST"
"""Environment variable with what models may trust, as the operator's setting in a cluster; names with commas."""


@dataclass(frozen=True)
class Overrides:
    """What the command line gives in place of what only a cluster has."""

    store: StoreLocation
    source: Path | None = None
    samples: Path | None = None


def export_request(model: Model, target: Target, overrides: Overrides) -> ExportRequest:
    """What the controller would ask of a Job, to be done here. CliError for a source or samples of a cluster's."""
    spec = model.spec
    if overrides.source is None and spec.source.persistent_volume_claim is not None:
        claim = spec.source.persistent_volume_claim.claim_name
        message = f"spec.source is the volume {claim!r}, which only a cluster has."
        raise CliError(message, advice="Give the model's folder on this machine with --source FOLDER.")
    if overrides.samples is None and spec.inputs.samples is not None and spec.inputs.samples.config_map is not None:
        name = spec.inputs.samples.config_map.name
        message = f"spec.inputs.samples is the ConfigMap {name!r}, which only a cluster has."
        raise CliError(message, advice="Give the texts, one a line, with --samples FILE.")
    allowed = tuple(name for name in get_args(Trust) if name in os.environ.get(TRUST_VARIABLE, "").split(","))
    try:
        wanted = jobs.export_request(model, target, SETTINGS.model_copy(update={"trust": allowed}))
    except jobs.NotTrustedError as error:
        message = f"spec.source.trust asks for {error}, which can run code of the model's author on this machine."
        advice = f"If you trust that author: {TRUST_VARIABLE}={','.join(spec.source.trust or ())} tsm …"
        raise CliError(message, advice=advice) from error
    # The image is part of the key, and it is not what computes here; nor is there another node to leave the proof to.
    changes: dict[str, object] = {"store": overrides.store, "worker_image": "", "proof": None}
    if overrides.source is not None:
        changes["source"] = FolderSource(path=str(overrides.source.expanduser().absolute()))
    if overrides.samples is not None:
        changes["samples"] = Samples(path=str(overrides.samples.expanduser().absolute()))
    return wanted.model_copy(update=changes)


def serve_request(wanted: ExportRequest, model: Model, artifact: ArtifactReference) -> ServeRequest:
    """What the controller would ask of a pod."""
    return ServeRequest(
        model=wanted.model,
        target=wanted.target,
        artifact=wanted.store.model_copy(update={"uri": artifact.uri}),
        digest=artifact.digest,
        batching=Batching(**model.spec.serving.batching.model_dump()),
    )
