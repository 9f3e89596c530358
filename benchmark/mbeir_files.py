"""Writes datasets in M-BEIR's directory layout: the counterpart of the reader in `datasets/mbeir.py`."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anykey.benchmark.datasets.mbeir import TASK_NAMES, id_order

NUM_PROMPTS = 4

Row = dict[str, Any]


def candidate_row(did: str, text: str | None, image: str | None, source: Mapping[str, Any]) -> Row:
    """One row of a candidate file.

    Args:
        did: Key, "dataset:number".
        text: Its text, or None.
        image: Path of its image relative to the dataset's root, or None.
        source: Where the key comes from; kept as JSON inside the JSON, as M-BEIR does.
    """
    return {
        "txt": text,
        "img_path": image,
        "modality": _modality(text, image),
        "did": did,
        "src_content": json.dumps(source),
    }


def query_row(
    qid: str, text: str | None, image: str | None, positives: Iterable[str], task: int, source: Mapping[str, Any]
) -> Row:
    """One row of a query file; `positives` are the dids that answer it, see `candidate_row` for the rest."""
    return {
        "qid": qid,
        "query_txt": text,
        "query_img_path": image,
        "query_modality": _modality(text, image),
        "query_src_content": json.dumps(source),
        "pos_cand_list": sorted(positives, key=id_order),
        "neg_cand_list": [],
        "task_id": task,
    }


def write_task(root: Path, dataset: str, task: int, queries: Sequence[Row], candidates: Sequence[Row]) -> None:
    """Writes one test task: query file, local pool, and qrels with five columns (query, 0, key, 1, task)."""
    stem = f"mbeir_{dataset}_task{task}"
    write_jsonl(root / "cand_pool" / "local" / f"{stem}_cand_pool.jsonl", candidates)
    write_jsonl(root / "query" / "test" / f"{stem}_test.jsonl", queries)
    lines = [f"{row['qid']} 0 {did} 1 {task}\n" for row in queries for did in row["pos_cand_list"]]
    _write(root / "qrels" / "test" / f"{stem}_test_qrels.txt", "".join(lines))


def write_global_pool(root: Path, candidates: Iterable[Row]) -> None:
    """Writes the union of the local test pools, each key once, in the order of ids."""
    union = {row["did"]: row for row in candidates}
    rows = [union[did] for did in sorted(union, key=id_order)]
    write_jsonl(root / "cand_pool" / "global" / "mbeir_union_test_cand_pool.jsonl", rows)


def write_instructions(root: Path, dataset: str, dataset_id: int, prompts: Mapping[int, Sequence[str]]) -> None:
    """Writes the query prompts by task number; missing ones stay empty columns."""
    path = root / "instructions" / "query_instructions.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = ["query_modality", "cand_modality", "dataset_name", "dataset_id"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([*header, *(f"prompt_{i}" for i in range(1, NUM_PROMPTS + 1))])
        for task, texts in prompts.items():
            padded = [*texts, *[""] * NUM_PROMPTS][:NUM_PROMPTS]
            writer.writerow([*TASK_NAMES[task].split(" -> "), dataset, dataset_id, *padded])


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Writes one JSON object per line, ASCII only."""
    _write(path, "".join(json.dumps(row) + "\n" for row in rows))


def _modality(text: str | None, image: str | None) -> str:
    """M-BEIR's word for what is present, the image first."""
    return ",".join(name for name, part in (("image", image), ("text", text)) if part)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
