"""How a command ends when it cannot do what was asked: one message, one exit code, no traceback."""

USAGE = 2
"""Exit code for a command line or a file that cannot be what was meant."""
REFUSED = 1
"""Exit code for a cluster that cannot be reached, or that says no."""
SIGNAL_BASE = 128
"""A command that a signal ended exits with this and the signal's number, as the shell counts."""


class CliError(Exception):
    """Something that the person at the keyboard can put right."""

    def __init__(self, message: str, exit_code: int = USAGE, advice: str = "") -> None:
        """Take what was found, the exit code, and the next step, which is shown on a line of its own."""
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.advice = advice


class InterruptedBySignal(BaseException):
    """SIGINT, SIGTERM or SIGHUP has arrived. Like KeyboardInterrupt, it passes by what catches every Exception."""

    def __init__(self, number: int) -> None:
        """Take the signal."""
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What the process ends with."""
        return SIGNAL_BASE + self.number
