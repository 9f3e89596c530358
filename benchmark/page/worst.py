"""The queries that went worst, as a person sees them: what was asked, what would have been right, and what came."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Dataset, Hit, Image, Query
from anykey.benchmark.errors import DatasetError
from anykey.benchmark.page.thumbnails import thumbnail
from anykey.benchmark.scoring import TaskResult, ranked
from anykey.program.progress import progress
from anykey.program.settings import plain_console

MAX_HITS = 5
MAX_RELEVANT = 3
MAX_PICTURES = 3  # of one item; the frames of a video are many
MAX_CHARS = 240  # of a text
MAX_NAME_CHARS = 80


@dataclass(frozen=True)
class Item:
    """A query or a key as a person sees it.

    Attributes:
        text: The beginning of its text; empty where it has none.
        pictures: Small JPEGs of its first images; None for one that cannot be read.
        num_images: How many images it has.
    """

    text: str
    pictures: tuple[bytes | None, ...]
    num_images: int

    @classmethod
    def of(cls, text: str | None, images: Sequence[Image]) -> "Item":
        """Of a text and images; more than the first few images are not read."""
        pictures = tuple(thumbnail(image) for image in images[:MAX_PICTURES])
        return cls(cut(text or "", MAX_CHARS), pictures, len(images))


@dataclass(frozen=True)
class Key:
    """A key beside a query.

    Attributes:
        name: The beginning of its name.
        item: What it is; None where the dataset does not know it.
        score: Its score; None where it is none of the hits.
        modality: What the service says it is; empty where it is none of the hits.
        is_relevant: Whether it answers the query.
    """

    name: str
    item: Item | None
    score: float | None
    modality: str
    is_relevant: bool


@dataclass(frozen=True)
class Case:
    """One query that went wrong.

    Attributes:
        query: Its name.
        item: What was asked.
        rank: Rank of the best relevant key; None where none is among the hits.
        relevant: The first of its relevant keys: those that were found, then those of the highest grade.
        num_relevant: How many it has.
        hits: What came first.
    """

    query: str
    item: Item
    rank: int | None
    relevant: tuple[Key, ...]
    num_relevant: int
    hits: tuple[Key, ...]


@dataclass(frozen=True)
class Worst:
    """The worst queries of one task.

    Attributes:
        result: What the task scored.
        cases: Those whose best relevant key ranks worst, the worst first; none that found one first.
        num_missed: Of how many queries no relevant key is among the hits.
    """

    result: TaskResult
    cases: tuple[Case, ...]
    num_missed: int


@dataclass(frozen=True)
class Chosen:
    """A query to be shown, before anything is read of it."""

    query: Query
    rank: int | None
    relevant: tuple[str, ...]
    hits: tuple[Hit, ...]

    @property
    def keys(self) -> Iterable[str]:
        """All keys to be shown."""
        return (*self.relevant, *(hit.key for hit in self.hits))


Measured = tuple[TaskResult, Sequence[Query], Mapping[str, Answer]]


def worst_queries(measured: Sequence[Measured], dataset: Dataset, num: int) -> tuple[list[Worst], str]:
    """The worst queries of every task, with what the dataset's corpus says of their keys.

    The corpus is read once, and only the keys that are shown are kept. Of a task that was measured in both ways, the
    queries are those of the approximate search.

    Args:
        measured: Each task's results, queries and answers.
        dataset: Where queries and keys are from.
        num: How many of each task; 0 for none.

    Returns:
        The worst queries, and why the corpus could not be read to its end; empty where it could.
    """
    if not num:
        return [], ""
    approximate = {result.task for result, *_ in measured if not result.exact}
    shown = [each for each in measured if not each[0].exact or each[0].task not in approximate]
    chosen = [_chosen(*each, num) for each in shown]
    items, reason = _read(dataset, {key for cases in chosen for case in cases for key in case.keys})
    worst = []
    for (result, *_), cases in zip(shown, chosen, strict=True):
        num_missed = sum(not ranks for ranks in result.ranks)
        worst.append(Worst(result, tuple(_case(case, items) for case in cases), num_missed))
    return worst, reason


def cut(text: str, most: int) -> str:
    """The text in one line, and its beginning where it is longer than `most` characters.

    >>> cut("a  red boat", 80), cut("a red boat", 8)
    ('a red boat', 'a red...')
    """
    words = " ".join(text.split())
    return words if len(words) <= most else words[: most - 3] + "..."


def _chosen(result: TaskResult, queries: Sequence[Query], answers: Mapping[str, Answer], num: int) -> list[Chosen]:
    first = [min(ranks, default=None) for ranks in result.ranks]
    wrong = [(query, rank) for query, rank in zip(queries, first, strict=True) if rank != 1]
    wrong.sort(key=lambda each: (each[1] is not None, -(each[1] or 0)))
    cases = []
    for query, rank in wrong[:num]:
        hits = ranked(answers[query.id].hits, query.relevant, result.task)
        place = {hit.key: number for number, hit in enumerate(hits)}
        relevant = sorted(query.relevant, key=lambda key: (place.get(key, len(place)), -query.relevant[key]))
        cases.append(Chosen(query, rank, tuple(relevant[:MAX_RELEVANT]), tuple(hits[:MAX_HITS])))
    return cases


def _read(dataset: Dataset, wanted: set[str]) -> tuple[dict[str, Item], str]:
    """What the corpus says of some keys, by key; and why it could not be read to its end."""
    items: dict[str, Item] = {}
    with progress(plain_console(stderr=True), "keys for the page", None) as advance:
        try:
            for entry in dataset.corpus() if wanted else ():
                advance()
                if entry.key in wanted and entry.key not in items:
                    items[entry.key] = Item.of(entry.text, entry.images)
                    if len(items) == len(wanted):
                        break
        except (DatasetError, OSError) as error:  # the numbers are measured, and stand without pictures
            return items, str(error)
    return items, ""


def _case(chosen: Chosen, items: Mapping[str, Item]) -> Case:
    query = chosen.query
    scores = {hit.key: hit for hit in chosen.hits}

    def shown(key: str) -> Key:
        hit = scores.get(key)
        score, modality = (hit.score, hit.modality) if hit else (None, "")
        return Key(cut(key, MAX_NAME_CHARS), items.get(key), score, modality, key in query.relevant)

    return Case(
        query=cut(query.id, MAX_NAME_CHARS),
        item=Item.of(query.text, query.images),
        rank=chosen.rank,
        relevant=tuple(map(shown, chosen.relevant)),
        num_relevant=len(query.relevant),
        hits=tuple(shown(hit.key) for hit in chosen.hits),
    )
