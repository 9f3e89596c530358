"""M-BEIR: datasets of candidate files, and the form of their rows."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from anykey.sources.corpus.entry import CorpusEntry, CorpusFile
from anykey.sources.corpus.rows import key_of
from anykey.sources.files.files import matches
from anykey.sources.files.locations import join, parent, path_of
from anykey.sources.mbeir import CANDIDATE, POOL_FOLDER, read_item, source_of

POOL_SUFFIX = "_cand_pool"
OTHER_SPLITS = ("_val", "_train")  # of pools that differ by split; M-BEIR's global pool holds the test ones


def candidate_files(folder: str) -> list[CorpusFile]:
    """The files that an M-BEIR dataset's folder stands for: its local pools, except those of other splits than test.

    Raises:
        OSError: the folder cannot be listed.
    """
    found = map(CorpusFile, matches(f"{folder.rstrip('/')}/{POOL_FOLDER}/local/*.jsonl"))
    return [file for file in found if not _pool_name(path_of(file.location)).endswith(OTHER_SPLITS)]


@lru_cache(maxsize=16)
def pool_of(file: CorpusFile) -> str | None:
    """The pool that a candidate file stands for; `None` for a global one, which is the whole corpus."""
    path = path_of(join(file.folder, path_of(file.location).name))
    is_global = path.parent.name == "global" and path.parent.parent.name == POOL_FOLDER
    return None if is_global else _pool_name(path)


def read_candidate(row: Mapping[str, Any], file: CorpusFile, where: str) -> CorpusEntry:
    """Makes an entry of a candidate.

    Raises:
        RowError: a field is missing or wrong.
    """
    key = key_of(row, "did")
    item = read_item(row, CANDIDATE, key)
    images = (join(dataset_root(file), item.image),) if item.image else ()
    metadata = source_of(row, key)
    pool = pool_of(file)
    return CorpusEntry(
        key, item.form or None, images, where, metadata, () if pool is None else (pool,), may_repeat=True
    )


@lru_cache(maxsize=16)
def dataset_root(file: CorpusFile) -> str:
    """What image paths start from: the dataset's root above `cand_pool/`, or else the file's folder."""
    folder = file.folder
    outer = folder
    for name in reversed(path_of(folder).parts):
        outer = parent(outer)
        if name == POOL_FOLDER:
            return outer
    return folder


def _pool_name(path: PurePosixPath) -> str:
    return path.stem.removesuffix(POOL_SUFFIX)
