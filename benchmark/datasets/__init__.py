"""The benchmarks: one file for each, which gives its owners' files the shape of `dataset.py`."""

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from anykey.benchmark.dataset import Dataset
from anykey.benchmark.datasets.beir import Beir
from anykey.benchmark.datasets.cirr import Cirr
from anykey.benchmark.datasets.covr import WebVidCovr
from anykey.benchmark.datasets.fashioniq import FashionIQ
from anykey.benchmark.datasets.karpathy import Karpathy
from anykey.benchmark.datasets.mbeir import MBeir
from anykey.benchmark.datasets.mixbench import MixBench, MixBench2026
from anykey.benchmark.datasets.mmeb import Mmeb, MmebV2
from anykey.benchmark.datasets.trec import Trec
from anykey.benchmark.datasets.visual_documents import VisualDocuments
from anykey.benchmark.errors import DatasetError
from anykey.benchmark.settings import DatasetsSettings, parse_options
from anykey.program.settings import plain_console

AUTO = "auto"
READERS: dict[str, type[Dataset]] = {
    "mbeir": MBeir,
    "cirr": Cirr,
    "fashioniq": FashionIQ,
    "covr": WebVidCovr,
    "mmeb": Mmeb,
    "mmeb-v2": MmebV2,
    "mmeb-v2-documents": VisualDocuments,
    "mixbench": MixBench,
    "mixbench-2026": MixBench2026,
    "karpathy": Karpathy,
    "beir": Beir,
    "trec": Trec,
}


def open_dataset(root: Path, format: str = AUTO, split: str = "", options: Sequence[str] = ()) -> Dataset:
    """A dataset's directory, by what is in it.

    Args:
        root: The directory.
        format: Which dataset it is: a name of `READERS`, or "auto".
        split: Which queries are read; empty for those that papers report.
        options: What is chosen about it, each "name=value".

    Raises:
        DatasetError: it is none of the known datasets, may be several, or has no such split or option.
    """
    reader = _reader(root, format)
    if split and split not in reader.splits:
        raise DatasetError(f"{reader.name} has no split '{split}', it has: {', '.join(reader.splits)}")
    return reader(root, split or reader.splits[0], parse_options(options))


def list_datasets(settings: DatasetsSettings) -> int:
    """The command `anykey-bench datasets`: what can be measured with, and what of it is here.

    Returns:
        The exit code, 0.
    """
    here = _found_below(settings.data)
    out = plain_console()
    for name, reader in READERS.items():
        card = reader.card
        out.print(Text.assemble((f"{name}", "bold"), f"  {reader.name}: {card.measures}"), soft_wrap=True)
        for what, value in (
            ("size", card.size),
            ("splits", ", ".join(reader.splits)),
            ("options", ", ".join(f"{name}={'|'.join(values)}" for name, values in reader.choices.items()) or "none"),
            ("licence", card.licence),
            ("from", card.published),
            ("here", ", ".join(map(str, here.get(name, []))) or f"nothing in {settings.data}"),
        ):
            out.print(f"    {what:<9}{value}", soft_wrap=True, markup=False, highlight=False)
    return 0


def _found_below(data: Path) -> dict[str, list[Path]]:
    """Directories that hold a dataset, by its name: the one given, and those up to two levels below."""
    found: dict[str, list[Path]] = {}
    for folder in [data, *sorted(data.glob("*/")), *sorted(data.glob("*/*/"))]:
        for name, reader in READERS.items():
            if folder.is_dir() and reader.recognises(folder):
                found.setdefault(name, []).append(folder)
    return found


def _reader(root: Path, format: str) -> type[Dataset]:
    if format != AUTO:
        if format not in READERS:
            raise DatasetError(f"there is no dataset format '{format}', expected auto or one of {', '.join(READERS)}")
        return READERS[format]
    if not root.is_dir():
        raise DatasetError(f"dataset {root}: there is no such directory")
    found = [name for name, reader in READERS.items() if reader.recognises(root)]
    if len(found) == 1:
        return READERS[found[0]]
    if found:
        raise DatasetError(f"{root} may be {' or '.join(found)}: say which with --format")
    raise DatasetError(f"{root} has the files of no known dataset ({', '.join(READERS)})")
