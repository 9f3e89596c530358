"""Visual documents of MMEB's version 2: questions find the page of a document as a picture (Meng et al., 2507.04590).

24 tasks in BEIR's form, as tables of `queries`, `corpus` and `qrels`: those of ViDoRe 1 and 2, VisRAG, ViDoSeek and
MMLongBench. The owners' archive has a folder for each repository that it was made of, which is what folders here are
called; a task's own name is known too. Keys have no instruction, as in `mmeb.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from anykey.benchmark.dataset import Card, Dataset, Entry, Hub, Mean, Query, Task, mean_over
from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.benchmark.parquet_rows import read_parquet

INSTRUCTION = "Find a document image that matches the given query:"
HEADLINE = "ndcg@5"
CUTOFFS = (1, 5, 10)
BASES = ("visdoc-tasks/data", "visdoc-tasks", "data", ".")  # below the directory, where the folders are
MULTILINGUAL = "_multilingual"
TABLES = ("queries", "corpus", "qrels")
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {  # names of each task's folder, the right one first
    "ViDoRe 1": {
        "ViDoRe_arxivqa": ("arxivqa_test_subsampled_beir",),
        "ViDoRe_docvqa": ("docvqa_test_subsampled_beir",),
        "ViDoRe_infovqa": ("infovqa_test_subsampled_beir",),
        "ViDoRe_tabfquad": ("tabfquad_test_subsampled_beir",),
        "ViDoRe_tatdqa": ("tatdqa_test_beir",),
        "ViDoRe_shiftproject": ("shiftproject_test_beir",),
        **{
            f"ViDoRe_syntheticDocQA_{topic}": (f"syntheticDocQA_{topic}_test_beir",)
            for topic in ("artificial_intelligence", "energy", "government_reports", "healthcare_industry")
        },
    },
    "ViDoRe 2": {
        "ViDoRe_esg_reports_human_labeled_v2": ("esg_reports_human_labeled_v2",),
        **{
            f"ViDoRe_{topic}_v2{MULTILINGUAL}": (f"{topic}_v2", f"ViDoRe_{topic}_v2")
            for topic in ("biomedical_lectures", "economics_reports", "esg_reports")
        },
    },
    "VisRAG": {
        f"VisRAG_{name}": (f"VisRAG-Ret-Test-{name}",)
        for name in ("ArxivQA", "ChartQA", "MP-DocVQA", "SlideVQA", "InfoVQA", "PlotQA")
    },
    "out of distribution": {
        "ViDoSeek-page": ("ViDoSeek-page-fixed",),
        "ViDoSeek-doc": ("ViDoSeek",),
        "MMLongBench-page": ("MMLongBench-page-fixed",),
        "MMLongBench-doc": (),
    },
}
REPAIRED = {"ViDoSeek-page": "ViDoSeek-page-fixed", "MMLongBench-page": "MMLongBench-page-fixed"}
ALIASES = {"ViDoRe 1": "vidore", "ViDoRe 2": "vidore2", "VisRAG": "visrag", "out of distribution": "ood"}


@dataclass(frozen=True)
class Subset:
    """One task's files.

    Attributes:
        task: Its name.
        group: Which of `GROUPS` it is of.
        folder: Where its tables are.
    """

    task: str
    group: str
    folder: Path

    def files(self, table: str) -> list[Path]:
        """A table's files, in the order of their names.

        Raises:
            DatasetError: there are none.
        """
        found = sorted((self.folder / table).glob("*.parquet"))
        if not found:
            raise DatasetError(f"{self.folder / table} has no .parquet files")
        return found

    def rows(
        self, table: str, required: Sequence[str], optional: Sequence[str] = ()
    ) -> Iterator[tuple[Path, int, dict[str, Any]]]:
        """File, number from 1 and columns of every row of a table.

        Raises:
            DatasetFormatError: a file is garbled, or lacks a column.
        """
        for path in self.files(table):
            for number, row in read_parquet(path, required, optional):
                yield path, number, row


class VisualDocuments(Dataset):
    """A directory with `visdoc-tasks/data`, as MMEB's version 2 is unpacked."""

    name = "MMEB v2, visual documents"
    splits = ("test",)
    card = Card(
        measures="finding the pages of documents, which are pictures, that answer a question",
        size="24 tasks, each with its own pages",
        licence="Apache 2.0 for the files; each source dataset has its own terms",
        published="https://huggingface.co/datasets/TIGER-Lab/MMEB-V2",
        hub=(
            Hub("TIGER-Lab/MMEB-V2", ("visdoc-tasks/visdoc-tasks.data.tar.gz",)),
            *(Hub(f"VLM2Vec/{name}", ("*.parquet",), f"visdoc-tasks/data/{name}") for name in REPAIRED.values()),
        ),
        by_hand=("tar -xzf DIR/visdoc-tasks/visdoc-tasks.data.tar.gz -C DIR/visdoc-tasks",),
    )
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"languages": ("all", "english")}

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """By the folder of any task with its three tables."""
        return bool(_subsets(root))

    def tasks(self) -> list[Task]:
        """One task for each folder, those of papers' tables first.

        Raises:
            DatasetError: there is no folder of a task.
        """
        if not self._subsets:
            raise DatasetError(f"{self.root} is no {self.name}: expected tables such as {BASES[0]}/ViDoSeek/qrels/")
        return [
            Task(
                name=self._name(subset),
                title=f"{self._name(subset)} text -> image",
                candidates="own pages",
                pool=subset.task,
                headline=HEADLINE,
                key_modality="image",
                cutoffs=CUTOFFS,
                ties_lose=True,
                aliases=(ALIASES[subset.group], self._name(subset)),
            )
            for subset in self._subsets.values()
        ]

    def queries(self, task: Task) -> list[Query]:
        """The task's queries in file order, of the chosen languages.

        Raises:
            DatasetFormatError: a row is wrong, a query comes twice or has no judgement, or one names a key that is
                not there.
        """
        subset = self._subsets[str(task.pool)]
        judged = self._judgements(subset)
        found: dict[str, Query] = {}
        known: set[str] = set()
        for path, number, row in subset.rows("queries", ("query-id", "query"), ("language",)):
            name = _name_of(row, "query-id", path, number)
            text = row["query"]
            if not isinstance(text, str) or not text.strip():
                raise DatasetFormatError(path, number, f"query '{name}' has no text")
            if name in known:
                raise DatasetFormatError(path, number, f"query '{name}' comes a second time")
            known.add(name)
            if self.options["languages"] == "english" and row.get("language", "english") != "english":
                continue
            if name not in judged:
                raise DatasetFormatError(path, number, f"query '{name}' has no judgement above 0")
            text = text.strip()
            found[name] = Query(name, text, (), judged[name], INSTRUCTION, f"{INSTRUCTION} {text}")
        if unasked := [name for name in judged if name not in known]:
            raise DatasetFormatError(
                subset.files("qrels")[0], None, f"{len(unasked)} judged queries do not exist, such as '{unasked[0]}'"
            )
        return list(found.values())

    def corpus(self) -> Iterator[Entry]:
        """The pages of all tasks, each named by its task and id.

        Raises:
            DatasetFormatError: a row is wrong, or an id comes twice in a task.
        """
        for subset in self._subsets.values():
            known: set[str] = set()
            for path, number, row in subset.rows("corpus", ("corpus-id", "image")):
                name = _name_of(row, "corpus-id", path, number)
                if name in known:
                    raise DatasetFormatError(path, number, f"key '{name}' comes a second time")
                known.add(name)
                cell = row["image"]
                image = cell.get("bytes") if isinstance(cell, dict) else cell
                if not isinstance(image, bytes) or not image:
                    raise DatasetFormatError(path, number, f"key '{name}' has no image in the file")
                place = f"{path}: row {number}"
                yield Entry(_key(subset, name), images=(image,), pools=(subset.task,), place=place)

    def keys(self, pool: str) -> frozenset[str]:
        """The keys of one task, for which no image is read.

        Raises:
            DatasetFormatError: As for `corpus`.
        """
        if pool not in self._keys:
            subset = self._subsets[pool]
            rows = subset.rows("corpus", ("corpus-id",))
            names = (_name_of(row, "corpus-id", path, number) for path, number, row in rows)
            self._keys[pool] = frozenset(_key(subset, name) for name in names)
        return self._keys[pool]

    def num_keys(self) -> int:
        """How many pages the tasks have together.

        Raises:
            DatasetFormatError: As for `corpus`.
        """
        return sum(len(self.keys(subset.task)) for subset in self._subsets.values())

    def means(self, tasks: Sequence[Task]) -> list[Mean]:
        """Of each of the four groups, and of all, which the leaderboard calls the visual documents' overall."""
        if len(tasks) < 2:
            return []
        groups = {group: [task for task in tasks if self._subsets[str(task.pool)].group == group] for group in GROUPS}
        partial = {group: some for group, some in groups.items() if 0 < len(some) < len(tasks)}
        return [
            *(mean_over(some, f"mean over {group}") for group, some in partial.items()),
            mean_over(tasks, "mean over tasks"),
        ]

    def warnings(self, tasks: Sequence[Task]) -> list[str]:
        """Which of the tasks are of files that the owners have replaced since."""
        return [
            f"{pool}: its owners have replaced these files by {REPAIRED[pool]}; numbers of the two cannot be compared"
            for pool in dict.fromkeys(str(task.pool) for task in tasks)
            if pool in REPAIRED and self._subsets[pool].folder.name != REPAIRED[pool]
        ]

    @cached_property
    def _subsets(self) -> dict[str, Subset]:
        return {subset.task: subset for subset in _subsets(self.root)}

    @cached_property
    def _keys(self) -> dict[str, frozenset[str]]:
        return {}

    def _name(self, subset: Subset) -> str:
        """What the owners call the task with the chosen languages."""
        return subset.task.removesuffix(MULTILINGUAL) if self.options["languages"] == "english" else subset.task

    def _judgements(self, subset: Subset) -> dict[str, dict[str, int]]:
        """Grades above 0, by query and key; of a pair that comes twice the higher one, as the owners take it."""
        keys = self.keys(subset.task)
        judged: dict[str, dict[str, int]] = {}
        for path, number, row in subset.rows("qrels", ("query-id", "corpus-id", "score")):
            grade = row["score"]
            if not isinstance(grade, int) or isinstance(grade, bool):
                raise DatasetFormatError(path, number, f"score must be a whole number, got {grade!r}")
            if grade <= 0:
                continue
            query, name = (_name_of(row, column, path, number) for column in ("query-id", "corpus-id"))
            key = _key(subset, name)
            if key not in keys:
                raise DatasetFormatError(path, number, f"key '{name}' is not in the corpus of {subset.task}")
            grades = judged.setdefault(query, {})
            grades[key] = max(grade, grades.get(key, 0))
        return judged


def _subsets(root: Path) -> list[Subset]:
    """The tasks whose folder is here, in the order of papers' tables."""
    bases = [base for base in dict.fromkeys(root / base for base in BASES) if base.is_dir()]
    found = []
    for group, tasks in GROUPS.items():
        for task, folders in tasks.items():
            places = [base / name for name in (*folders, task) for base in bases]
            folder = next((place for place in places if all((place / table).is_dir() for table in TABLES)), None)
            if folder is not None:
                found.append(Subset(task, group, folder))
    return found


def _key(subset: Subset, name: str) -> str:
    return f"{subset.task}/{name}"


def _name_of(row: Mapping[str, Any], column: str, path: Path, number: int) -> str:
    """A name, which some files have as a number.

    Raises:
        DatasetFormatError: it is neither, or blank.
    """
    name = row[column]
    if not isinstance(name, str | int) or isinstance(name, bool) or not str(name).strip():
        raise DatasetFormatError(path, number, f"{column} must be a name, got {name!r}")
    return str(name)
