"""M-BEIR: datasets of candidate files, and the form of their rows."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from anykey.sources.corpus.entry import CorpusEntry, CorpusFile
from anykey.sources.corpus.rows import key_of, require_content, text_of
from anykey.sources.files.files import matches
from anykey.sources.files.locations import join, parent, path_of
from anykey.sources.rows import RowError

POOL_FOLDER = "cand_pool"
POOL_SUFFIX = "_cand_pool"
OTHER_SPLITS = ("_val", "_train")  # of pools that differ by split; M-BEIR's global pool holds the test ones
MODALITIES = ("text", "image", "image,text", "text,image")


def candidate_files(folder: str) -> list[CorpusFile]:
    """The files that an M-BEIR dataset's folder stands for: its local pools, but for those of other splits than test.

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

    What the row has decides the key's modality; `modality` is only checked to be one M-BEIR knows.

    Raises:
        RowError: a field is missing or wrong.
    """
    key = key_of(row, "did")
    text = format_string(text_of(row, "txt", key)) or None
    path = text_of(row, "img_path", key)
    images = (join(dataset_root(file), path),) if path else ()
    require_content(text, images, key, ("txt", "img_path"))
    if row.get("modality", "text") not in MODALITIES:
        raise RowError(f"'modality' must be one of {', '.join(MODALITIES)}", key)
    source = text_of(row, "src_content", key)
    metadata = {} if source is None else {"src_content": _decode_source(source)}
    pool = pool_of(file)
    return CorpusEntry(key, text, images, where, metadata, () if pool is None else (pool,), may_repeat=True)


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


def format_string(text: str | None) -> str:
    """M-BEIR's normal form of a text, which it gives queries and candidates before they are embedded.

    >>> format_string('  "two dogs" ')
    'Two dogs.'
    >>> format_string(None)
    ''
    """
    text = (text or "").replace("\r", "").strip().strip('"')
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else f"{text}."


def _pool_name(path: PurePosixPath) -> str:
    return path.stem.removesuffix(POOL_SUFFIX)


def _decode_source(source: str) -> Any:
    """M-BEIR's `src_content` is JSON inside a string; what is not stays a string."""
    try:
        return json.loads(json.dumps(json.loads(source), allow_nan=False))
    except (ValueError, RecursionError):
        return source
