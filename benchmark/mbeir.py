"""Reads datasets in M-BEIR's directory layout: queries, candidate pools, qrels, instructions.

Paths in the files are relative to the dataset root. `txt` and `img_path` may be absent from a candidate row,
qrels have four columns or five, and the local pools of `mscoco` are named per split.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.lines import scan_lines
from anykey.sources.mbeir import CANDIDATE, QUERY, Item, read_item, read_prompts
from anykey.sources.rows import RowError, parse_object

TASK_NAMES = {
    0: "text -> image",
    1: "text -> text",
    2: "text -> image,text",
    3: "image -> text",
    4: "image -> image",
    5: "image -> image,text",
    6: "image,text -> text",
    7: "image,text -> image",
    8: "image,text -> image,text",
}
WORDS = {"text": "text", "image": "image", "image,text": "fused"}
FASHION = ("fashion200k", "fashioniq")  # their headline number is at 10, everybody else's at 5
FASHION_HEADLINE_K = 10
HEADLINE_K = 5
SPLIT_POOLS = ("mscoco",)  # datasets whose local pools differ by split


@dataclass(frozen=True)
class Query:
    """One query row.

    Attributes:
        qid: Query id, "dataset:number", unique within a split.
        text: Query text, or None.
        image: The query image's file, or None.
        task: Task number.
    """

    qid: str
    text: str | None
    image: Path | None
    task: int


@dataclass(frozen=True)
class Candidate:
    """One candidate row.

    Attributes:
        did: Key, "dataset:number", unique in the whole dataset.
        text: Its text, or None.
        image: Its image file, or None.
        modality: "text", "image" or "fused".
    """

    did: str
    text: str | None
    image: Path | None
    modality: str


@dataclass(frozen=True)
class Task:
    """One dataset-task pair of a split, by names only; `Dataset` reads its files.

    Attributes:
        name: File stem such as "mbeir_shapesworld_task0".
        dataset: Dataset name such as "shapesworld".
        number: Task number, a key of `TASK_NAMES`.
        split: "test", "val" or "train".
    """

    name: str
    dataset: str
    number: int
    split: str

    @property
    def pool(self) -> str:
        """Name of the local pool: the task's, with the split where pools differ by split."""
        return f"{self.name}_{self.split}" if self.dataset in SPLIT_POOLS else self.name

    @property
    def key_modality(self) -> str:
        """Modality of the keys looked for: "text", "image" or "fused"."""
        wanted = TASK_NAMES[self.number].split(" -> ")[1]
        return "fused" if wanted == "image,text" else wanted

    @property
    def headline_k(self) -> int:
        """Cut-off of the number that papers quote."""
        return FASHION_HEADLINE_K if self.dataset in FASHION else HEADLINE_K


