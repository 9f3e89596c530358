"""How a dataset directory comes into being: built aside, renamed when complete, and never on top of anything else.

A directory is ours when its `dataset.json`, which is written last, says so and nothing lies beside what a
dataset consists of. Only such a directory is ever replaced.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anykey.benchmark.errors import DatasetExistsError
from anykey.program.files import replace_folder

MANIFEST = "dataset.json"
PARTS = {MANIFEST, "bad_rows.jsonl", "query", "cand_pool", "qrels", "instructions", "mbeir_images", "train", "val"}
PARTS |= {"MixBench25"}  # in its own layout


def read_manifest(dataset_dir: Path) -> dict[str, Any] | None:
    """The dataset's manifest, or None where there is none (M-BEIR itself has none) or it is unreadable."""
    try:
        manifest = json.loads((dataset_dir / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def is_current(dataset_dir: Path, recipe: dict[str, Any]) -> bool:
    """Whether the directory holds a complete dataset made by exactly this recipe."""
    manifest = read_manifest(dataset_dir)
    return manifest is not None and manifest.get("recipe") == recipe


@contextmanager
def built_aside(output_dir: Path) -> Iterator[Path]:
    """Gives an empty directory beside `output_dir` that takes its place when the block ends without an error.

    Args:
        output_dir: Where the dataset shall be; missing, empty, or an older dataset of ours.

    Raises:
        DatasetExistsError: something else is there.
    """
    refuse_foreign(output_dir)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    aside = output_dir.parent / f".{output_dir.name}.building-{os.getpid()}"
    aside.mkdir()
    try:
        yield aside
        replace_folder(aside, output_dir)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def refuse_foreign(output_dir: Path) -> None:
    """Refuses an output directory that holds anything but a dataset of ours.

    Raises:
        DatasetExistsError: it holds something else.
    """
    if not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise DatasetExistsError(f"output {output_dir} exists and is not a directory")
    found = {entry.name for entry in output_dir.iterdir()}
    if not found:
        return
    manifest = read_manifest(output_dir)
    if manifest is None or "generator" not in manifest:
        raise DatasetExistsError(f"output {output_dir} holds files this program did not write: choose another one")
    if foreign := found - PARTS:
        raise DatasetExistsError(
            f"output {output_dir} holds '{min(foreign)}' beside the dataset: move it away, or choose another output"
        )


def write_manifest(dataset_dir: Path, generator: str, recipe: dict[str, Any], contents: dict[str, Any]) -> None:
    """Writes `dataset.json`, which declares the directory complete; no time stamp, so equal data are equal bytes."""
    manifest = {"generator": generator, "recipe": recipe, **contents}
    text = json.dumps(manifest, indent=2, ensure_ascii=True) + "\n"
    (dataset_dir / MANIFEST).write_text(text, encoding="utf-8")
