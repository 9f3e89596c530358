"""Writes a ShapesWorld dataset: M-BEIR's directory for the test tasks, WebDataset shards for the pairs.

Pictures are drawn in a process pool; since a picture depends on nothing but its scene and style, the files are
the same bytes whatever the number of processes.
"""

import json
import multiprocessing
import random
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from anykey.benchmark.directory import built_aside, is_current, write_manifest
from anykey.benchmark.settings import ShapesWorldSettings
from anykey.benchmark.shapesworld.captions import training_captions
from anykey.benchmark.shapesworld.draw import Picture, draw_jpegs
from anykey.benchmark.shapesworld.layout import DATASET_ID, DATASET_NAME, Layout
from anykey.benchmark.shapesworld.scene import Scene, sample_scene
from anykey.benchmark.shapesworld.tasks import TASKS, Task, World, build_task
from anykey.benchmark.shards import Member, write_shard
from anykey.program.machine import num_cores
from anykey.program.progress import progress
from anykey.program.settings import plain_console

GENERATOR = "anykey-bench shapesworld"
GENERATOR_VERSION = 3
CHUNK = 100  # pictures one process draws at a time


@dataclass(frozen=True)
class Plan:
    """Everything that will be written, before a pixel is drawn."""

    tasks: tuple[Task, ...]
    train: tuple[Scene, ...]
    val: tuple[Scene, ...]


def run(settings: ShapesWorldSettings) -> int:
    """The command `anykey-bench shapesworld`: draws the dataset unless it is there already.

    Returns:
        The exit code, 0.

    Raises:
        DatasetExistsError: the output directory holds something else.
    """
    console = plain_console(stderr=True)
    recipe = recipe_of(settings)
    if is_current(settings.output, recipe) and not settings.redraw:
        console.print(f"ShapesWorld is up to date in {settings.output}")
        return 0
    with built_aside(settings.output) as root:
        plan = make_plan(settings)
        write_dataset(root, plan, settings)
        write_manifest(root, GENERATOR, recipe, contents_of(plan))
    console.print(f"ShapesWorld is in {settings.output}")
    return 0


def recipe_of(settings: ShapesWorldSettings) -> dict[str, Any]:
    """What decides the dataset's bytes."""
    chosen = settings.model_dump(mode="json", exclude={"config", "output", "workers", "redraw"})
    return {"version": GENERATOR_VERSION, **chosen}


def contents_of(plan: Plan) -> dict[str, Any]:
    """What the dataset holds, for its manifest."""
    tasks = {
        f"mbeir_{DATASET_NAME}_task{task.number}": {"queries": len(task.queries), "keys": len(task.pool)}
        for task in plan.tasks
    }
    return {
        "name": DATASET_NAME,
        "dataset_id": DATASET_ID,
        "pairs": {"train": len(plan.train), "val": len(plan.val)},
        "tasks": tasks,
    }


def make_plan(settings: ShapesWorldSettings) -> Plan:
    """Chooses all scenes: first the test tasks, then pairs whose scenes no test task and no other pair has."""
    world = World()
    tasks = tuple(
        build_task(
            world,
            number,
            settings.seed,
            settings.queries_per_task,
            settings.near_misses_per_query,
            settings.distractors_per_task,
        )
        for number in TASKS
    )
    val = _new_scenes(world.codes, f"shapesworld {settings.seed} val", settings.val_scenes)
    train = _new_scenes(world.codes, f"shapesworld {settings.seed} train", settings.train_scenes)
    return Plan(tasks, train, val)


def write_dataset(root: Path, plan: Plan, settings: ShapesWorldSettings) -> None:
    """Draws and writes the plan's files below `root`."""
    layout = Layout(root)
    pictures = layout.write_tasks(plan.tasks)
    drawn = _drawn(list(pictures), settings, "drawing test images")
    for path, data in zip(pictures.values(), drawn, strict=True):
        path.write_bytes(data)
    for split, scenes in (("val", plan.val), ("train", plan.train)):
        _write_pairs(root / split, split, scenes, settings)


def _write_pairs(split_dir: Path, split: str, scenes: Sequence[Scene], settings: ShapesWorldSettings) -> None:
    """Writes one split's shards: a picture and two to four captions per scene."""
    split_dir.mkdir()
    pictures = [Picture(scene, f"{settings.seed} {split} {i}") for i, scene in enumerate(scenes)]
    drawn = _drawn(pictures, settings, f"drawing {split} images")
    for shard, start in enumerate(range(0, len(scenes), settings.shard_size)):
        members: list[Member] = []
        for number, scene in enumerate(scenes[start : start + settings.shard_size], start=start):
            name = f"{split}-{number:06d}"
            captions = training_captions(scene, random.Random(f"shapesworld {settings.seed} {name}"))
            text = json.dumps({"captions": captions, "id": name})
            members += [Member(f"{name}.jpg", next(drawn)), Member(f"{name}.json", text.encode())]
        write_shard(split_dir / f"pairs-{shard:05d}.tar", members)
    for _ in drawn:  # closes the progress bar
        raise AssertionError("more pictures than scenes")


def _new_scenes(taken: set[str], seed: str, count: int) -> tuple[Scene, ...]:
    """Random scenes that are not taken; they are taken afterwards."""
    rng = random.Random(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng)
        if scene.code not in taken:
            taken.add(scene.code)
            scenes.append(scene)
    return tuple(scenes)


def _drawn(pictures: Sequence[Picture], settings: ShapesWorldSettings, description: str) -> Iterator[bytes]:
    """The pictures' JPEG bytes in order, drawn by as many processes as are wanted and worth it."""
    processes = settings.workers or min(num_cores(), 8)
    chunks = [pictures[i : i + CHUNK] for i in range(0, len(pictures), CHUNK)]
    with progress(plain_console(stderr=True), description, len(pictures)) as advance:
        for jpeg in _flattened(chunks, settings.image_size_px, min(processes, len(chunks))):
            yield jpeg
            advance()


def _flattened(chunks: list[Sequence[Picture]], image_size_px: int, processes: int) -> Iterator[bytes]:
    """The chunks' JPEG bytes, one after another."""
    paint = partial(draw_jpegs, image_size_px)
    if processes < 2:
        yield from _joined(map(paint, chunks))
        return
    pool = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,  # Ctrl-C is for the parent alone to answer
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield from _joined(pool.map(paint, chunks))
    finally:
        pool.shutdown(cancel_futures=True)


def _joined(chunks: Iterable[list[bytes]]) -> Iterator[bytes]:
    for chunk in chunks:
        yield from chunk
