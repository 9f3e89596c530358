"""The commands of `anykey-bench`."""

from anykey.benchmark.errors import DatasetError, DownloadError, EndpointError
from anykey.benchmark.settings import (
    CompareSettings,
    CorpusSettings,
    DatasetsSettings,
    FetchSettings,
    FromPairsSettings,
    GateSettings,
    JudgementsSettings,
    LoadSettings,
    QualitySettings,
    ShapesWorldSettings,
    StoreSettings,
)
from anykey.program.settings import Command, run_program


def run(argv: list[str] | None) -> int:
    """Runs what `argv` says, `sys.argv[1:]` when absent; gives the exit code back."""
    return run_program("anykey-bench", COMMANDS, argv, (DatasetError,), (DownloadError, EndpointError, OSError))


def _shapesworld(settings: ShapesWorldSettings) -> int:
    from anykey.benchmark.shapesworld.write import run as draw

    return draw(settings)


def _quality(settings: QualitySettings) -> int:
    from anykey.benchmark.quality import run as measure

    return measure(settings)


def _corpus(settings: CorpusSettings) -> int:
    from anykey.benchmark.corpus import run as write_corpus

    return write_corpus(settings)


def _store(settings: StoreSettings) -> int:
    from anykey.benchmark.store import run as store

    return store(settings)


def _datasets(settings: DatasetsSettings) -> int:
    from anykey.benchmark.datasets import list_datasets

    return list_datasets(settings)


def _fetch(settings: FetchSettings) -> int:
    from anykey.benchmark.fetch import run as fetch

    return fetch(settings)


def _compare(settings: CompareSettings) -> int:
    from anykey.benchmark.comparison import run_compare

    return run_compare(settings)


def _gate(settings: GateSettings) -> int:
    from anykey.benchmark.comparison import run_gate

    return run_gate(settings)


def _load(settings: LoadSettings) -> int:
    from anykey.benchmark.load.command import run as send

    return send(settings)


def _from_pairs(settings: FromPairsSettings) -> int:
    from anykey.benchmark.pairs import run as make_dataset

    return make_dataset(settings)


def _judgements(settings: JudgementsSettings) -> int:
    from anykey.benchmark.judgements import run as make_dataset

    return make_dataset(settings)


COMMANDS = {
    "datasets": Command(DatasetsSettings, _datasets),
    "fetch": Command(FetchSettings, _fetch),
    "corpus": Command(CorpusSettings, _corpus),
    "store": Command(StoreSettings, _store),
    "quality": Command(QualitySettings, _quality),
    "compare": Command(CompareSettings, _compare),
    "gate": Command(GateSettings, _gate),
    "load": Command(LoadSettings, _load),
    "shapesworld": Command(ShapesWorldSettings, _shapesworld),
    "judgements": Command(JudgementsSettings, _judgements),
    "from-pairs": Command(FromPairsSettings, _from_pairs),
}
