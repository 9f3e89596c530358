"""Writes the dependencies of `pyproject.toml` and of some extras, one a line: `requirements.py pyproject.toml cpu`."""

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path


def requirements(pyproject_path: Path, extras: Sequence[str]) -> list[str]:
    """The core dependencies, then those of the extras.

    Raises:
        KeyError: there is no such extra.
    """
    project = tomllib.loads(pyproject_path.read_text(encoding="utf-8"))["project"]
    optional = [line for extra in extras for line in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *optional]


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in requirements(Path(sys.argv[1]), sys.argv[2:]))
