"""M-BEIR as its owners publish it: queries, candidate pools, judgements, instructions (Wei et al., arXiv 2311.17136).

Paths in the files are relative to the dataset's root. `txt` and `img_path` may be absent from a candidate row, qrels
have four columns or five, and the local pools of `mscoco` are named per split. ShapesWorld and the datasets that
`anykey-bench from-pairs` makes have this layout too.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from anykey.benchmark.dataset import (
    Card,
    Dataset,
    Entry,
    Hit,
    Hub,
    Mean,
    Modality,
    Query,
    Task,
    mean_of_means,
    mean_over,
)
from anykey.benchmark.directory import read_manifest
from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.lines import scan_lines
from anykey.sources.mbeir import (
    CANDIDATE,
    QUERY,
    Prompts,
    format_string,
    instructed,
    read_item,
    read_prompts,
    source_of,
)
from anykey.sources.rows import RowError, parse_object

T = TypeVar("T")

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
WORDS: dict[str, Modality] = {"text": "text", "image": "image", "image,text": "fused"}
LOCAL, GLOBAL = "local", "global"
FASHION = ("fashion200k", "fashioniq")  # their headline number is at 10, everybody else's at 5
FASHION_CUTOFFS, CUTOFFS = (10, 20, 50), (1, 5, 10)  # that UniIR's table has
KEYS_PER_SOURCE = 10_000_000
SPLIT_POOLS = ("mscoco",)  # datasets whose local pools differ by split
ORDER = (  # of the rows in papers' tables; others come behind, by name
    *("visualnews_task0", "mscoco_task0", "fashion200k_task0", "webqa_task1", "edis_task2", "webqa_task2"),
    *("visualnews_task3", "mscoco_task3", "fashion200k_task3", "nights_task4", "oven_task6", "infoseek_task6"),
    *("fashioniq_task7", "cirr_task7", "oven_task8", "infoseek_task8"),
)


@dataclass(frozen=True)
class QueryFile:
    """One query file of a split, by names only.

    Attributes:
        name: Its stem without the split, such as "mbeir_mscoco_task0".
        dataset: Name of the source dataset, such as "mscoco".
        number: Task number, a key of `TASK_NAMES`.
        split: "test", "val" or "train".
    """

    name: str
    dataset: str
    number: int
    split: str

    @property
    def row(self) -> str:
        """What tables call it: "mscoco_task0"."""
        return self.name.removeprefix("mbeir_")

    @property
    def pool(self) -> str:
        """Name of the local pool: the file's own, with the split where pools differ by split."""
        return f"{self.name}_{self.split}" if self.dataset in SPLIT_POOLS else self.name

    @property
    def place(self) -> tuple[int, int, str]:
        """Where it stands in a table."""
        return self.number, ORDER.index(self.row) if self.row in ORDER else len(ORDER), self.name

    def task(self, candidates: str) -> Task:
        """Its queries against the local pool or against the whole corpus."""
        asked, wanted = TASK_NAMES[self.number].split(" -> ")
        return Task(
            name=self.name,
            title=f"{self.dataset} {self.number} {asked} -> {wanted}",
            candidates=candidates,
            pool=self.pool if candidates == LOCAL else None,
            headline=f"success@{10 if self.dataset in FASHION else 5}",
            key_modality=WORDS[wanted],
            aliases=(str(self.number), self.row),
        )


