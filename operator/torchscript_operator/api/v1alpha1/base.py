"""The base of the API types, and how a type carries rules that only the API server can check."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

VALIDATIONS = "x-kubernetes-validations"
"""The CRD keyword for CEL rules."""


class ApiModel(BaseModel):
    """An object in the API: camelCase, unknown fields refused, docstrings become the CRD's descriptions."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )


class StatusModel(ApiModel):
    """An object in the status: read leniently, since another release of the operator may have written it."""

    model_config = ConfigDict(extra="ignore")


def rule(expression: str, message: str) -> dict[str, str]:
    """A CEL rule; the message is a whole sentence that says what to do."""
    return {"rule": expression, "message": message}


def rules(*given: dict[str, str]) -> ConfigDict:
    """Model configuration that puts CEL rules on the generated schema."""
    return ConfigDict(json_schema_extra=lambda schema: schema.update({VALIDATIONS: [dict(each) for each in given]}))


def unavailable(field: str, instead: str) -> dict[str, str]:
    """A rule that refuses a field that this release knows but does not act on."""
    return rule(f"!has(self.{field})", f"{field} is not available in this release; {instead}")


def opaque(description: str) -> Any:
    """Keywords of a field that is handed to Kubernetes as it is, and which Kubernetes validates."""
    keywords: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return Field(json_schema_extra=keywords, description=description)


def map_by(key: str) -> Any:
    """Keywords of a list whose items are told apart by one key."""
    return Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]})


DnsLabel = Annotated[str, Field(max_length=63, min_length=1, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""An RFC 1123 label."""
DnsSubdomain = Annotated[
    str,
    Field(max_length=253, min_length=1, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
]
"""An RFC 1123 subdomain: the name of a Secret, a ConfigMap or a claim."""
Url = Annotated[str, Field(max_length=2048, pattern=r"^https?://\S+$")]
S3Uri = Annotated[str, Field(max_length=2048, pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/\S*)?$")]
"""s3://bucket/prefix"""
Tolerance = Annotated[str, Field(max_length=24, pattern=r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?$")]
"""A decimal that is not negative, as a string: API objects hold no floats."""
Share = Annotated[str, Field(max_length=24, pattern=r"^(0(\.[0-9]+)?|1(\.0+)?)$")]
"""A decimal from 0 to 1, as a string."""
Quantity = Annotated[
    "int | str",
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "pattern": r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?$",
        }
    ),
]
"""A Kubernetes quantity such as 500m or 2Gi."""
