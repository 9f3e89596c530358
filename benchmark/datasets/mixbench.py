"""MixBench as its owners publish it: one corpus of texts, images and pages (Li et al., arXiv 2507.19054).

The release of 2025 has lines of JSON with images beside them, that of 2026 Parquet files with the images inside, and
no judgements, which are those of 2025. Its own script needs a text and an image of every key and mixes vectors; here
the corpus is `mixed_corpus`, whose keys have what their modality says.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from anykey.benchmark.dataset import Card, Dataset, Entry, Hit, Hub, Image, Published, Query, Task
from anykey.benchmark.datasets.mbeir import read_jsonl, read_lines
from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.benchmark.metrics import measured
from anykey.benchmark.parquet_rows import read_parquet

HEADLINE = "ndcg@10"
DEPTH = 10
SUBSETS = {  # and what their queries are, in the order of papers' tables
    "MSCOCO": "text",
    "Google_WIT": "text",
    "VisualNews": "text",
    "OVEN": "image,text",
}
QUERY, KEY = ("query_id", "id"), ("corpus_id", "id")  # what releases call a row's name
QUERIES, CORPUS, JUDGEMENTS = ("queries", "query"), ("mixed_corpus",), ("qrels", "qrel")


@dataclass(frozen=True)
class Row:
    """One row of queries or keys.

    Attributes:
        path: Its file.
        line: Its number, from 1.
        id: Its name.
        text: Its text without white space around it, or None.
        image: Its image, or None.
    """

    path: Path
    line: int
    id: str
    text: str | None
    image: Path | bytes | None

    @property
    def images(self) -> tuple[Image, ...]:
        """Its image, if it has one."""
        return () if self.image is None else (self.image,)

    def error(self, reason: str) -> DatasetFormatError:
        """What is wrong with it, and where it stands."""
        return DatasetFormatError(self.path, self.line, reason)


class MixBench(Dataset):
    """A directory with MixBench's release of 2025: a folder for each subset, or `MixBench25` with these folders."""

    name = "MixBench"
    splits = ("test",)
    card = Card(
        measures="whether texts, images and pages of one corpus are ranked by what they show and not by what they are",
        size="some thousand queries in four subsets, each with its own corpus",
        licence="MIT for the files; each source dataset has its own terms",
        published="https://huggingface.co/datasets/mixed-modality-search/MixBench25",
        hub=(Hub("mixed-modality-search/MixBench25", folder="MixBench25"),),
    )
    folder: ClassVar[str] = "MixBench25"
    ending: ClassVar[str] = "jsonl"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """By the mixed corpus of any subset."""
        return any(_base(root, cls.folder).glob(f"*/{CORPUS[0]}.{cls.ending}"))

    def tasks(self) -> list[Task]:
        """One task for each subset's folder, those of papers' tables first.

        Raises:
            DatasetError: there is no such folder.
        """
        subsets = [path.parent.name for path in self._base.glob(f"*/{CORPUS[0]}.{self.ending}")]
        if not subsets:
            raise DatasetError(
                f"{self._base} is no {self.name}: expected files such as MSCOCO/{CORPUS[0]}.{self.ending}"
            )
        known = list(SUBSETS)
        subsets.sort(key=lambda name: (known.index(name) if name in known else len(known), name))
        return [
            Task(
                name=subset,
                title=f"{subset} {SUBSETS[subset]} -> mixed" if subset in SUBSETS else subset,
                candidates="mixed pool",
                pool=subset,
                headline=HEADLINE,
            )
            for subset in subsets
        ]

    def queries(self, task: Task) -> list[Query]:
        """The subset's queries in file order, each with all that it has: text, image, or both.

        Raises:
            DatasetFormatError: a row is wrong, a name comes twice, an image is missing, a query has no judgement, or a
                judgement has no query or names a key that is not there.
        """
        path, judged = self._judgements(task.name)
        queries: dict[str, Query] = {}
        for row in self._rows(task.name, QUERIES, QUERY):
            if row.id in queries:
                raise row.error(f"query '{row.id}' comes a second time")
            if isinstance(row.image, Path) and not os.path.isfile(row.image):
                raise row.error(f"image {row.image} does not exist")
            if row.id not in judged:
                raise row.error(f"query '{row.id}' has no judgement in {path}")
            queries[row.id] = Query(row.id, row.text, row.images, judged[row.id])
        if unasked := [name for name in judged if name not in queries]:
            raise DatasetFormatError(
                path, None, f"{len(unasked)} judged queries do not exist, the first is {unasked[0]}"
            )
        return list(queries.values())

    def corpus(self) -> Iterator[Entry]:
        """The keys of all subsets, whose names begin with the subset's, since ids repeat between them.

        Raises:
            DatasetFormatError: a row is wrong, or an id comes twice in a subset.
        """
        for task in self.tasks():
            yield from self._entries(task.name)

    def keys(self, pool: str) -> frozenset[str]:
        """The keys of one subset.

        Raises:
            DatasetFormatError: As for `corpus`.
        """
        if pool not in self._keys:
            self._keys[pool] = frozenset(entry.key for entry in self._entries(pool))
        return self._keys[pool]

    def num_keys(self) -> int:
        """How many keys the subsets have together.

        Raises:
            DatasetFormatError: As for `corpus`.
        """
        return sum(len(self.keys(task.name)) for task in self.tasks())

    def published(self, task: Task, queries: Sequence[Query], rankings: Sequence[Sequence[Hit]]) -> list[Published]:
        """The number of MixBench's script (`retrieval_mixbench.py`), where it is another than ours.

        The script does not take corpora of fewer than ten keys.
        """
        if any(len(hits) < DEPTH for hits in rankings):
            return []
        pairs = list(zip(queries, rankings, strict=True))
        theirs = [script_ndcg(hits[:DEPTH], query.relevant) for query, hits in pairs]
        ranked = {query.id: [hit.key for hit in hits] for query, hits in pairs}
        ours = measured([HEADLINE], ranked, {query.id: query.relevant for query in queries})[HEADLINE]
        if all(math.isclose(one, other, abs_tol=1e-9) for one, other in zip(theirs, ours, strict=True)):
            return []
        rule = "the ideal ranking is that of the ten hits alone, and hits that tie share their gains"
        return [Published("nDCG@10 of MixBench's script", rule, theirs)]

    @cached_property
    def _keys(self) -> dict[str, frozenset[str]]:
        return {}

    @property
    def _base(self) -> Path:
        return _base(self.root, self.folder)

    def _entries(self, subset: str) -> Iterator[Entry]:
        known: set[str] = set()
        for row in self._rows(subset, CORPUS, KEY):
            if row.id in known:
                raise row.error(f"key '{row.id}' comes a second time")
            known.add(row.id)
            place = f"{row.path}:{row.line}"
            yield Entry(_key(subset, row.id), row.text, row.images, pools=(subset,), place=place)

    def _rows(self, subset: str, stems: Sequence[str], names: Sequence[str]) -> Iterator[Row]:
        """The rows of a subset's file, which has one of these stems."""
        folder = self._base / subset
        path = _first([folder / f"{stem}.{self.ending}" for stem in stems])
        for line, fields in self._read(path, names):
            yield _row(path, line, fields, names, folder / "images")

    def _read(self, path: Path, names: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        return read_jsonl(path)

    def _judgements(self, subset: str) -> tuple[Path, dict[str, dict[str, int]]]:
        """The file of judgements, and what it says: grades above 0 by query and key."""
        bases = dict.fromkeys((self._base, self.root / MixBench.folder, self.root.parent / MixBench.folder))
        places = [base / subset / folder / f"{JUDGEMENTS[0]}.tsv" for base in bases for folder in JUDGEMENTS]
        path = _first(places)
        keys = self.keys(subset)
        judged: dict[str, dict[str, int]] = {}
        for line, query, name, grade in read_judgements(path):
            if _key(subset, name) not in keys:
                raise DatasetFormatError(path, line, f"key '{name}' is not in the mixed corpus of {subset}")
            judged.setdefault(query, {})[_key(subset, name)] = grade
        return path, judged


class MixBench2026(MixBench):
    """A directory with MixBench's release of 2026, `MixBench2026`, and for the judgements that of 2025 beside it."""

    name = "MixBench 2026"
    card = Card(
        measures="as mixbench, with the images inside the files",
        size=MixBench.card.size,
        licence=MixBench.card.licence,
        published="https://huggingface.co/datasets/mixed-modality-search/MixBench2026, judgements in MixBench25",
        hub=(
            Hub("mixed-modality-search/MixBench2026", folder="MixBench2026"),
            Hub("mixed-modality-search/MixBench25", ("*.tsv",), "MixBench25"),
        ),
    )
    folder = "MixBench2026"
    ending = "parquet"

    def _read(self, path: Path, names: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        return read_parquet(path, ("text", "image"), names)


def script_ndcg(hits: Sequence[Hit], relevant: Mapping[str, int]) -> float:
    """The nDCG that scikit-learn's `ndcg_score` makes of the retrieved keys alone.

    Args:
        hits: The retrieved keys, best first; those of one score share the mean of their gains.
        relevant: Key to grade.
    """
    gains = [relevant.get(hit.key, 0) for hit in hits]
    discounts = [1 / math.log2(rank + 1) for rank in range(1, len(hits) + 1)]
    gained = 0.0
    for _, group in groupby(range(len(hits)), key=lambda place: hits[place].score):
        tied = list(group)
        gained += sum(gains[place] for place in tied) / len(tied) * sum(discounts[place] for place in tied)
    ideal = sum(gain * discount for gain, discount in zip(sorted(gains, reverse=True), discounts, strict=True))
    return gained / ideal if ideal else 0.0


def read_judgements(path: Path) -> Iterator[tuple[int, str, str, int]]:
    """Line number, query, key and grade of every judgement above 0; see `read_grades`."""
    return (judgement for judgement in read_grades(path) if judgement[3] > 0)


def read_grades(path: Path) -> Iterator[tuple[int, str, str, int]]:
    """Line number, query, key and grade of every judgement, in a table with a header.

    Raises:
        DatasetFormatError: a line has another number of columns, or a grade is no number.
    """
    for line, text in enumerate(read_lines(path), start=1):
        columns = text.rstrip("\r\n").split("\t")
        if line == 1 or columns == [""]:
            continue
        if len(columns) != 3:
            raise DatasetFormatError(path, line, f"expected query_id, corpus_id and score, got {len(columns)} columns")
        try:
            grade = int(columns[2])
        except ValueError:
            raise DatasetFormatError(path, line, f"score must be a whole number, got '{columns[2]}'") from None
        yield line, columns[0], columns[1], grade


def _key(subset: str, name: str) -> str:
    return f"{subset}/{name}"


def _base(root: Path, folder: str) -> Path:
    """Where the subsets' folders are: below the release's folder, or this is it."""
    return root / folder if (root / folder).is_dir() else root


def _first(paths: Sequence[Path]) -> Path:
    """The first file that exists.

    Raises:
        DatasetFormatError: none does.
    """
    for path in paths:
        if path.is_file():
            return path
    others = ", ".join(map(str, paths[1:]))
    raise DatasetFormatError(
        paths[0], None, "the file does not exist" + (f", nor does any of {others}" if others else "")
    )


def _row(path: Path, line: int, fields: Mapping[str, Any], names: Sequence[str], images: Path) -> Row:
    """A row, checked.

    Raises:
        DatasetFormatError: it has no name, neither text nor image, or a field has another type.
    """
    name = next((fields[field] for field in names if fields.get(field) is not None), None)
    text = fields.get("text")
    if not isinstance(name, str | int) or isinstance(name, bool) or not str(name).strip():
        raise DatasetFormatError(path, line, f"{names[0]} must be a name, got {name!r}")
    if text is not None and not isinstance(text, str):
        raise DatasetFormatError(path, line, f"text must be a text or null, got {type(text).__name__}")
    text = (text or "").strip() or None
    image = _image(fields.get("image"), images)
    if image is None and fields.get("image"):
        raise DatasetFormatError(path, line, "image is neither a file's name nor an image's bytes")
    if text is None and image is None:
        raise DatasetFormatError(path, line, f"'{name}' has neither text nor image")
    return Row(path, line, str(name), text, image)


def _image(cell: Any, folder: Path) -> Path | bytes | None:
    """An image's bytes, or its file; None where the cell holds neither."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str):
        return folder / cell if cell else None
    return cell if isinstance(cell, bytes) and cell else None
