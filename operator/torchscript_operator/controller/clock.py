"""The API server's clock: times in objects are its own, so they are compared with it and not with this machine's."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

TOLERANCE = timedelta(seconds=2)
"""An answer's Date is in whole seconds and was a while on its way: smaller differences say nothing."""


def machine_now() -> datetime:
    """What this machine takes for the time; it may be wrong, and may jump."""
    return datetime.now(UTC)


class Clock:
    """Goes on from the last answer of the API server by the monotonic clock, which no one sets."""

    def __init__(self) -> None:
        """Know no time but the machine's, until the server has answered."""
        self._heard: tuple[datetime, float] | None = None

    def hear(self, date: str | None) -> None:
        """Take in the Date header of an answer; one that is missing or no date is left out."""
        try:
            told = parsedate_to_datetime(date or "")
        except ValueError:
            return
        if self._heard is None or abs(told - self.now()) > TOLERANCE:
            self._heard = told, time.monotonic()

    def now(self) -> datetime:
        """The time at the API server."""
        if self._heard is None:
            return machine_now()
        told, when = self._heard
        return told + timedelta(seconds=time.monotonic() - when)
