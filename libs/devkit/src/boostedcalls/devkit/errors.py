"""The one error of the devkit: its text is a single line meant for the person at the terminal."""


class DevkitError(RuntimeError):
    """Something could not be started; the message says what, and what to do where that is known."""


class ChildDied(DevkitError):
    """A process ended before it was ready."""
