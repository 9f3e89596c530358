"""The tasks of a dataset in M-BEIR layout that are searched in their own pools, by number."""

from pathlib import Path

from anykey.benchmark.dataset import Entry, Task
from anykey.benchmark.datasets.mbeir import LOCAL, MBeir


def local_tasks(dataset: MBeir) -> dict[int, Task]:
    """Task number to task; a dataset has one of each here."""
    return {int(task.aliases[0]): task for task in dataset.tasks() if task.candidates == LOCAL}


def pool_of(dataset: MBeir, task: Task) -> dict[str, Entry]:
    """The keys of the task's own pool."""
    return {entry.key: entry for entry in dataset.entries(dataset.files[task.name].pool)}


def image_of(images: tuple[Path | bytes, ...]) -> Path | None:
    """The one image file, or None where there is none."""
    for image in images:
        assert isinstance(image, Path)
        return image
    return None
