"""Gives the ShapesWorld tasks their ids and image paths, and writes them in M-BEIR layout."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anykey.benchmark.mbeir_files import (
    Row,
    candidate_row,
    query_row,
    write_global_pool,
    write_instructions,
    write_task,
)
from anykey.benchmark.shapesworld.draw import Picture
from anykey.benchmark.shapesworld.scene import Scene
from anykey.benchmark.shapesworld.tasks import Key, Query, Task

DATASET_ID = 10  # M-BEIR's own datasets are 0 to 9
DATASET_NAME = "shapesworld"
IMAGES = Path("mbeir_images") / f"{DATASET_NAME}_images"
IMAGES_PER_FOLDER = 1000

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
        union: list[Row] = []
        num_queries = 0
        for task in tasks:
            ids = {key: f"{DATASET_ID}:{len(union) + i}" for i, key in enumerate(task.pool, start=1)}
            candidates = [self._candidate(ids[key], key) for key in task.pool]
            queries = [
                self._query(f"{DATASET_ID}:{num_queries + i}", query, [ids[key] for key in positives], task.number)
                for i, (query, positives) in enumerate(task.queries, start=1)
            ]
            write_task(self.root, DATASET_NAME, task.number, queries, candidates)
            union += candidates
            num_queries += len(queries)
        write_global_pool(self.root, union)
        write_instructions(self.root, DATASET_NAME, DATASET_ID, PROMPTS)
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

    def _candidate(self, did: str, key: Key) -> Row:
        """One row of a candidate file; the key's scene is noted, so that a reader can check the judgements."""
        text = key.caption.text if key.caption else None
        return candidate_row(did, text, self._image(key.picture), _told(key.scene))

    def _query(self, qid: str, query: Query, positives: list[str], task: int) -> Row:
        """One row of a query file, with the scene that is looked for."""
        return query_row(qid, query.text, self._image(query.picture), positives, task, {"target": query.target.code})


def _told(scene: Scene) -> dict[str, Any]:
    """What is noted of a scene, as metadata that can be filtered and counted by."""
    return {
        "scene": scene.code,
        "background": scene.background,
        "figures": len(scene.figures),
        "shapes": sorted({figure.shape for figure in scene.figures}),
        "colours": sorted({figure.colour for figure in scene.figures}),
    }
