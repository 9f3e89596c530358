"""Everything `training` raises on purpose; what is wrong with pairs, `sources.errors` says.

TrainingError
  TooManyBadRowsError (ValueError)   more rows were skipped than the settings allow
  InvalidRecipeError (ValueError)    settings that contradict each other or the model
  DivergedError                      the loss is no longer a finite number
  DamagedStateError                  a saved state cannot be gone on from; says which is left
  WorkerError                        a process that reads images died or hangs
  RunFailedError                     a run in a process of its own ended with an error; its last line
"""


class TrainingError(Exception):
    """Root of this package's errors."""


class TooManyBadRowsError(TrainingError, ValueError):
    """More rows were skipped than the settings allow."""


class InvalidRecipeError(TrainingError, ValueError):
    """Settings contradict each other or the model."""


class DivergedError(TrainingError):
    """The loss is no longer a finite number."""


class DamagedStateError(TrainingError):
    """A saved state cannot be gone on from; the message says which is left."""


class WorkerError(TrainingError):
    """A process that reads images died or hangs."""


class RunFailedError(TrainingError):
    """A run in a process of its own ended with an error; the message is its last line."""
