"""The one shape of every dataset: a corpus of keys, and tasks whose queries say which keys answer them.

A dataset is a class in `datasets/` that reads its owners' files as they are. Everything behind it - sending queries,
scoring, reports - knows only what is here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from anykey.benchmark.errors import DatasetError

Modality = Literal["text", "image", "fused"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
Image = Path | bytes | Callable[[], bytes]  # a file, encoded bytes, or what encodes them when it is called


@dataclass(frozen=True)
class Entry:
    """One key of a corpus.

    Attributes:
        key: Its name, unique in the corpus.
        text: Its text, or None.
        images: Its images; the frames of a video are several.
        image_weights: What each image's vector counts for in the key's, which has no text; None for a key that is
            embedded as a whole.
        pools: Named subsets of the corpus that it belongs to.
        metadata: What else the owners' files say of it.
        place: File and line it comes from, for errors.
    """

    key: str
    text: str | None = None
    images: tuple[Image, ...] = ()
    image_weights: tuple[float, ...] | None = None
    pools: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""

    @property
    def modality(self) -> Modality:
        """What the key is."""
        return modality_of(self.text, self.images)


@dataclass(frozen=True)
class Query:
    """One query, and the keys that answer it.

    Attributes:
        id: Its name, unique in its task.
        text: Its text, without any instruction, or None.
        images: Its images.
        relevant: Key to grade, above 0; empty where the owners keep the answers to themselves.
        instruction: What the owners tell a model to do with it, or None.
        instructed: The text with the instruction as the owners put them together, or None.
        within: The only keys that may be returned; None where any key of the task's pool may.
        references: Keys that are the query's own image or video.
        facts: What else the owners' files say of it, for the dataset's own use.
    """

    id: str
    text: str | None = None
    images: tuple[Image, ...] = ()
    relevant: Mapping[str, int] = field(default_factory=dict)
    instruction: str | None = None
    instructed: str | None = None
    within: tuple[str, ...] | None = None
    references: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modality(self) -> Modality:
        """What the query is, its instruction apart."""
        return modality_of(self.text, self.images)


@dataclass(frozen=True)
class Hit:
    """One hit of an answer.

    Attributes:
        key: The key.
        score: Its score, higher is better.
        modality: "text", "image" or "fused".
    """

    key: str
    score: float
    modality: str


@dataclass(frozen=True)
class Task:
    """Queries against candidates: one row of a table of results.

    Attributes:
        name: What commands and files call the queries, such as "mbeir_mscoco_task0".
        title: What tables call them, such as "mscoco 0 text -> image".
        candidates: What tables call the keys they are searched among, such as "local" or "global". A dataset may
            have several tasks of one name that differ in this.
        pool: The index's pool that is searched; None for the whole corpus.
        key_modality: Modality of the keys looked for; None where it differs from query to query.
        headline: The metric that papers quote, such as "success@5".
        cutoffs: Every k of success@k and recall@k; None for those of the settings.
        excludes_references: Whether the benchmark's rules keep a query's own image out of its hits.
        ties_lose: Whether a relevant key that scores like others counts as behind them.
        aliases: Further names that commands accept.
    """

    name: str
    title: str
    candidates: str
    pool: str | None
    headline: str
    key_modality: Modality | None = None
    cutoffs: tuple[int, ...] | None = None
    excludes_references: bool = False
    ties_lose: bool = False
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mean:
    """A mean over tasks that papers print.

    Attributes:
        name: What tables call it.
        weights: What each task counts for; they add up to 1.
    """

    name: str
    weights: Mapping[Task, float]


@dataclass(frozen=True)
class Summary:
    """A mean of numbers that stand in several tables, over the same queries.

    Attributes:
        name: What reports call it.
        parts: Which metric of which task; all count alike.
    """

    name: str
    parts: Mapping[Task, str]


@dataclass(frozen=True)
class Published:
    """A number as published code computes it, where that is not what its definition says.

    Attributes:
        metric: What the publishers call it.
        rule: How it differs, in a sentence.
        values: Each query's, in the order of the queries.
    """

    metric: str
    rule: str
    values: Sequence[float]


@dataclass(frozen=True)
class Hub:
    """Files of a dataset on Hugging Face's hub.

    Attributes:
        repository: The owners' repository of datasets.
        files: Patterns of their paths in it; `*` matches `/` too.
        folder: Below the dataset's directory, where they go.
    """

    repository: str
    files: tuple[str, ...] = ("*",)
    folder: str = ""


@dataclass(frozen=True)
class Card:
    """What a user wants to know before he measures with a benchmark.

    Attributes:
        measures: What it asks of a system.
        size: Queries and keys.
        licence: Whose terms hold for the files.
        published: Where the owners publish them.
        hub: What of them `anykey-bench fetch` fetches.
        by_hand: What is left to do after that, step by step; DIR stands for the dataset's directory.
    """

    measures: str
    size: str
    licence: str
    published: str
    hub: tuple[Hub, ...] = ()
    by_hand: tuple[str, ...] = ()


class Dataset(ABC):
    """What a benchmark's files hold.

    Attributes:
        name: What reports call it.
        splits: The splits it has, the one that papers report first.
        card: What it is.
        choices: What a user may choose about it: each option's values, the default first.
        root: Its directory.
        split: Which split's queries are read.
        options: The value of each option.

    Raises:
        DatasetError: there is no such option, or it has no such value.
    """

    name: str
    splits: ClassVar[tuple[str, ...]]
    card: ClassVar[Card]
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, root: Path, split: str, options: Mapping[str, str] | None = None) -> None:
        self.root, self.split = root, split
        chosen = options or {}
        for name, value in chosen.items():
            if value not in self.choices.get(name, ()):
                known = [f"{each}={'|'.join(values)}" for each, values in self.choices.items()]
                raise DatasetError(
                    f"{self.name} has no option {name}={value}, it has: {', '.join(known) or 'no options'}"
                )
        self.options = {name: chosen.get(name, values[0]) for name, values in self.choices.items()}

    @classmethod
    @abstractmethod
    def recognises(cls, root: Path) -> bool:
        """Whether a directory has this benchmark's files."""

    @abstractmethod
    def tasks(self) -> list[Task]:
        """All tasks of the split.

        Raises:
            DatasetError: the files are not those of this dataset.
        """

    @abstractmethod
    def queries(self, task: Task) -> list[Query]:
        """The task's queries in the order of their file, each with its judgements.

        Raises:
            DatasetFormatError: a row is wrong, an image is missing, or queries and judgements do not meet.
        """

    @abstractmethod
    def corpus(self) -> Iterator[Entry]:
        """Every key once, in the order of the files.

        Raises:
            DatasetFormatError: a row is wrong, or a key comes twice.
        """

    def keys(self, pool: str) -> frozenset[str]:
        """The keys of one pool.

        Raises:
            DatasetFormatError: As for `corpus`.
        """
        return self._pools.get(pool, frozenset())

    def num_keys(self) -> int:
        """How many keys the corpus has.

        Raises:
            DatasetFormatError: As for `corpus`.
        """
        return self._size

    def means(self, tasks: Sequence[Task]) -> list[Mean]:
        """The means that papers print over these tasks, which all search among the same kind of candidates."""
        return [] if len(tasks) < 2 else [mean_over(tasks, "mean over tasks")]

    def summaries(self, tasks: Sequence[Task]) -> list[Summary]:
        """The means over several tables that papers print, of these tasks."""
        return []

    def warnings(self, tasks: Sequence[Task]) -> list[str]:
        """What the reader of a report should know of the files of these tasks: what was left out, and how much."""
        return []

    def published(self, task: Task, queries: Sequence[Query], rankings: Sequence[Sequence[Hit]]) -> list[Published]:
        """The task's numbers by the rules of published code, where those differ from the definitions."""
        return []

    def source_of(self, name: str) -> str | None:
        """Which of the corpus's sources a query or key comes from, by its name; None where there is but one."""
        return None

    def extra_files(
        self, rankings: Mapping[Task, Mapping[str, Sequence[Hit]]], scores: Mapping[Task, Mapping[str, float]]
    ) -> dict[str, str]:
        """Files that the benchmark's own tools read, by name: submissions to a test server, tables.

        Args:
            rankings: Each measured task's hits, best first, by query.
            scores: Each measured and judged task's metrics.
        """
        return {}

    @cached_property
    def _pools(self) -> dict[str, frozenset[str]]:
        pools: dict[str, set[str]] = {}
        for entry in self.corpus():
            for pool in entry.pools:
                pools.setdefault(pool, set()).add(entry.key)
        return {pool: frozenset(keys) for pool, keys in pools.items()}

    @cached_property
    def _size(self) -> int:
        return sum(1 for _ in self.corpus())


def image_bytes(image: Image) -> bytes:
    """The encoded bytes of an image.

    Raises:
        DatasetError: it cannot be made.
        OSError: the file cannot be read.
    """
    if isinstance(image, bytes):
        return image
    return image.read_bytes() if isinstance(image, Path) else image()


def modality_of(text: str | None, images: Sequence[Image]) -> Modality:
    """What an item of this text and these images is.

    Raises:
        DatasetError: there is neither.
    """
    if not images:
        if not text or not text.strip():
            raise DatasetError("neither text nor image")
        return "text"
    return "fused" if text and text.strip() else "image"


def mean_over(tasks: Sequence[Task], name: str) -> Mean:
    """The mean in which every task counts alike."""
    return Mean(name, {task: 1 / len(tasks) for task in tasks})


def mean_of_means(groups: Iterable[Sequence[Task]], name: str) -> Mean:
    """The mean in which every group of tasks counts alike, and within a group every task."""
    groups = list(groups)
    return Mean(name, {task: 1 / len(groups) / len(group) for group in groups for task in group})
