"""Writes the dependencies of `pyproject.toml` and of some extras, one a line: `requirements.py pyproject.toml cpu`."""

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def requirements(pyproject_path: Path, extras: Sequence[str]) -> list[str]:
    """The core dependencies, then those of the extras.

    Raises:
        KeyError: there is no such extra.
    """
    project = tomllib.loads(pyproject_path.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *_optional(project, extras)]


def _optional(project: Mapping[str, Any], extras: Sequence[str]) -> Iterator[str]:
    """The dependencies of extras, and of those that they name in turn: `anykey[hf]` is no package of any registry."""
    for line in (line for extra in extras for line in project["optional-dependencies"][extra]):
        own = re.fullmatch(rf"{project['name']}\[(.+)\]", line)
        yield from [line] if own is None else _optional(project, own[1].split(","))


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in requirements(Path(sys.argv[1]), sys.argv[2:]))
