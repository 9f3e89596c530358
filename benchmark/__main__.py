"""The command `anykey-bench`."""

import sys

from benchmark.errors import DatasetError, EndpointError
from benchmark.program import Command, run_program
from benchmark.settings import ShapesWorldSettings


def main(argv: list[str] | None = None) -> int:
    """Runs `anykey-bench` with `argv` (the process's arguments when absent) and returns its exit code."""
    return run_program("anykey-bench", COMMANDS, argv, (DatasetError,), (EndpointError, OSError))


def _shapesworld(settings: ShapesWorldSettings) -> int:
    from benchmark.shapesworld.write import run

    return run(settings)


COMMANDS = {
    "shapesworld": Command(ShapesWorldSettings, _shapesworld),
}

if __name__ == "__main__":
    sys.exit(main())
