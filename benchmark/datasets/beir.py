"""Any dataset in BEIR's layout: questions, claims and the like find texts (Thakur et al., arXiv 2104.08663).

`corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv`, in which many others publish too. A key's text is its title and
its text, joined as BEIR's own encoder does it. BEIR's evaluator takes every hit away whose id is the query's own; here
it stays, since ids may be alike by chance, and BEIR's number stands beside ours.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from anykey.benchmark.dataset import Card, Dataset, Entry, Hit, Published, Query, Task
from anykey.benchmark.datasets.mbeir import read_jsonl
from anykey.benchmark.datasets.mixbench import read_grades
from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.benchmark.metrics import measured
from anykey.sources.rows import RowError, text_of

HEADLINE = "ndcg@10"
CUTOFFS = (1, 3, 5, 10, 100)  # BEIR's, but for 1,000
RULE = "hits whose id is the query's own are taken away first, as BEIR's evaluator does by default"


@dataclass(frozen=True)
class Row:
    """One row of queries or of the corpus.

    Attributes:
        path: Its file.
        line: Its number, from 1.
        id: Its name.
        text: Its title and text; None where it has neither.
    """

    path: Path
    line: int
    id: str
    text: str | None

    def error(self, reason: str) -> DatasetFormatError:
        """What is wrong with it, and where it stands."""
        return DatasetFormatError(self.path, self.line, reason)


@dataclass(frozen=True)
class Corpus:
    """What one reading of the corpus tells.

    Attributes:
        num_rows: How many rows it has.
        empty: Ids of those that have neither title nor text.
        found: Of the ids that queries and judgements name, those that it has, empty or not.
    """

    num_rows: int
    empty: frozenset[str]
    found: frozenset[str]


class Beir(Dataset):
    """A directory with `corpus.jsonl`, `queries.jsonl` and `qrels`."""

    name = "BEIR"
    splits = ("test", "dev", "train")
    card = Card(
        measures="finding texts by texts; each of BEIR's datasets is a directory, as are others in its layout",
        size="from 3,633 keys (NFCorpus) to 8.8 million (MS MARCO)",
        licence="each dataset's own terms",
        published="https://github.com/beir-cellar/beir",
        by_hand=(
            "fetch one of its datasets, such as "
            "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/scifact.zip",
            "unzip it, so that DIR has corpus.jsonl, queries.jsonl and qrels",
        ),
    )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """By both files and the folder of judgements."""
        return all((root / f"{name}.jsonl").is_file() for name in ("corpus", "queries")) and (root / "qrels").is_dir()

    def tasks(self) -> list[Task]:
        """The split's queries among the whole corpus.

        Raises:
            DatasetError: there are no judgements of the split.
        """
        if not self._qrels.is_file():
            others = ", ".join(sorted(path.stem for path in self._qrels.parent.glob("*.tsv")))
            raise DatasetError(f"{self._qrels} does not exist; splits with judgements: {others or 'none'}")
        name = self.root.resolve().name
        return [
            Task(
                name=name,
                title=f"{name} text -> text",
                candidates="corpus",
                pool=None,
                headline=HEADLINE,
                key_modality="text",
                cutoffs=CUTOFFS,
            )
        ]

    def queries(self, task: Task) -> list[Query]:
        """The judged queries in file order; a key of a query's own id is its reference.

        Raises:
            DatasetFormatError: a row is wrong, an id comes twice, a judged query has no text or does not exist, or a
                judgement names a key that is not there.
        """
        queries: dict[str, Query] = {}
        for row in self._rows("queries", "text"):
            if row.id in queries:
                raise row.error(f"query '{row.id}' comes a second time")
            if row.id in self._judged:
                if row.text is None:
                    raise row.error(f"query '{row.id}' has no text")
                own = (row.id,) if row.id in self._corpus.found else ()
                queries[row.id] = Query(row.id, row.text, relevant=self._judged[row.id], references=own)
        if unasked := [id for id in self._judged if id not in queries]:
            raise DatasetFormatError(
                self._qrels, None, f"{len(unasked)} judged queries do not exist, the first is {unasked[0]}"
            )
        return list(queries.values())

    def corpus(self) -> Iterator[Entry]:
        """Every row that has a title or a text, in file order.

        Raises:
            DatasetFormatError: a row is wrong.
        """
        for row in self._rows("corpus", "title", "text"):
            if row.text is not None:
                yield Entry(row.id, row.text, place=f"{row.path}:{row.line}")

    def num_keys(self) -> int:
        """How many rows have a title or a text.

        Raises:
            DatasetFormatError: a row is wrong.
        """
        return self._corpus.num_rows - len(self._corpus.empty)

    def warnings(self, tasks: Sequence[Task]) -> list[str]:
        """How many rows of the corpus are empty, and how many queries have no relevant key."""
        found, empty = [], self._corpus.empty
        if empty:
            named = sum(key in empty for relevant in self._judged.values() for key in relevant)
            left_out = f"{len(empty)} of {self._corpus.num_rows} rows of the corpus have neither title nor text"
            found.append(f"{left_out} and are no keys; {named} judgements ask for them")
        unanswered = {query for _, query, _, _ in self._grades} - set(self._judged)
        if unanswered:
            found.append(f"{len(unanswered)} queries without a relevant key are left out, which BEIR counts as 0")
        return found

    def published(self, task: Task, queries: Sequence[Query], rankings: Sequence[Sequence[Hit]]) -> list[Published]:
        """BEIR's number, where it is another than ours."""
        ranked = {query.id: [hit.key for hit in hits] for query, hits in zip(queries, rankings, strict=True)}
        others = {query: [key for key in keys if key != query] for query, keys in ranked.items()}
        judged = {query.id: query.relevant for query in queries}
        ours, theirs = (measured([HEADLINE], keys, judged)[HEADLINE].tolist() for keys in (ranked, others))
        if all(math.isclose(one, other, abs_tol=1e-9) for one, other in zip(ours, theirs, strict=True)):
            return []
        return [Published("nDCG@10 of BEIR", RULE, theirs)]

    @property
    def _qrels(self) -> Path:
        return self.root / "qrels" / f"{self.split}.tsv"

    @cached_property
    def _grades(self) -> list[tuple[int, str, str, int]]:
        """Line, query, key and grade of every judgement."""
        return list(read_grades(self._qrels))

    @cached_property
    def _judged(self) -> dict[str, dict[str, int]]:
        """Grades above 0 by query and key."""
        judged: dict[str, dict[str, int]] = {}
        for line, query, key, grade in self._grades:
            if grade > 0 and key not in self._corpus.found:
                raise DatasetFormatError(self._qrels, line, f"key '{key}' is not in {self.root / 'corpus.jsonl'}")
            if grade > 0:
                judged.setdefault(query, {})[key] = grade
        return judged

    @cached_property
    def _corpus(self) -> Corpus:
        named = {name for _, query, key, _ in self._grades for name in (query, key)}  # a corpus may have millions
        num_rows, empty, found = 0, set(), set()
        for row in self._rows("corpus", "title", "text"):
            num_rows += 1
            if row.text is None:
                empty.add(row.id)
            if row.id in named:
                found.add(row.id)
        return Corpus(num_rows, frozenset(empty), frozenset(found))

    def _rows(self, stem: str, *names: str) -> Iterator[Row]:
        """The rows of a file; their text is that of these fields, joined."""
        path = self.root / f"{stem}.jsonl"
        for line, fields in read_jsonl(path):
            id = fields.get("_id")
            if not isinstance(id, str) or not id.strip():
                raise DatasetFormatError(path, line, f"_id must be a string that is not blank, got {id!r}")
            try:
                parts = [text_of(fields, name) for name in names]
            except RowError as error:
                raise DatasetFormatError(path, line, error.reason) from error
            yield Row(path, line, id, " ".join(filter(None, parts)).strip() or None)
