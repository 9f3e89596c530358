"""The commands of `anykey-bench`."""

from anykey.benchmark.errors import DatasetError, EndpointError
from anykey.benchmark.settings import FromPairsSettings, QualitySettings, ShapesWorldSettings
from anykey.program.settings import Command, run_program


def run(argv: list[str] | None) -> int:
    """Runs what `argv` says, `sys.argv[1:]` when absent; gives the exit code back."""
    return run_program("anykey-bench", COMMANDS, argv, (DatasetError,), (EndpointError, OSError))


def _shapesworld(settings: ShapesWorldSettings) -> int:
    from anykey.benchmark.shapesworld.write import run as draw

    return draw(settings)


def _quality(settings: QualitySettings) -> int:
    from anykey.benchmark.quality import run as measure

    return measure(settings)


def _from_pairs(settings: FromPairsSettings) -> int:
    from anykey.benchmark.pairs import run as make_dataset

    return make_dataset(settings)


COMMANDS = {
    "quality": Command(QualitySettings, _quality),
    "shapesworld": Command(ShapesWorldSettings, _shapesworld),
    "from-pairs": Command(FromPairsSettings, _from_pairs),
}
