"""M-BEIR's training files: queries with the candidates that answer them and candidates that do not.

A query file lies at `ROOT/query/SPLIT/*.jsonl`. From its place follow the candidates (`ROOT/cand_pool/global/
mbeir_union_SPLIT_cand_pool.jsonl`, or else every file of `ROOT/cand_pool/local`), the instructions (`ROOT/instructions/
query_instructions.tsv`) and the images, whose paths are relative to `ROOT`. Wei et al., ECCV 2024, arXiv 2311.17136.
"""

from array import array
from functools import lru_cache
from pathlib import Path
from typing import Any

from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.lines import read_line, scan_lines
from anykey.sources.mbeir import POOL_FOLDER, QUERY, Item, Prompts, instructed, read_item, read_prompts
from anykey.sources.pairs.file import DataFile, image_path
from anykey.sources.pairs.mbeir_pool import CandidatePool
from anykey.sources.pairs.pair import Pair, Side
from anykey.sources.rows import parse_object

WITHOUT_INSTRUCTIONS = "no-instructions"
_ALL_TEXTS = -1  # in place of a positive's number: the query's positives that are texts alone, together


class MbeirQueries:
    """Pairs of a query and a positive candidate, of any modality on either side.

    UniIR draws one of a query's positives each time. Here each positive with an image is a pair of its own, and the
    positives that are texts alone are one pair, of whose captions one is drawn each time.

    The query's texts are its text behind each prompt of its (dataset, query modality, candidate modality). Named with
    `#no-instructions`, or in a dataset without prompts, it is the text alone.
    """

    def __init__(self, file: DataFile) -> None:
        """Scans the queries and their candidates.

        Raises:
            SourceError: a file is missing or damaged, or its place is not M-BEIR's.
        """
        self._file = file
        self._root = root_of(file)
        if file.part not in ("", WITHOUT_INSTRUCTIONS):
            raise SourceError(f"{file.label}: expected '#{WITHOUT_INSTRUCTIONS}' or nothing, got '#{file.part}'")
        self._prompts = None if file.part else _prompts(self._root)
        self._pool = _shared_pool(tuple(_state(path) for path in pool_files(file)))
        self._numbers, self._offsets, self._choices = array("q"), array("q"), array("i")
        for number, offset, line in scan_lines(file.path, file.label):
            for choice in self._choices_of(line):
                self._numbers.append(number)
                self._offsets.append(offset)
                self._choices.append(choice)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, position: int) -> Pair:
        """Reads one query with one positive, or with all that are texts.

        Raises:
            InvalidRowError: the row is not a query, a candidate is missing or wrong, or there is no prompt for it.
        """
        where = f"{self._file.label}:{self._numbers[position]}"
        try:
            row = parse_object(read_line(self._file.path, self._offsets[position]))
            return self._pair(row, self._choices[position], where)
        except ValueError as error:
            raise InvalidRowError(where, str(error)) from error

    def _choices_of(self, line: bytes) -> list[int]:
        """The positives with an image, by number, and one for all the others; for a bad row too."""
        try:
            positives = _ids(parse_object(line), "pos_cand_list")
        except ValueError:
            return [_ALL_TEXTS]
        pictured = [number for number, did in enumerate(positives) if self._pool.has_image(did)]
        return pictured if positives and len(pictured) == len(positives) else [*pictured, _ALL_TEXTS]

    def _pair(self, row: Any, choice: int, where: str) -> Pair:
        positives = _ids(row, "pos_cand_list")
        if choice == _ALL_TEXTS:
            positives = [did for did in positives if not self._pool.has_image(did)]
        else:
            positives = [positives[choice]]
        if not positives:
            raise ValueError("expected 'pos_cand_list' with at least one id")
        found = [self._pool[did] for did in positives]
        query = read_item(row, QUERY)
        return Pair(
            name=" ".join([str(row.get("qid")), *([] if choice == _ALL_TEXTS else positives)]),
            image=self._image(found[0]),
            captions=tuple(entry.form for entry in found if entry.form),
            where=where,
            query=Side(self._image(query), self._query_texts(row, query, found[0])),
            negatives=tuple(self._side(self._pool[did]) for did in _ids(row, "neg_cand_list")),
        )

    def _query_texts(self, row: dict[str, Any], query: Item, positive: Item) -> tuple[str, ...]:
        if self._prompts is None:
            return (query.form,) if query.form else ()
        key = (str(row.get("qid")).partition(":")[0], query.modality, positive.modality)
        if key not in self._prompts:
            raise ValueError(f"query_instructions.tsv has no prompt for {', '.join(key)}")
        return instructed(self._prompts[key], query.text)

    def _side(self, item: Item) -> Side:
        return Side(self._image(item), (item.form,) if item.form else ())

    def _image(self, item: Item) -> Path | None:
        return image_path(self._root, item.image) if item.image else None


