"""The root of Swath's exception tree, and the error of a checkpoint that cannot be used.

SwathError                 every error that Swath raises on purpose
+-- CheckpointError        what is given is no checkpoint, or its weights do not fit its config
+-- (pipeline.errors)      everything that concerns inputs, outputs and jobs
"""


class SwathError(Exception):
    """Base class. The message is one line: what, where, the numbers, and the remedy."""


class CheckpointError(SwathError):
    """A checkpoint that cannot be loaded. Nothing has been computed yet."""
