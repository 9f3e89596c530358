"""CIRR as its owners publish it: an image and an edit find the edited image (Liu et al., arXiv 2108.04024).

Captions and splits are those of https://github.com/Cuberick-Orion/CIRR, branch `cirr_dataset`. A query's image is never
returned, and a second task ranks the five images alone that are most like it. Public evaluators give three answers to
one ranking: what is relevant is `target_hard` here, as for CLIP4Cir and composed_image_retrieval, and the numbers by
the soft scores (CIRPLANT, CoVR) stand beside it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from anykey.benchmark.dataset import Card, Dataset, Entry, Hit, Published, Query, Summary, Task
from anykey.benchmark.json_files import JsonRow, read_object, read_rows

SPLIT, SUBSET = "split", "subset"
HIDDEN = "test1"  # whose targets only the test server knows
VERSION = "rc2"  # of the captions and splits
SUBMITTED = {SPLIT: 50, SUBSET: 3}  # names for each query in a submission
METRICS = {SPLIT: "recall", SUBSET: "recall_subset"}  # as submissions call them
SOFT_RULES = {
    SPLIT: ("CIRPLANT recall_top{}", "best soft score among the first k, the reference left out, by CIRR's authors"),
    SUBSET: (
        "CIRPLANT recall_inset_top{}, CoVR Recall_subset@{}",
        "best soft score among the first k of the subset, by CIRR's authors and by CoVR",
    ),
}


class Cirr(Dataset):
    """A directory with CIRR's `captions`, `image_splits` and `img_raw`."""

    name = "CIRR"
    splits = ("val", HIDDEN, "train")
    card = Card(
        measures="finding the image that a text makes of another image, among all images and among five that are alike",
        size="4,181 queries over 2,297 images (val), 4,148 over 2,315 (test1, whose answers are not public)",
        licence="MIT for the captions; the images are NLVR2's, given out for research on request",
        published="https://github.com/Cuberick-Orion/CIRR",
        by_hand=(
            "git clone --branch cirr_dataset https://github.com/Cuberick-Orion/CIRR DIR",
            "ask NLVR2's owners for the images (https://github.com/lil-lab/nlvr/tree/master/nlvr2 has the form)",
            "unpack them to DIR/img_raw, where captions and splits have names such as ./dev/dev-244-0-img0.png",
        ),
    )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """By the captions and splits of any split."""
        return any(
            (root / "captions" / f"cap.{VERSION}.{split}.json").is_file()
            and (root / "image_splits" / f"split.{VERSION}.{split}.json").is_file()
            for split in cls.splits
        )

    def tasks(self) -> list[Task]:
        """The queries among the split's images, and among the others of their subsets."""
        return [
            Task(
                name="cirr",
                title="cirr image,text -> image",
                candidates=SPLIT,
                pool=self._pool,
                headline="success@5",
                key_modality="image",
                cutoffs=(1, 5, 10, 50),
                excludes_references=True,
                aliases=("recall",),
            ),
            Task(
                name="cirr_subset",
                title="cirr subset image,text -> image",
                candidates=SUBSET,
                pool=self._pool,
                headline="success@1",
                key_modality="image",
                cutoffs=(1, 2, 3),
                excludes_references=True,
                aliases=("subset",),
            ),
        ]

    def queries(self, task: Task) -> list[Query]:
        """The split's queries in file order; one of the subset task may only return the five other members.

        Raises:
            DatasetFormatError: a row is wrong, a pairid repeats, or an image is not in the split or not on disk.
        """
        known: set[str] = set()
        queries = []
        for row in self._rows:
            query = self._query(row, task)
            if query.id in known:
                raise row.error(f"pairid {query.id} comes a second time")
            known.add(query.id)
            queries.append(query)
        return queries

    def corpus(self) -> Iterator[Entry]:
        """The split's images in the order of its file.

        Raises:
            DatasetFormatError: the file is wrong.
        """
        for name, path in self._images.items():
            yield Entry(name, images=(path,), pools=(self._pool,), place=f"{self._split_file}: '{name}'")

    def summaries(self, tasks: Sequence[Task]) -> list[Summary]:
        """The mean that papers print of both tasks."""
        by_candidates = {task.candidates: task for task in tasks}
        if len(by_candidates) < 2:
            return []
        parts = {by_candidates[SPLIT]: "success@5", by_candidates[SUBSET]: "success@1"}
        return [Summary("mean of R@5 and R_subset@1", parts)]

    def published(self, task: Task, queries: Sequence[Query], rankings: Sequence[Sequence[Hit]]) -> list[Published]:
        """The numbers by the soft scores of the annotations."""
        name, rule = SOFT_RULES[task.candidates]
        return [
            Published(
                name.replace("{}", str(k)), rule, [_best_soft(*pair, k) for pair in zip(queries, rankings, strict=True)]
            )
            for k in task.cutoffs or ()
        ]

    def extra_files(
        self, rankings: Mapping[Task, Mapping[str, Sequence[Hit]]], scores: Mapping[Task, Mapping[str, float]]
    ) -> dict[str, str]:
        """What the test server takes of test1: the names of each query's first 50 images, and of 3 of its subset."""
        if self.split != HIDDEN:
            return {}
        files = {}
        for task, answers in rankings.items():
            references = {query.id: query.references for query in self.queries(task)}
            submission: dict[str, Any] = {"version": VERSION, "metric": METRICS[task.candidates]}
            for query, hits in answers.items():
                names = [hit.key for hit in hits if hit.key not in references[query]]
                submission[query] = names[: SUBMITTED[task.candidates]]
            files[f"{HIDDEN}_pred_ranks_{METRICS[task.candidates]}.json"] = json.dumps(submission)
        return files

    @property
    def _pool(self) -> str:
        return f"cirr_{self.split}"

    @property
    def _split_file(self) -> Path:
        return self.root / "image_splits" / f"split.{VERSION}.{self.split}.json"

    @cached_property
    def _rows(self) -> list[JsonRow]:
        return read_rows(self.root / "captions" / f"cap.{VERSION}.{self.split}.json")

    @cached_property
    def _images(self) -> dict[str, Path]:
        """Files by name; their paths begin at `img_raw`, or at the root where the images lie there."""
        names = read_object(self._split_file)
        folder = self.root / "img_raw" if (self.root / "img_raw").is_dir() else self.root
        return {name: folder / names.text(name) for name in names.fields}

    def _query(self, row: JsonRow, task: Task) -> Query:
        reference, members = row.text("reference"), row.object("img_set").texts("members")
        if unknown := [name for name in (reference, *members) if name not in self._images]:
            raise row.error(f"image '{unknown[0]}' is not in {self._split_file}")
        if not self._images[reference].is_file():
            raise row.error(f"image {self._images[reference]} does not exist")
        others = tuple(name for name in members if name != reference)
        if len(others) != len(set(members)) - 1 or not others:
            raise row.error(f"members must name the reference and other images, each once, got {', '.join(members)}")
        return Query(
            str(row.number("pairid")),
            row.text("caption"),
            (self._images[reference],),
            self._relevant(row, others),
            within=others if task.candidates == SUBSET else None,
            references=(reference,),
            facts={"target_soft": self._soft(row)},
        )

    def _relevant(self, row: JsonRow, others: Sequence[str]) -> dict[str, int]:
        if self.split == HIDDEN:
            return {}
        target = row.text("target_hard")
        if target not in others:
            raise row.error(f"target_hard '{target}' is none of the members other than the reference")
        return {target: 1}

    def _soft(self, row: JsonRow) -> dict[str, float]:
        if self.split == HIDDEN:
            return {}
        soft = row.object("target_soft").fields
        if wrong := [name for name, value in soft.items() if not isinstance(value, int | float)]:
            raise row.error(f"target_soft of '{wrong[0]}' must be a number")
        return {name: float(value) for name, value in soft.items()}


def _best_soft(query: Query, hits: Sequence[Hit], k: int) -> float:
    """The best soft score among the first k hits, never below 0."""
    ranked = [hit.key for hit in hits if hit.key not in query.references]
    soft: Mapping[str, float] = query.facts["target_soft"]
    return max([0.0, *(soft.get(key, 0.0) for key in ranked[:k])])
