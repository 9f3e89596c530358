"""Corpus readers: JSONL files, M-BEIR candidate files and M-BEIR dataset directories to entries, in a fixed order."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from index.errors import InvalidCorpusError, InvalidRowError

POOL_FOLDER = "cand_pool"
POOL_SUFFIX = "_cand_pool"
OTHER_SPLITS = ("_val", "_train")  # of pools that differ by split; M-BEIR's global pool holds the test ones
MBEIR_MODALITIES = ("text", "image", "image,text", "text,image")


@dataclass(frozen=True)
class CorpusEntry:
    """One row of a corpus, checked for its form; its images have not been looked at.

    Attributes:
        key: The key's name.
        text: Its text, or `None`; never blank.
        images: Paths of its images.
        metadata: The row's metadata object.
        pools: Names of the pools that the row puts it in.
        where: The row's place, `file:line`.
        may_repeat: Whether other files may list the same key again, to put it in their pools too (M-BEIR).
    """

    key: str
    text: str | None
    images: tuple[Path, ...]
    where: str
    metadata: dict[str, Any] = field(default_factory=dict)
    pools: tuple[str, ...] = ()
    may_repeat: bool = False


@dataclass(frozen=True)
class CorpusFile:
    """A file to read, and what its place on disk says about its rows.

    Attributes:
        path: The file.
        image_root: What relative image paths start from in an M-BEIR row.
        pool: The pool that its M-BEIR rows are in, if any.
    """

    path: Path
    image_root: Path
    pool: str | None


def find_files(paths: Sequence[Path]) -> list[CorpusFile]:
    """Resolves corpus paths, as a user names them, to files in the order they are read.

    Args:
        paths: JSONL files, M-BEIR candidate files, and M-BEIR dataset directories, whose
            `cand_pool/local/*.jsonl` are read in the order of their names, but for pools of other splits than test.

    Raises:
        InvalidCorpusError: a path does not exist, or is a directory without candidate files.
    """
    return [file for path in paths for file in _find(path)]


def read_file(file: CorpusFile) -> Iterator[CorpusEntry | InvalidRowError]:
    """Reads one corpus file line by line; a bad row comes as the error it is, and reading goes on.

    Blank lines count as lines and are skipped.

    Raises:
        InvalidCorpusError: the file cannot be opened or read.
    """
    try:
        with file.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _read_line(line, file, f"{file.path}:{number}")
    except OSError as error:
        raise InvalidCorpusError(f"cannot read corpus file {file.path}: {error.strerror}") from error


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


def _find(path: Path) -> list[CorpusFile]:
    if path.is_dir():
        local = sorted((path / POOL_FOLDER / "local").glob("*.jsonl"))
        found = [file for file in local if not _pool_name(file).endswith(OTHER_SPLITS)]
        if not found:
            raise InvalidCorpusError(
                f"corpus directory {path} is no M-BEIR dataset: expected {POOL_FOLDER}/local/*.jsonl in it"
            )
        return [_locate(file) for file in found]
    if not path.exists():
        raise InvalidCorpusError(f"corpus {path} does not exist")
    return [_locate(path)]


def _locate(path: Path) -> CorpusFile:
    """Finds the dataset root above a candidate file, and the pool the file stands for."""
    folder = path.absolute().parent
    pool_folder = next((parent for parent in [folder, *folder.parents] if parent.name == POOL_FOLDER), None)
    root = pool_folder.parent if pool_folder else folder
    is_global = pool_folder is not None and folder == pool_folder / "global"
    return CorpusFile(path, root, None if is_global else _pool_name(path))


def _pool_name(path: Path) -> str:
    return path.stem.removesuffix(POOL_SUFFIX)


def _read_line(line: bytes, file: CorpusFile, where: str) -> CorpusEntry | InvalidRowError:
    try:
        row = _parse(line)
        if "key" not in row and "did" in row:
            return _mbeir_entry(row, file, where)
        return _jsonl_entry(row, file, where)
    except _RowError as error:
        return InvalidRowError(where, error.reason, error.key)


def _parse(line: bytes) -> dict[str, Any]:
    """One line to a JSON object that can be written back as UTF-8 JSON."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeDecodeError as error:
        raise _RowError(f"not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise _RowError(f"not JSON ({error.msg}, column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # NaN, infinity, lone surrogates, giant numbers, deep nesting
        raise _RowError(f"not standard JSON ({type(error).__name__}: {_shorten(str(error))})") from error
    if not isinstance(row, dict):
        raise _RowError(f"expected a JSON object, got {_kind(row)}")
    return row


def _jsonl_entry(row: Mapping[str, Any], file: CorpusFile, where: str) -> CorpusEntry:
    key = _key(row, "key")
    metadata = row.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise _RowError(f"'metadata' must be an object, got {_kind(metadata)}", key)
    text = _optional_text(row, "text", key)
    folder = file.path.absolute().parent
    images = tuple(folder / name for name in _names(row, "image", key))
    _require_content(text, images, key, ("text", "image"))
    pools = tuple(sorted(set(_names(row, "pool", key))))
    return CorpusEntry(key, text, images, where, metadata or {}, pools)


def _mbeir_entry(row: Mapping[str, Any], file: CorpusFile, where: str) -> CorpusEntry:
    """What the row has decides the key's modality; `modality` is only checked to be one M-BEIR knows."""
    key = _key(row, "did")
    text = format_string(_optional_text(row, "txt", key)) or None
    path = _optional_text(row, "img_path", key)
    images = (file.image_root / path,) if path else ()
    _require_content(text, images, key, ("txt", "img_path"))
    if row.get("modality", "text") not in MBEIR_MODALITIES:
        raise _RowError(f"'modality' must be one of {', '.join(MBEIR_MODALITIES)}", key)
    source = _optional_text(row, "src_content", key)
    metadata = {} if source is None else {"src_content": _decode_source(source)}
    pools = () if file.pool is None else (file.pool,)
    return CorpusEntry(key, text, images, where, metadata, pools, may_repeat=True)


def _decode_source(source: str) -> Any:
    """M-BEIR's `src_content` is JSON inside a string; what is not stays a string."""
    try:
        return json.loads(json.dumps(json.loads(source), allow_nan=False))
    except (ValueError, RecursionError):
        return source


def _key(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        raise _RowError("no key: expected 'key' (or 'did' in an M-BEIR candidate file)")
    if not isinstance(value, str):
        raise _RowError(f"'{name}' must be a string, got {_kind(value)}")
    if not value.strip():
        raise _RowError(f"'{name}' must not be empty")
    return value


def _optional_text(row: Mapping[str, Any], name: str, key: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise _RowError(f"'{name}' must be a string or null, got {_kind(value)}", key)
    return value if value and value.strip() else None


def _names(row: Mapping[str, Any], name: str, key: str) -> list[str]:
    """A field that holds one string or a list of them."""
    value = row.get(name)
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    wrong = next((item for item in values if not isinstance(item, str)), None)
    if wrong is not None or None in values:
        raise _RowError(f"'{name}' must be a string or a list of strings, got {_kind(wrong)} in it", key)
    if not all(item.strip() for item in values):
        raise _RowError(f"'{name}' must not hold an empty string", key)
    return values


def _require_content(text: str | None, images: tuple[Path, ...], key: str, names: tuple[str, str]) -> None:
    if text is None and not images:
        raise _RowError(f"neither text nor image: expected '{names[0]}', '{names[1]}', or both", key)


def _kind(value: Any) -> str:
    """JSON's name of a value's type."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "a boolean"
    kinds = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds[type(value)]


def _shorten(text: str, max_chars: int = 80) -> str:
    return text if len(text) <= max_chars else text[:max_chars] + "..."


class _RowError(ValueError):
    """What is wrong with a row, before its place is known."""

    def __init__(self, reason: str, key: str | None = None) -> None:
        self.reason = reason
        self.key = key
        super().__init__(reason)
