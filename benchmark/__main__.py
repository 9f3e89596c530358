"""The command `anykey-bench`."""

import sys

from benchmark.errors import DatasetError, EndpointError
from benchmark.program import Command, run_program
from benchmark.settings import FromPairsSettings, QualitySettings, ShapesWorldSettings


def main(argv: list[str] | None = None) -> int:
    """Runs `anykey-bench` with `argv` (the process's arguments when absent) and returns its exit code."""
    return run_program("anykey-bench", COMMANDS, argv, (DatasetError,), (EndpointError, OSError))


def _shapesworld(settings: ShapesWorldSettings) -> int:
    from benchmark.shapesworld.write import run

    return run(settings)


def _quality(settings: QualitySettings) -> int:
    from benchmark.quality import run

    return run(settings)


def _from_pairs(settings: FromPairsSettings) -> int:
    from benchmark.pairs import run

    return run(settings)


COMMANDS = {
    "quality": Command(QualitySettings, _quality),
    "shapesworld": Command(ShapesWorldSettings, _shapesworld),
    "from-pairs": Command(FromPairsSettings, _from_pairs),
}

if __name__ == "__main__":
    sys.exit(main())