def root_of(file: DataFile) -> Path:
    """The dataset's root: the folder that holds the `query` folder in which the file lies.

    Raises:
        SourceError: it lies in none, or is remote, away from its candidates and images.
    """
    if file.folder is None:
        raise SourceError(f"{file.label} holds M-BEIR queries: expected a local file, beside its candidates")
    for parent in file.path.absolute().parents:
        if parent.name == "query":
            return parent.parent
    raise SourceError(f"{file.label} holds M-BEIR queries: expected it at ROOT/query/SPLIT/")


def query_files(folder: DataFile) -> list[DataFile]:
    """The training queries of a dataset named by its root; none where the folder is not such a dataset."""
    if not (folder.path / POOL_FOLDER).is_dir():
        return []
    return [folder.within(path) for path in sorted((folder.path / "query" / "train").glob("*.jsonl"))]


def is_mbeir(file: DataFile) -> bool:
    """Whether a JSONL file holds M-BEIR queries: its first row has a `qid`."""
    try:
        first = next(scan_lines(file.path, file.label), None)
        row = None if first is None else parse_object(first[2])
    except ValueError:
        return False
    return isinstance(row, dict) and "qid" in row


def pool_files(file: DataFile) -> list[Path]:
    """The files in which a query file's candidates are.

    Raises:
        SourceError: there are none.
    """
    root = root_of(file)
    split = file.path.absolute().relative_to(root / "query").parts[0].removeprefix("union_")
    union = root / POOL_FOLDER / "global" / f"mbeir_union_{split}_cand_pool.jsonl"
    files = [union] if union.is_file() else sorted((root / POOL_FOLDER / "local").glob("*.jsonl"))
    if not files:
        raise SourceError(f"{file.label}: expected its candidates in {union} or {root / 'cand_pool' / 'local'}")
    return files


def files_of(file: DataFile) -> list[Path]:
    """The query file and all that it refers to, except the images."""
    prompts = _prompts_path(root_of(file))
    return [file.path, *pool_files(file), *([prompts] if prompts.is_file() else [])]


def _prompts_path(root: Path) -> Path:
    return root / "instructions" / "query_instructions.tsv"


def _prompts(root: Path) -> Prompts | None:
    path = _prompts_path(root)
    return read_prompts(path) if path.is_file() else None


def _state(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=1)
def _shared_pool(states: tuple[tuple[Path, int, int], ...]) -> CandidatePool:
    """The pool of a dataset's query files, which are opened one after the other; scanned again when a file changes."""
    return CandidatePool([path for path, _, _ in states])


def _ids(row: Any, key: str) -> list[str]:
    value = row.get(key) if isinstance(row, dict) else None
    if value is None and key == "neg_cand_list" and isinstance(row, dict):
        return []
    if not isinstance(value, list) or not all(isinstance(did, str) for did in value):
        raise ValueError(f"expected '{key}', a list of ids such as '9:1'")
    return value
