"""What is installed, and how much of this machine a process may use; no command fails for want of it."""

import os
from importlib.metadata import PackageNotFoundError, version


def num_cores() -> int:
    """Cores that this process may use; all there are where the system does not tell, as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def release(package: str = "anykey") -> str:
    """The release of a package that is installed; a checkout that is not installed has none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
