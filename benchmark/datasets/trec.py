"""Your own judgements: topics and qrels as TREC has them, over any corpus that an index is built of.

`corpus.jsonl`, `.csv`, `.parquet` or `.tar`, or a folder `corpus`, is read as `anykey-index` reads it, so that it is
indexed as it is. Topics are `topics.tsv` (`id<TAB>text`), or `topics.jsonl` where they have images or instructions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from anykey.benchmark.dataset import Card, Dataset, Entry, Image, Query, Task
from anykey.benchmark.datasets.mbeir import read_jsonl, read_lines, read_qrels
from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, ReadOptions
from anykey.sources.corpus.formats import format_of
from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.files.images import ImageStamp, read_image
from anykey.sources.files.locations import parse_location, scheme_of
from anykey.sources.rows import RowError, kind_of, strings_in, text_of

HEADLINE = "ndcg@10"
TOPICS = ("topics.tsv", "topics.jsonl")
QRELS = "qrels.txt"


class Trec(Dataset):
    """A directory with topics, `qrels.txt` and a corpus."""

    name = "TREC topics"
    splits = ("test",)
    card = Card(
        measures="what you have judged yourself: queries of texts, images or both over a corpus of your own",
        size="any",
        licence="your own",
        published="nowhere: write topics.tsv, qrels.txt and corpus.jsonl (docs/datasets.md)",
        by_hand=("write DIR/topics.tsv, DIR/qrels.txt and DIR/corpus.jsonl, as docs/datasets.md says",),
    )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """By the judgements and the topics."""
        return (root / QRELS).is_file() and any((root / name).is_file() for name in TOPICS)

    def tasks(self) -> list[Task]:
        """The topics among the whole corpus."""
        name = self.root.resolve().name
        return [Task(name=name, title=name, candidates="corpus", pool=None, headline=HEADLINE)]

    def queries(self, task: Task) -> list[Query]:
        """The topics that have a relevant key, in file order.

        Raises:
            DatasetError: there are no topics, topics of both kinds, or no corpus.
            DatasetFormatError: a line is wrong, an id comes twice, an image is missing, or a judgement has no topic or
                names a key that is not there.
        """
        judged = self._judged
        if unasked := [id for id in judged if id not in self._topics]:
            raise DatasetFormatError(
                self.root / QRELS, None, f"{len(unasked)} judged topics do not exist, the first is {unasked[0]}"
            )
        return [replace(topic, relevant=judged[topic.id]) for topic in self._topics.values() if topic.id in judged]

    def corpus(self) -> Iterator[Entry]:
        """The keys, as `anykey-index` reads them.

        Raises:
            DatasetError: there is no corpus, or more than one, or a row of it is wrong.
        """
        path = self._corpus_path
        file = CorpusFile(str(path), is_folder=path.is_dir())
        try:
            for row in format_of(file).read(file, ReadOptions()):
                if isinstance(row, InvalidRowError):
                    raise row
                yield _entry(row)
        except (SourceError, OSError) as error:
            raise DatasetError(str(error)) from error

    def warnings(self, tasks: Sequence[Task]) -> list[str]:
        """How many topics are left out since no key answers them."""
        left_out = len(self._topics) - len(self._judged)
        return [f"{left_out} of {len(self._topics)} topics have no relevant key and are left out"] if left_out else []

    @cached_property
    def _judged(self) -> dict[str, dict[str, int]]:
        """Grades above 0 by topic and key."""
        keys = {entry.key for entry in self.corpus()}
        judged: dict[str, dict[str, int]] = {}
        for line, topic, key, grade in read_qrels(self.root / QRELS):
            if key not in keys:
                raise DatasetFormatError(self.root / QRELS, line, f"key '{key}' is not in {self._corpus_path}")
            judged.setdefault(topic, {})[key] = grade
        return judged

    @cached_property
    def _topics(self) -> dict[str, Query]:
        paths = [path for name in TOPICS if (path := self.root / name).is_file()]
        if len(paths) != 1:
            raise DatasetError(f"{self.root} has {len(paths)} files of topics, expected one of {', '.join(TOPICS)}")
        (path,) = paths
        topics: dict[str, Query] = {}
        for line, topic in _table(path) if path.suffix == ".tsv" else _rows(path):
            if topic.id in topics:
                raise DatasetFormatError(path, line, f"topic '{topic.id}' comes a second time")
            topics[topic.id] = topic
        return topics

    @cached_property
    def _corpus_path(self) -> Path:
        found = sorted(path for path in self.root.iterdir() if path.stem == "corpus")
        if len(found) != 1:
            names = ", ".join(path.name for path in found)
            raise DatasetError(f"{self.root}: expected one corpus such as corpus.jsonl, found {names or 'none'}")
        return found[0]


def _table(path: Path) -> Iterator[tuple[int, Query]]:
    """Line and topic of every line with a tab: before it the id, behind it the text."""
    for line, text in enumerate(read_lines(path), start=1):
        if text.strip():
            id, _, words = (part.strip() for part in text.partition("\t"))
            if not id or not words:
                raise DatasetFormatError(path, line, "expected an id, a tab and a text")
            yield line, Query(id, words)


def _rows(path: Path) -> Iterator[tuple[int, Query]]:
    for line, row in read_jsonl(path):
        try:
            yield line, _topic(row, path.parent)
        except RowError as error:
            raise DatasetFormatError(path, line, error.reason) from error


def _topic(row: dict[str, Any], folder: Path) -> Query:
    """Raises `RowError` for a row without id, without text and image, or whose image is missing."""
    id = text_of(row, "id")
    if id is None:
        raise RowError("expected 'id', a string that is not blank")
    text, instruction = text_of(row, "text"), text_of(row, "instruction")
    images = _images(row.get("image"), folder)
    if text is None and not images:
        raise RowError(f"topic '{id}' has neither text nor image")
    instructed = " ".join(filter(None, (instruction, text))) if instruction else None
    return Query(id, text, images, instruction=instruction, instructed=instructed)


def _images(cell: Any, folder: Path) -> tuple[Path, ...]:
    try:
        images = tuple(folder / name for name in strings_in(cell))
    except ValueError:
        raise RowError(f"'image' must be a path, a list of paths or null, got {kind_of(cell)}") from None
    for image in images:
        if not image.is_file():
            raise RowError(f"image {image} does not exist")
    return images


def _entry(row: CorpusEntry) -> Entry:
    images = tuple(_image(image.location if isinstance(image, ImageStamp) else image) for image in row.images)
    return Entry(row.key, row.text, images, pools=row.pools, metadata=row.metadata, place=row.where)


def _image(location: str) -> Image:
    """A file of its own, or what reads a part of one, or what lies elsewhere."""
    if parse_location(location) is None and not scheme_of(location):
        return Path(location)
    return partial(read_image, location)
