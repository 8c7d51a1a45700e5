"""How a command answers; alone in its file, since the command line needs it before anything else."""

import enum


class Format(enum.StrEnum):
    """Value of -o."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
