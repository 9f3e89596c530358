"""M-BEIR's directory layout for the ShapesWorld tasks: queries, pools, qrels and instructions."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.shapesworld.draw import Picture
from benchmark.shapesworld.tasks import Key, Query, Task

DATASET_ID = 10  # M-BEIR's own datasets are 0 to 9
DATASET_NAME = "shapesworld"
IMAGES = Path("mbeir_images") / f"{DATASET_NAME}_images"
IMAGES_PER_FOLDER = 1000

MODALITIES = {  # task: query modality, candidate modality
    0: ("text", "image"),
    1: ("text", "text"),
    2: ("text", "image,text"),
    3: ("image", "text"),
    4: ("image", "image"),
    6: ("image,text", "text"),
    7: ("image,text", "image"),
    8: ("image,text", "image,text"),
}
PROMPTS = {
    0: ("Find the drawing that fits this description.", "Show me the picture of shapes described here."),
    1: ("Find another description of the same scene.", "Retrieve a text about the scene described here."),
    2: ("Find the page that shows what is described.", "Retrieve a drawing with text that fits this."),
    3: ("Find a description of this drawing.", "Retrieve the text that says what is shown."),
    4: ("Find another drawing of the same scene.", "Show me the same shapes drawn again."),
    6: ("Find the answer to the question about this drawing.", "Retrieve the sentence that answers this."),
    7: ("Find the drawing with the change described.", "Show me this scene with that change."),
    8: ("Find the page that answers the question about this drawing.", "Retrieve the page about this scene."),
}


@dataclass
class Layout:
    """Writes tasks below a root and gives out ids and image paths on the way.

    Attributes:
        root: The dataset directory.
        images: Absolute path of every picture, in the order they were first needed.
    """

    root: Path
    images: dict[Picture, Path] = field(default_factory=dict)

    def write_tasks(self, tasks: Sequence[Task]) -> dict[Picture, Path]:
        """Writes all JSONL, qrels and instruction files.

        Args:
            tasks: The tasks, in their order in the id spaces.

        Returns:
            The pictures to draw, and where each goes; their folders exist.
        """
        union: list[dict[str, Any]] = []
        num_queries = 0
        for task in tasks:
            stem = f"mbeir_{DATASET_NAME}_task{task.number}"
            ids = {key: f"{DATASET_ID}:{len(union) + i}" for i, key in enumerate(task.pool, start=1)}
            candidates = [self._candidate(ids[key], key) for key in task.pool]
            rows = [
                self._query(f"{DATASET_ID}:{num_queries + i}", query, [ids[key] for key in positives], task.number)
                for i, (query, positives) in enumerate(task.queries, start=1)
            ]
            self._write_jsonl(f"cand_pool/local/{stem}_cand_pool.jsonl", candidates)
            self._write_jsonl(f"query/test/{stem}_test.jsonl", rows)
            self._write_qrels(f"qrels/test/{stem}_test_qrels.txt", rows)
            union += candidates
            num_queries += len(rows)
        self._write_jsonl("cand_pool/global/mbeir_union_test_cand_pool.jsonl", union)
        self._write_instructions()
        return self.images

    def _image(self, picture: Picture | None) -> str | None:
        """Path of the picture as the JSONL files give it, relative to the root."""
        if picture is None:
            return None
        if picture not in self.images:
            number = len(self.images)
            folder = self.root / IMAGES / f"{number // IMAGES_PER_FOLDER:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            self.images[picture] = folder / f"{number:06d}.jpg"
        return self.images[picture].relative_to(self.root).as_posix()

    def _candidate(self, did: str, key: Key) -> dict[str, Any]:
        """One row of a candidate file."""
        image, text = self._image(key.picture), key.caption.text if key.caption else None
        return {
            "txt": text,
            "img_path": image,
            "modality": ",".join(name for name, part in (("image", image), ("text", text)) if part),
            "did": did,
            "src_content": json.dumps({"scene": key.scene.code}),
        }

    def _query(self, qid: str, query: Query, positives: list[str], task: int) -> dict[str, Any]:
        """One row of a query file."""
        image = self._image(query.picture)
        return {
            "qid": qid,
            "query_txt": query.text,
            "query_img_path": image,
            "query_modality": ",".join(name for name, part in (("image", image), ("text", query.text)) if part),
            "query_src_content": json.dumps({"target": query.target.code}),
            "pos_cand_list": sorted(positives, key=lambda did: int(did.split(":")[1])),
            "neg_cand_list": [],
            "task_id": task,
        }

    def _write_jsonl(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        self._write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def _write_qrels(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Five columns, as M-BEIR has them: query, 0, key, 1, task."""
        lines = [f"{row['qid']} 0 {did} 1 {row['task_id']}\n" for row in rows for did in row["pos_cand_list"]]
        self._write(name, "".join(lines))

    def _write_instructions(self) -> None:
        path = self.root / "instructions" / "query_instructions.tsv"
        path.parent.mkdir(parents=True)
        header = ["query_modality", "cand_modality", "dataset_name", "dataset_id"]
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow([*header, *(f"prompt_{i}" for i in range(1, 5))])
            for task, (query, candidate) in MODALITIES.items():
                writer.writerow([query, candidate, DATASET_NAME, DATASET_ID, *PROMPTS[task], "", ""])

    def _write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