class MBeir(Dataset):
    """A directory in M-BEIR's layout."""

    name = "M-BEIR"
    splits = ("test", "val", "train")
    card = Card(
        measures="eight kinds of retrieval over texts, images and pages, each in its own pool and in one mixed pool",
        size="190,573 queries in 16 tasks, 5.6 million keys",
        licence="MIT for the files; each source dataset has its own terms",
        published="https://huggingface.co/datasets/TIGER-Lab/M-BEIR",
        hub=(
            Hub(
                "TIGER-Lab/M-BEIR",
                (
                    *("query/test/*", "query/val/*", "qrels/test/*", "qrels/val/*"),
                    *("cand_pool/local/*", "instructions/*", "*mbeir_images.tar.gz.part-*"),
                ),
            ),
        ),
        by_hand=(
            "unpack the images (170 GB): "
            "find DIR -name 'mbeir_images.tar.gz.part-*' -print0 | sort -z | xargs -0 cat | tar -xz -C DIR",
        ),
    )

    _last: tuple[str, tuple[frozenset[str], dict[str, tuple[str, ...]]]] | None = None

    def __init__(self, root: Path, split: str, options: Mapping[str, str] | None = None) -> None:
        super().__init__(root, split, options)
        if manifest := read_manifest(root):  # a dataset of ours, which only has the layout
            self.name = f"{manifest.get('name', root.name)}, in M-BEIR's layout"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """By the folders of queries and of candidate pools."""
        return (root / "query").is_dir() and (root / "cand_pool").is_dir()

    @cached_property
    def files(self) -> dict[str, QueryFile]:
        """The split's query files by name, in the order of papers' tables.

        Raises:
            DatasetError: there is no query directory, no query file in it, or one of an unknown task.
        """
        folder = self.root / "query" / self.split
        if not folder.is_dir():
            raise DatasetError(f"{self.root} is no M-BEIR dataset: expected a directory {folder}")
        pattern = re.compile(rf"(mbeir_(.+)_task(\d+))_{self.split}\.jsonl")
        matches = [match for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
        found = [QueryFile(match[1], match[2], int(match[3]), self.split) for match in matches]
        if not found:
            raise DatasetError(f"{folder} holds no query file such as mbeir_mscoco_task0_{self.split}.jsonl")
        for file in found:
            if file.number not in TASK_NAMES:
                raise DatasetError(f"{folder}/{file.name}_{self.split}.jsonl: unknown task number {file.number}")
        return {file.name: file for file in sorted(found, key=lambda file: file.place)}

    def tasks(self) -> list[Task]:
        """Every query file against its local pool, then every one against the whole corpus.

        Raises:
            DatasetError: As for `files`.
        """
        return [file.task(candidates) for candidates in (LOCAL, GLOBAL) for file in self.files.values()]

    def queries(self, task: Task) -> list[Query]:
        """The task's queries in file order; a key that is the query's own image is its reference.

        Raises:
            DatasetFormatError: a row is wrong, a qid repeats, an image file is missing, a query has no judgement, or
                a judgement has no query or names a key that is not there.
        """
        file = self.files[task.name]
        path = self.root / "query" / self.split / f"{task.name}_{self.split}.jsonl"
        keys, keys_of_images = self._pool(file.pool)
        judged = self._judgements(file, keys)
        queries: dict[str, Query] = {}
        for line, row in read_jsonl(path):
            qid = _required_id(row, "qid", path, line)
            item = _read(lambda row: read_item(row, QUERY), row, path, line)
            if row.get("task_id", file.number) != file.number:
                raise DatasetFormatError(path, line, f"task_id is {row['task_id']}, the file's name says {file.number}")
            if qid in queries:
                raise DatasetFormatError(path, line, f"qid '{qid}' comes a second time")
            image = self._image(item.image, path, line)
            if qid not in judged:
                raise DatasetFormatError(path, line, f"query '{qid}' has no judgement in {self._qrels_file(file)}")
            prompts = self._prompts.get((qid.split(":")[0], item.modality, TASK_NAMES[file.number].split(" -> ")[1]))
            queries[qid] = Query(
                qid,
                item.form or None,
                (image,) if image else (),
                judged[qid],
                instruction=format_string(prompts[0]) if prompts else None,
                instructed=instructed(prompts, item.text)[0] if prompts else None,
                references=keys_of_images.get(item.image, ()) if item.image else (),
            )
        if unasked := [qid for qid in judged if qid not in queries]:
            raise DatasetFormatError(
                self._qrels_file(file),
                None,
                f"{len(unasked)} judged queries are not in {path}, the first is {unasked[0]}",
            )
        return list(queries.values())

    def corpus(self) -> Iterator[Entry]:
        """The keys of all local pools of the split, pool by pool; a key of several pools comes with the first.

        Raises:
            DatasetFormatError: a row is wrong, or a did comes twice in a pool.
        """
        shared = self._shared_keys()
        for pool in self._pool_names:
            for entry in self.entries(pool):
                pools = shared.get(entry.key, (pool,))
                if pools[0] == pool:
                    yield replace(entry, pools=pools)

    def keys(self, pool: str) -> frozenset[str]:
        """The keys of one pool.

        Raises:
            DatasetFormatError: As for `corpus`.
        """
        return self._pool(pool)[0]

    def num_keys(self) -> int:
        """How many keys the local pools have together: the rows of the global pool's file, where there is one.

        Raises:
            DatasetFormatError: a pool's file is missing, or a row is wrong.
        """
        path = self.root / "cand_pool" / "global" / f"mbeir_union_{self.split}_cand_pool.jsonl"
        if path.is_file():
            return sum(1 for line in read_lines(path) if line.strip())
        return super().num_keys()

    def means(self, tasks: Sequence[Task]) -> list[Mean]:
        """Over all tasks, as UniIR's papers print it, and over source datasets, as some papers say."""
        groups: dict[str, list[Task]] = {}
        for task in tasks:
            groups.setdefault(self.files[task.name].dataset, []).append(task)
        if len(tasks) < 2:
            return []
        means = [mean_over(tasks, "mean over tasks")]
        return means if len(groups) == 1 else [*means, mean_of_means(groups.values(), "mean over datasets")]

    def source_of(self, name: str) -> str | None:
        """The number of the source dataset, with which ids of queries and keys begin."""
        return name.split(":")[0]

    def extra_files(
        self, rankings: Mapping[Task, Mapping[str, Sequence[Hit]]], scores: Mapping[Task, Mapping[str, float]]
    ) -> dict[str, str]:
        """UniIR's table of results (`mbeir_retriever.py`), which prints success@k as Recall@k."""
        header = ["TaskID", "Task", "Dataset", "Split", "Metric", "CandPool", "Value", "UnionPool", "UnionValue"]
        rows = [header]
        for file in self.files.values():
            local, union = (scores.get(file.task(candidates)) for candidates in (LOCAL, GLOBAL))
            for k in FASHION_CUTOFFS if file.dataset in FASHION else CUTOFFS:
                if local is None or f"success@{k}" not in local:
                    continue
                pool = file.pool.removeprefix("mbeir_")
                cells = [str(file.number), TASK_NAMES[file.number], file.row, file.split, f"Recall@{k}", pool]
                cells += [str(round(local[f"success@{k}"], 4))]
                cells += ["", ""] if union is None else ["union", str(round(union[f"success@{k}"], 4))]
                rows.append(cells)
        return {"uniir_results.tsv": "".join("\t".join(row) + "\r\n" for row in rows)}

    @property
    def _pool_names(self) -> list[str]:
        return sorted({file.pool for file in self.files.values()})

    def _shared_keys(self) -> dict[str, tuple[str, ...]]:
        """The keys that several pools have, with these pools; found by numbers, as there may be millions of keys."""
        numbers = {
            pool: np.fromiter((number_of(entry.key) for entry in self.entries(pool)), np.int64)
            for pool in self._pool_names
        }
        found, counts = np.unique(np.concatenate(list(numbers.values())), return_counts=True)
        shared = found[counts > 1]
        pools: dict[str, tuple[str, ...]] = {}
        for pool, own in numbers.items():
            for number in own[np.isin(own, shared)].tolist():
                key = f"{number // KEYS_PER_SOURCE}:{number % KEYS_PER_SOURCE}"
                pools[key] = (*pools.get(key, ()), pool)
        return pools

    @cached_property
    def _prompts(self) -> Prompts:
        path = self.root / "instructions" / "query_instructions.tsv"
        if not path.is_file():
            return {}
        try:
            return read_prompts(path)
        except InvalidRowError as error:
            raise DatasetFormatError(path, None, error.reason) from error

    def _pool_file(self, pool: str) -> Path:
        return self.root / "cand_pool" / "local" / f"{pool}_cand_pool.jsonl"

    def _qrels_file(self, file: QueryFile) -> Path:
        return self.root / "qrels" / self.split / f"{file.name}_{self.split}_qrels.txt"

    def _pool(self, pool: str) -> tuple[frozenset[str], dict[str, tuple[str, ...]]]:
        """As `_read_pool` of the pool that was read last."""
        if self._last is None or self._last[0] != pool:
            self._last = pool, self._read_pool(pool)
        return self._last[1]

    def _read_pool(self, pool: str) -> tuple[frozenset[str], dict[str, tuple[str, ...]]]:
        """The pool's keys, and the keys that are an image and nothing else by that image's path in the files."""
        keys: set[str] = set()
        images: dict[str, tuple[str, ...]] = {}
        for entry in self.entries(pool):
            keys.add(entry.key)
            if entry.modality == "image":
                (path,) = entry.images
                name = os.path.relpath(path, self.root) if isinstance(path, Path) else ""
                images[name] = (*images.get(name, ()), entry.key)
        return frozenset(keys), images

    def entries(self, pool: str) -> Iterator[Entry]:
        """One local pool's keys in file order.

        Raises:
            DatasetFormatError: As for `corpus`.
        """
        path = self._pool_file(pool)
        known: set[str] = set()
        for line, row in read_jsonl(path):
            did = _required_id(row, "did", path, line)
            item = _read(lambda row: read_item(row, CANDIDATE), row, path, line)
            if did in known:
                raise DatasetFormatError(path, line, f"did '{did}' comes a second time")
            known.add(did)
            images = (self.root / item.image,) if item.image else ()
            source = _read(source_of, row, path, line)
            yield Entry(did, item.form or None, images, pools=(pool,), metadata=source, place=f"{path}:{line}")

    def _judgements(self, file: QueryFile, keys: frozenset[str]) -> dict[str, dict[str, int]]:
        """Grades above 0 by query and key. A key of another source may be outside the local pool (OVEN, InfoSeek)."""
        path = self._qrels_file(file)
        judged: dict[str, dict[str, int]] = {}
        for line, qid, did, grade in read_qrels(path):
            if did not in keys and did.split(":")[0] == qid.split(":")[0]:
                raise DatasetFormatError(path, line, f"key '{did}' is not in {self._pool_file(file.pool)}")
            judged.setdefault(qid, {})[did] = grade
        return judged

    def _image(self, name: str | None, path: Path, line: int) -> Path | None:
        if name is None:
            return None
        image = self.root / name
        if not os.path.isfile(image):
            raise DatasetFormatError(path, line, f"image {image} does not exist")
        return image


def number_of(did: str) -> int:
    """A key as one number, as UniIR hashes it."""
    source, number = id_order(did)
    return source * KEYS_PER_SOURCE + number


def id_order(name: str) -> tuple[int, int]:
    """Sorting key of "dataset:number" ids: as numbers, so that 9:2 comes before 9:10.

    Raises:
        ValueError: the id has another form.

    >>> sorted(["9:10", "9:2"], key=id_order)
    ['9:2', '9:10']
    """
    dataset, number = name.split(":")
    return int(dataset), int(number)


def read_qrels(path: Path) -> Iterator[tuple[int, str, str, int]]:
    """Line number, query, key and grade of every judgement above 0, which are those that M-BEIR's evaluator keeps.

    Lines have four columns (TREC) or five (M-BEIR: the task number last).

    Raises:
        DatasetFormatError: a line has another number of columns, or a grade is no number.
    """
    for line, text in enumerate(read_lines(path), start=1):
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
            yield line, columns[0], columns[2], grade


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


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file.

    Raises:
        DatasetFormatError: the file is missing or not UTF-8.
    """
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


def _read(read: Callable[[dict[str, Any]], T], row: dict[str, Any], path: Path, line: int) -> T:
    """What the row holds."""
    try:
        return read(row)
    except RowError as error:
        raise DatasetFormatError(path, line, error.reason) from error
