"""A quality report over the miniature of all 32 rows of M-BEIR, as a finished run would have put it together."""

import tarfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Hit, Task
from anykey.benchmark.datasets.mbeir import LOCAL, MBeir
from anykey.benchmark.page.worst import Measured, worst_queries
from anykey.benchmark.report import Report
from anykey.benchmark.scoring import score
from anykey.benchmark.settings import QualitySettings

ARCHIVE = Path(__file__).parent / "data" / "bench-mini" / "mbeir.tar.xz"
RUNS = "uniir/retrieval_results/CLIP_SF/Large/Instruct/InBatch/run_files"
NOBODY = "-1:9999999"  # UniIR's word for a pool that had no more
INFO = {
    "model": {"name": "fake", "fusion": "raw", "fingerprint": "sha256:feed"},
    "index": {"version": "7", "num_keys": 4, "modalities": {"text": 1, "image": 2, "fused": 1}, "pools": {}},
}


def miniature(folder: Path) -> MBeir:
    """Unpacks the miniature."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return MBeir(folder / "mbeir" / "M-BEIR", "test")


def report_of(dataset: MBeir, worst: int = 5) -> Report:
    """What UniIR's run files score, with the worst queries of every task."""
    modalities = {entry.key: entry.modality for entry in dataset.corpus()}
    settings = QualitySettings(dataset=dataset.root, worst=worst)
    measured: list[Measured] = []
    for task in dataset.tasks():
        queries, answers = dataset.queries(task), answers_of(dataset, task, modalities)
        result = score(task, len(modalities), queries, answers, settings.cutoffs, source_of=dataset.source_of)
        measured.append((result, queries, answers))
    found, unread = worst_queries(measured, dataset, worst)
    report = Report.of(settings, dataset, INFO, [result for result, *_ in measured], ["a miniature"])
    return replace(report, worst=found, unread=unread)


def answers_of(dataset: MBeir, task: Task, modalities: dict[str, str]) -> dict[str, Answer]:
    """A task's answers, of its run file."""
    kind = "single" if task.candidates == LOCAL else "union"
    (path,) = (dataset.root.parent / RUNS).glob(f"{task.name}_{kind}_pool_test_*")
    hits = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        qid, _, did, _, value, *_ = line.split()
        if did != NOBODY:
            hits[qid].append(Hit(did, float(value), modalities[did]))
    return {qid: Answer(tuple(ranked), 0.002, {"total": 1.0}, False, 0, ("7", "f")) for qid, ranked in hits.items()}
