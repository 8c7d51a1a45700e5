"""The base of every document that crosses a process boundary: camelCase JSON, unknown fields refused, immutable."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Document(BaseModel):
    """A JSON document of the contract between operator, Job and serving pod."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def to_json(self) -> str:
        """Compact JSON with camelCase names; absent optional fields are left out."""
        return self.model_dump_json(by_alias=True, exclude_none=True)
