"""What goes wrong in a study beside what goes wrong in a run."""

from training.errors import TrainingError


class RunFailedError(TrainingError):
    """A run in a process of its own ended with an error; the message is its last line."""


class MissingLibraryError(TrainingError):
    """A command needs a library that is not installed; says which extra brings it."""
