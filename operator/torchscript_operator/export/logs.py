"""Progress of an export: a line when a stage begins and one with its seconds when it ends."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("torchscript_operator.export")


class Progress:
    """Names the stage that an export is in, measures it, and adds the facts known so far to each line."""

    def __init__(self) -> None:
        """Begin before the first stage."""
        self.stage_name = "start"
        self.seconds: dict[str, float] = {}
        self._facts: dict[str, str] = {}

    def know(self, **facts: str) -> None:
        """Add fields, such as the key, to all further lines."""
        self._facts |= facts

    def say(self, message: str) -> None:
        """Write one line about what the current stage found."""
        LOGGER.info(message, extra=self._facts | {"stage": self.stage_name})

    def warn(self, message: str) -> None:
        """Write one line about what someone should look at."""
        LOGGER.warning(message, extra=self._facts | {"stage": self.stage_name})

    @contextmanager
    def stage(self, name: str, doing: str) -> Iterator[None]:
        """Run a stage; after an error `stage_name` still names it. Entering a stage twice adds up its seconds."""
        self.stage_name = name
        self.say(f"{doing}…")
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
        facts: dict[str, object] = {**self._facts, "stage": name, "elapsedSeconds": round(self.seconds[name], 3)}
        LOGGER.info("%s: done", doing, extra=facts)
