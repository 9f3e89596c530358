"""A task as mteb has them, over rows of ours; apart from its tests, for mteb takes seconds to load."""

from collections.abc import Mapping
from typing import Any

import mteb
from datasets import Dataset, Features, Image, Value
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from anykey.benchmark.dataset import Entry, Query, image_bytes

__all__ = ["THEIRS", "Dataset", "MixedSearch", "mteb", "table"]

THEIRS = {"ndcg@10": "ndcg_cut_10", "recall@5": "recall_5", "success@5": "success_5"}
FEATURES = Features({"id": Value("string"), "text": Value("string"), "image": Image()})


def table(rows: list[tuple[str, Entry | Query]]) -> Dataset:
    """Rows as mteb's datasets have them, a missing text empty and a missing image None."""
    columns: dict[str, list[Any]] = {"id": [], "text": [], "image": []}
    for name, row in rows:
        columns["id"].append(name)
        columns["text"].append(row.text or "")
        columns["image"].append({"bytes": image_bytes(row.images[0]), "path": None} if row.images else None)
    return Dataset.from_dict(columns, features=FEATURES)


class MixedSearch(AbsTaskRetrieval):
    """A task of mteb over a corpus of texts, images and pages; it also gives its scores before it rounds them."""

    metadata = TaskMetadata(
        name="MixedSearch",
        description="Drawn scenes.",
        type="Any2AnyRetrieval",
        category="it2it",
        modalities=["text", "image"],
        dataset={"path": "none", "revision": "1"},
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def __init__(self, corpus: Dataset, queries: list[Query], kind: str = "it2it") -> None:
        self.metadata = self.metadata.model_copy(update={"category": kind})
        super().__init__()
        self.dataset = {
            "default": {
                "test": {
                    "corpus": corpus,
                    "queries": table([(query.id, query) for query in queries]),
                    "relevant_docs": {query.id: dict(query.relevant) for query in queries},
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True

    def task_specific_scores(self, scores: Mapping[str, Mapping[str, float]], *args: Any, **named: Any) -> Any:
        means = {name: [row[name] for row in scores.values()] for name in THEIRS.values()}
        return {f"exact {name}": sum(values) / len(values) for name, values in means.items()}
