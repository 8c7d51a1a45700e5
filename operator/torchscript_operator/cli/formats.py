"""How a command answers; alone in its file, since the command line needs it before anything else."""

import enum


class Format(enum.StrEnum):
    """Value of -o."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class View(enum.StrEnum):
    """Value of -o where models of a cluster are listed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"

    @property
    def form(self) -> Format:
        """The same as one of the formats that every command has."""
        return Format.YAML if self is View.YAML else Format.JSON if self is View.JSON else Format.TABLE
