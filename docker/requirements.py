"""Writes the dependencies of `pyproject.toml` and of one extra, one a line: `requirements.py pyproject.toml cpu`."""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject_path: Path, extra: str) -> list[str]:
    """The core dependencies, then those of the extra.

    Raises:
        KeyError: there is no such extra.
    """
    project = tomllib.loads(pyproject_path.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in requirements(Path(sys.argv[1]), sys.argv[2]))
