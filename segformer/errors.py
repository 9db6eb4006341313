"""The root of Swath's exception tree, and what can be wrong with a checkpoint.

SwathError                 every error that Swath raises on purpose
+-- CheckpointError        the checkpoint is not one, or does not fit its own config
+-- (pipeline.errors)      everything that concerns inputs, outputs and jobs
"""


class SwathError(Exception):
    """Base class. The message is one line: what, where, the numbers, and the remedy."""


class CheckpointError(SwathError):
    """A checkpoint that cannot be loaded. Nothing has been computed yet."""
