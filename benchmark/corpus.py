"""The command `anykey-bench corpus`: a dataset's keys as one file that `anykey-index` reads."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.text import Text

from anykey.benchmark.dataset import Entry, Image, image_bytes
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.errors import DatasetError
from anykey.benchmark.settings import CorpusSettings
from anykey.program.progress import progress
from anykey.program.settings import plain_console


def run(settings: CorpusSettings) -> int:
    """The command: writes the corpus as JSONL, complete or not at all.

    Returns:
        The exit code, 0.

    Raises:
        DatasetError: the dataset is wrong, an image is missing, or a key comes twice.
    """
    dataset = open_dataset(settings.dataset, settings.format, settings.split, settings.options)
    num_keys = write_rows(dataset.corpus(), settings.output, dataset.name)
    for warning in dataset.warnings(dataset.tasks()):
        plain_console(stderr=True).print(Text.assemble(("warning:", "yellow"), f" {warning}"), soft_wrap=True)
    plain_console().print(f"{num_keys} keys of {dataset.name}: {settings.output}", soft_wrap=True)
    return 0


def write_rows(entries: Iterable[Entry], output: Path, name: str = "a corpus") -> int:
    """Writes keys as JSONL, all of them or no file.

    Args:
        entries: The keys.
        output: The file, beside which images go that are no files.
        name: What the progress calls them.

    Returns:
        How many there are.

    Raises:
        DatasetError: an image is missing, or a key comes twice.
    """
    known = set[str]()
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f"{output.name}.new")
    with (
        aside.open("w", encoding="utf-8") as file,
        progress(plain_console(stderr=True), f"keys of {name}", None) as advance,
    ):
        for entry in entries:
            if entry.key in known:
                raise DatasetError(f"{entry.place}: key '{entry.key}' comes a second time")
            known.add(entry.key)
            file.write(json.dumps(row_of(entry, output)) + "\n")
            advance()
    os.replace(aside, output)
    return len(known)


def row_of(entry: Entry, output: Path) -> dict[str, Any]:
    """One key as a corpus row (docs/corpus.md). Image files stay where they are; encoded bytes become files.

    Args:
        entry: The key.
        output: The corpus file, beside which such files go.

    Raises:
        DatasetError: an image file is missing, or the images have weights.
    """
    if entry.image_weights is not None:
        raise DatasetError(
            f"{entry.place}: no corpus file can weigh the images of a key: store the keys in a running service with "
            "anykey-bench store, or choose another pooling"
        )
    row: dict[str, Any] = {"key": entry.key}
    if entry.text:
        row["text"] = entry.text
    if entry.images:
        row["image"] = [str(_file_of(image, entry, output)) for image in entry.images]
    if entry.pools:
        row["pool"] = list(entry.pools)
    if entry.metadata:
        row["metadata"] = dict(entry.metadata)
    return row


def _file_of(image: Image, entry: Entry, output: Path) -> Path:
    if isinstance(image, Path):
        if not image.is_file():
            raise DatasetError(f"{entry.place}: image {image} does not exist")
        return image.resolve()
    data = image_bytes(image)
    digest = hashlib.sha256(data).hexdigest()
    path = output.resolve().parent / f"{output.stem}_images" / digest[:2] / digest
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return path
