"""The root of Swath's exception tree, and the error of a checkpoint that cannot be used.

SwathError                 every error that Swath raises on purpose
+-- CheckpointError        what is given is no checkpoint, or its weights do not fit its config
|   +-- UnavailableError   the server that has the checkpoint does not give it now
+-- (pipeline.errors)      everything that concerns inputs, outputs and jobs
"""


class SwathError(Exception):
    """Base class. The message is one line: what, where, the numbers, and the remedy."""


class CheckpointError(SwathError):
    """A checkpoint that cannot be loaded. Nothing has been computed yet."""


class UnavailableError(CheckpointError):
    """The server that has the checkpoint does not give it now: a retry may help."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """retry_after_s: the seconds that the server asks to wait; None: it does not say."""
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return (UnavailableError, (str(self), self.retry_after_s))
