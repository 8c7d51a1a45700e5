"""What a user writes of any pod: where it may run, what it needs, which Secret it reads."""

from typing import Annotated, Literal

from pydantic import Field

from torchscript_operator.api.v1alpha1.base import ApiModel, DnsSubdomain, Quantity

NodeSelector = Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=16)]
Image = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^\S+$")]


class SecretKey(ApiModel):
    """One key of a Secret in the model's namespace."""

    name: DnsSubdomain
    """Name of the Secret."""
    key: Annotated[str, Field(max_length=253, min_length=1)]
    """Key in the Secret."""


class Toleration(ApiModel):
    """As in a pod."""

    key: Annotated[str, Field(max_length=316)] | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: Annotated[str, Field(max_length=63)] | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class Resources(ApiModel):
    """As in a container."""

    requests: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """What the scheduler reserves."""
    limits: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """What the container may use at most; over its memory it is killed."""


Tolerations = Annotated[tuple[Toleration, ...], Field(max_length=16)]