@dataclass(frozen=True)
class Dataset:
    """A directory in M-BEIR layout.

    Attributes:
        root: The directory; image paths in its files are relative to it.
        split: Which split's queries, qrels and global pool are read.
    """

    root: Path
    split: str = "test"

    def tasks(self) -> list[Task]:
        """All tasks of the split, by task number, then name.

        Raises:
            DatasetError: there is no query directory or no query file in it.
        """
        folder = self.root / "query" / self.split
        if not folder.is_dir():
            raise DatasetError(f"{self.root} is no M-BEIR dataset: expected a directory {folder}")
        pattern = re.compile(rf"(mbeir_(.+)_task(\d+))_{self.split}\.jsonl")
        found = []
        for path in folder.iterdir():
            if match := pattern.fullmatch(path.name):
                found.append(Task(match[1], match[2], int(match[3]), self.split))
        if not found:
            raise DatasetError(f"{folder} holds no query file such as mbeir_mscoco_task0_{self.split}.jsonl")
        for task in found:
            if task.number not in TASK_NAMES:
                raise DatasetError(f"{folder}/{task.name}_{self.split}.jsonl: unknown task number {task.number}")
        return sorted(found, key=lambda task: (task.number, task.name))

    def queries(self, task: Task) -> list[Query]:
        """The task's queries in file order.

        Raises:
            DatasetFormatError: a row is wrong, a qid repeats, or an image file is missing.
        """
        path = self.root / "query" / self.split / f"{task.name}_{self.split}.jsonl"
        queries: dict[str, Query] = {}
        for line, row in read_jsonl(path):
            qid = _required_id(row, "qid", path, line)
            item = _item(row, QUERY, path, line)
            if row.get("task_id", task.number) != task.number:
                raise DatasetFormatError(path, line, f"task_id is {row['task_id']}, the file's name says {task.number}")
            if qid in queries:
                raise DatasetFormatError(path, line, f"qid '{qid}' comes a second time")
            queries[qid] = Query(qid, item.text, self._image(item.image, path, line), task.number)
        return list(queries.values())

    def pool(self, task: Task) -> list[Candidate]:
        """The task's local pool in file order.

        Raises:
            DatasetFormatError: a row is wrong, a did repeats, or an image file is missing.
        """
        path = self.root / "cand_pool" / "local" / f"{task.pool}_cand_pool.jsonl"
        candidates: dict[str, Candidate] = {}
        for line, row in read_jsonl(path):
            did = _required_id(row, "did", path, line)
            item = _item(row, CANDIDATE, path, line)
            if did in candidates:
                raise DatasetFormatError(path, line, f"did '{did}' comes a second time")
            image = self._image(item.image, path, line, must_exist=False)
            candidates[did] = Candidate(did, item.text, image, WORDS[item.modality])
        return list(candidates.values())

    def global_size(self) -> int | None:
        """Number of rows of the split's global pool, or None where the dataset has no such file."""
        path = self.root / "cand_pool" / "global" / f"mbeir_union_{self.split}_cand_pool.jsonl"
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())

    def qrels(self, task: Task) -> dict[str, dict[str, int]]:
        """The task's judgements: query id to key to grade, only grades above 0 (as M-BEIR's evaluator keeps them).

        Raises:
            DatasetFormatError: a line has not four or five columns, or a grade is no number.
        """
        return read_qrels(self.root / "qrels" / self.split / f"{task.name}_{self.split}_qrels.txt")

    def instructions(self) -> dict[str, str]:
        """First prompt by "dataset id, query modality, candidate modality"; empty where the dataset has none.

        Raises:
            DatasetFormatError: a row is too short.
        """
        path = self.root / "instructions" / "query_instructions.tsv"
        if not path.is_file():
            return {}
        try:
            prompts = read_prompts(path)
        except InvalidRowError as error:
            raise DatasetFormatError(path, None, error.reason) from error
        return {f"{dataset}, {asked}, {wanted}": first for (dataset, asked, wanted), (first, *_) in prompts.items()}

    def _image(self, name: str | None, path: Path, line: int, must_exist: bool = True) -> Path | None:
        if name is None:
            return None
        image = self.root / name
        if must_exist and not os.path.isfile(image):
            raise DatasetFormatError(path, line, f"image {image} does not exist")
        return image


def id_order(name: str) -> tuple[int, int]:
    """Sorting key of "dataset:number" ids: as numbers, so that 9:2 comes before 9:10.

    Raises:
        ValueError: the id has another form.

    >>> sorted(["9:10", "9:2"], key=id_order)
    ['9:2', '9:10']
    """
    dataset, number = name.split(":")
    return int(dataset), int(number)


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Judgements of one qrels file with four columns (TREC) or five (M-BEIR: the task number last).

    Raises:
        DatasetFormatError: a line has another number of columns, or a grade is no number.
    """
    qrels: dict[str, dict[str, int]] = {}
    for line, text in enumerate(_read_lines(path), start=1):
        columns = text.split()
        if not columns:
            continue
        if len(columns) not in (4, 5):
            raise DatasetFormatError(path, line, f"expected 4 or 5 columns, got {len(columns)}")
        try:
            grade = int(columns[3])
        except ValueError:
            raise DatasetFormatError(path, line, f"grade must be a whole number, got '{columns[3]}'") from None
        if grade > 0:
            qrels.setdefault(columns[0], {})[columns[2]] = grade
    return qrels


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line that is not blank.

    Raises:
        DatasetFormatError: the file is missing, or a line is no JSON object.
    """
    try:
        for line, _, data in scan_lines(path, str(path)):
            try:
                yield line, parse_object(data)
            except RowError as error:
                raise DatasetFormatError(path, line, error.reason) from error
    except SourceError as error:
        reason = str(error) if path.exists() else "the file does not exist"
        raise DatasetFormatError(path, None, reason) from error


def _read_lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from file
    except FileNotFoundError:
        raise DatasetFormatError(path, None, "the file does not exist") from None
    except UnicodeDecodeError as error:
        raise DatasetFormatError(path, None, f"not UTF-8: {error}") from error


def _required_id(row: dict[str, Any], name: str, path: Path, line: int) -> str:
    """The row's id, "dataset:number"."""
    value = row.get(name)
    if not isinstance(value, str) or not re.fullmatch(r"\d+:\d+", value):
        raise DatasetFormatError(path, line, f"{name} must look like '9:1', got {value!r}")
    return value


def _item(row: dict[str, Any], fields: tuple[str, str, str], path: Path, line: int) -> Item:
    """What the row holds."""
    try:
        return read_item(row, fields)
    except RowError as error:
        raise DatasetFormatError(path, line, error.reason) from error
