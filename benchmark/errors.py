"""Errors of the benchmark.

BenchmarkError
  DatasetError (ValueError)            the caller's input
    DatasetFormatError                 a file of a dataset does not hold what its format says: file, line, reason
    DatasetExistsError                 an output directory is in use by something else
    ReportError                        a run's report cannot be read, or not be compared with another
    PairsError                         image-caption pairs cannot be turned into a dataset
      InvalidRowError                  one row is no pair; says file, row and reason
  DownloadError                        a dataset's files cannot be fetched from where its owners publish them
  EndpointError                        the environment
    EndpointUnreachableError           nothing answers at the URL
    EndpointNotReadyError              the service answers but did not become ready in time
    IndexBuildError                    the index that the service shall serve could not be built
    EndpointMismatchError              the service's index does not hold the dataset's pools
    RequestFailedError                 a query got no answer that can be scored
"""

from pathlib import Path


class BenchmarkError(Exception):
    """Any failure of the benchmark that has a reason to tell."""


class DatasetError(BenchmarkError, ValueError):
    """A dataset, or a request for one, is wrong."""


class DatasetFormatError(DatasetError):
    """A file of a dataset does not hold what its format says.

    Attributes:
        path: The file.
        line: Line number from 1, or None where the whole file is meant.
        reason: What was expected and what came.
    """

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        self.path, self.line, self.reason = path, line, reason
        place = f"{path}:{line}" if line else f"{path}"
        super().__init__(f"{place}: {reason}")


class DatasetExistsError(DatasetError):
    """The output directory holds something this program did not write."""


class ReportError(DatasetError):
    """A run's report cannot be read, or not be compared with another."""


class PairsError(DatasetError):
    """The pairs cannot be read, or are too few or too alike for a dataset."""


class InvalidRowError(PairsError):
    """One row is no pair; the others may be.

    Attributes:
        where: File and row.
        reason: What is wrong with it.
    """

    def __init__(self, where: str, reason: str) -> None:
        self.where, self.reason = where, reason
        super().__init__(f"{where}: {reason}")


class DownloadError(BenchmarkError):
    """The owners' repository does not answer or lacks files, or what came is not what it lists."""


class EndpointError(BenchmarkError):
    """The service under measurement cannot be measured."""


class EndpointUnreachableError(EndpointError):
    """Nothing answers at the URL."""


class EndpointNotReadyError(EndpointError):
    """The service answers, but did not become ready in time."""


class IndexBuildError(EndpointError):
    """The index that the service shall serve could not be built; the command that failed said why."""


class EndpointMismatchError(EndpointError):
    """The service's index does not hold the pools of the dataset."""


class RequestFailedError(EndpointError):
    """A query got an error, or an answer that cannot be scored; the message names the query."""
