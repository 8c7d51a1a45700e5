"""What passes have cost: how fast the queue empties, and how much padding a text may cost to save a pass of its own."""

import statistics
from collections import deque

WEIGHT = 0.1
"""Of the newest pass in the running mean of one worker's pace."""
WINDOW_SECONDS = 4.0
"""Time over which the queue's own pace is measured: some dozens of passes, and short beside what texts may wait."""
LEAST_SECONDS = 0.5
"""Before that, too few passes were begun to know it."""


class Pace:
    """Tokens a second of all workers together; the caller sees to it that one thread is here at a time, but computed.

    While texts wait without a break, it is what left the queue over the time that took: with all that happens between
    passes, and the time for which the processors were another program's. Else it is what passes say.
    """

    def __init__(self, workers: int) -> None:
        """workers: most passes at one time."""
        self._workers = workers
        self._of_one = 0.0
        self._taken = 0
        self._since: deque[tuple[float, int]] = deque()
        """When batches were taken, and the tokens taken before; empty when nothing waits."""

    def computed(self, tokens: int, seconds: float) -> None:
        """A pass has ended; called by any compute thread."""
        found = tokens / max(seconds, 1e-6)
        self._of_one += WEIGHT * (found - self._of_one) if self._of_one else found

    def taken(self, tokens: int, left: int, now: float) -> None:
        """A batch was taken, and so many tokens wait still."""
        if not left:
            self._since.clear()
            return
        self._since.append((now, self._taken))
        self._taken += tokens
        while self._since[0][0] < now - WINDOW_SECONDS:
            self._since.popleft()

    def tokens_per_second(self, now: float) -> float:
        """The pace now; 0 when there was no pass yet."""
        if self._since:
            began, before = self._since[0]
            if now - began >= LEAST_SECONDS:
                return (self._taken - before) / (now - began)
        return self._of_one * self._workers


RECENT_PASSES = 128
"""Passes that say what one costs, and how many new ones say it anew."""
PADDING_SHARE = 0.2
"""Of a pass's fixed cost, in tokens, the padding that a row may cost: it would not run alone, but with a few like
it. Simulated with the costs of float32 and bfloat16 on two cores: within 2 % of the best, at 8 to 128 clients."""
LEAST_PADDING, MOST_PADDING = 4, 24


class PassCost:
    """Learns the padding that is worth a pass: the fixed cost of a pass is that of 30 tokens or of 70, as it computes.

    `computed` may be called by any compute thread.
    """

    def __init__(self, slack_tokens: int) -> None:
        """slack_tokens: until it knows better."""
        self.slack_tokens = slack_tokens
        self._passes: list[tuple[int, float]] = []

    def computed(self, padded_tokens: int, seconds: float) -> None:
        """A pass beside others has ended."""
        self._passes.append((padded_tokens, seconds))
        if len(self._passes) >= RECENT_PASSES:
            passes, self._passes = self._passes, []
            self.slack_tokens = worthwhile_padding(passes) or self.slack_tokens


def worthwhile_padding(passes: list[tuple[int, float]]) -> int | None:
    """Tokens of padding, from passes as (padded tokens, seconds); None when they do not say what a token costs."""
    try:
        token, fixed = statistics.linear_regression(*zip(*passes, strict=True)) if passes else (0.0, 0.0)
    except statistics.StatisticsError:
        return None
    if token <= 0:
        return None
    return round(min(MOST_PADDING, max(LEAST_PADDING, fixed / token * PADDING_SHARE)))
