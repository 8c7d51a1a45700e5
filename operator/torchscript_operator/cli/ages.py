"""Times for people: how long ago, and how long."""

import re
from datetime import datetime

MINUTE, HOUR, DAY = 60, 3600, 86400
NEVER = "1970"
UNITS = (
    (2 * MINUTE, (1, "s"), None),
    (10 * MINUTE, (MINUTE, "m"), (1, "s")),
    (3 * HOUR, (MINUTE, "m"), None),
    (8 * HOUR, (HOUR, "h"), (MINUTE, "m")),
    (2 * DAY, (HOUR, "h"), None),
    (8 * DAY, (DAY, "d"), (HOUR, "h")),
)
"""Below so many seconds: the unit, and the second one that is still of interest. kubectl draws the same lines."""


def duration(seconds: float) -> str:
    """A length of time as kubectl writes ages: 46s, 3m12s, 25m, 5h3m, 12h, 2d4h, 30d."""
    whole = max(0, int(seconds))
    for below, (size, unit), more in UNITS:
        if whole < below:
            rest = whole % size // more[0] if more else 0
            return f"{whole // size}{unit}" + (f"{rest}{more[1]}" if more and rest else "")
    return f"{whole // DAY}d"


def age(timestamp: str | None, now: datetime) -> str:
    """How long ago a time that Kubernetes wrote was; a hyphen for none, as which the CRD's default of 1970 counts."""
    return duration(seconds_since(timestamp, now)) if timestamp and not timestamp.startswith(NEVER) else "-"


def seconds_since(timestamp: str, now: datetime) -> float:
    """Seconds since a time that Kubernetes wrote."""
    return (now - datetime.fromisoformat(timestamp)).total_seconds()


def seconds_of(text: str) -> float | None:
    """Seconds in 90, 90s, 15m, 1h30m or 2d; None for anything else."""
    units = {"s": 1, "m": MINUTE, "h": HOUR, "d": DAY}
    if text.isdigit():
        return float(text)
    if not re.fullmatch(r"(\d+d)?(\d+h)?(\d+m)?(\d+s)?", text) or not text:
        return None
    return float(sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([smhd])", text)))
