"""The command `anykey-bench from-pairs`: held-out image-caption pairs become a dataset in M-BEIR layout.

Four tasks come out. text -> image: every caption asks for its image among all. image -> text, text -> text and
text -> page (image with text): the keys hold the first caption of each image, and a caption that is a key's
text is never a query. Captions with the same wording are one query, or one key, with several answers.

With `--keys once` an image is one key only, in turn an image, a text or a page, so that the global pool holds every
image once and the modalities compete on equal terms; each task then asks for its own third.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmark.directory import built_aside, is_current, write_manifest
from benchmark.errors import PairsError
from benchmark.mbeir import format_string
from benchmark.mbeir_files import Row, candidate_row, query_row, write_global_pool, write_task
from benchmark.progress import progress_bar
from benchmark.settings import FromPairsSettings
from benchmark.shards import Photo, expand, read_photos

GENERATOR = "anykey-bench from-pairs"
GENERATOR_VERSION = 2


@dataclass(frozen=True)
class Entry:
    """One image of the dataset.

    Attributes:
        name: The sample's name in its shard.
        image: Path of the image relative to the dataset's root.
        captions: Captions in M-BEIR's normal form, without repeats.
    """

    name: str
    image: str
    captions: tuple[str, ...]


@dataclass
class Numbering:
    """Gives out ids "dataset:1", "dataset:2", ... of one id space."""

    dataset_id: int
    last: int = 0

    def next(self) -> str:
        """A new id."""
        self.last += 1
        return f"{self.dataset_id}:{self.last}"


@dataclass
class Builder:
    """Turns entries into tasks; ids are given out as keys and queries are made.

    Attributes:
        as_image: Entries that have an image key.
        as_text: Entries that have a text key.
        as_page: Entries that have a page key.
        dids: Numbering of the keys.
        qids: Numbering of the queries; all tasks share it, as in M-BEIR.
    """

    as_image: list[Entry]
    as_text: list[Entry]
    as_page: list[Entry]
    dids: Numbering
    qids: Numbering
    images: dict[str, Row] = field(init=False)
    pages: dict[str, Row] = field(init=False)
    texts: dict[str, Row] = field(init=False)

    def __post_init__(self) -> None:
        self.images = {e.name: self._key(None, e.image, e.name) for e in self.as_image}
        self.pages = {e.name: self._key(e.captions[0], e.image, e.name) for e in self.as_page}
        self.texts = {}
        self._add_texts((e.captions[0], e.name) for e in self.as_text)
        self.first_texts = dict(self.texts)

    def tasks(self, all_texts: bool) -> Iterator[tuple[int, list[Row], list[Row]]]:
        """Task number, queries and candidates of every task that has queries.

        Args:
            all_texts: Whether every caption is a key of image -> text, instead of the first of each image.
        """
        for_texts = self._by_other_caption(self.as_text)
        for_pages = self._by_other_caption(self.as_page)
        if all_texts:
            self._add_texts((caption, e.name) for e in self.as_text for caption in e.captions)
        yield 0, self._text_queries(self._by_caption(self.as_image), 0), list(self.images.values())
        if for_texts:
            yield 1, self._text_queries(for_texts, 1), list(self.first_texts.values())
        if for_pages:
            yield 2, self._text_queries(for_pages, 2), list(self.pages.values())
        yield 3, self._image_queries(), list(self.texts.values())

    def _key(self, text: str | None, image: str | None, name: str) -> Row:
        return candidate_row(self.dids.next(), text, image, {"id": name})

    def _add_texts(self, texts: Iterable[tuple[str, str]]) -> None:
        """Makes a text key of every wording that is none yet."""
        for text, name in texts:
            if text not in self.texts:
                self.texts[text] = self._key(text, None, name)

    def _by_caption(self, entries: Iterable[Entry]) -> dict[str, list[Entry]]:
        """Entries by wording of their captions."""
        found: dict[str, list[Entry]] = {}
        for entry in entries:
            for caption in entry.captions:
                found.setdefault(caption, []).append(entry)
        return found

    def _by_other_caption(self, entries: list[Entry]) -> dict[str, list[Entry]]:
        """Entries by wording of those captions that are the text of none of their keys."""
        taken = {e.captions[0] for e in entries}
        return {text: found for text, found in self._by_caption(entries).items() if text not in taken}

    def _text_queries(self, asking: dict[str, list[Entry]], task: int) -> list[Row]:
        """A query per wording, answered by the keys of all entries it describes."""
        rows = []
        for text, entries in asking.items():
            if task == 1:
                positives = {self.first_texts[e.captions[0]]["did"] for e in entries}
            else:
                keys = self.images if task == 0 else self.pages
                positives = {keys[e.name]["did"] for e in entries}
            source = {"id": entries[0].name}
            rows.append(query_row(self.qids.next(), text, None, positives, task, source))
        return rows

    def _image_queries(self) -> list[Row]:
        """A query per image, answered by all its captions that are keys."""
        rows = []
        for entry in self.as_text:
            positives = {self.texts[caption]["did"] for caption in entry.captions if caption in self.texts}
            rows.append(query_row(self.qids.next(), None, entry.image, positives, 3, {"id": entry.name}))
        return rows


def run(settings: FromPairsSettings) -> int:
    """The command: writes the dataset unless it is there already.

    Returns:
        The exit code, 0.

    Raises:
        PairsError: the shards cannot be read or hold fewer than two images.
        DatasetExistsError: the output directory holds something else.
    """
    console = Console(stderr=True, highlight=False)
    shards = expand(settings.shards)
    recipe = recipe_of(settings, shards)
    if is_current(settings.output, recipe):
        console.print(f"{settings.name} is up to date in {settings.output}")
        return 0
    with built_aside(settings.output) as root:
        contents = write_dataset(root, shards, settings)
        write_manifest(root, GENERATOR, recipe, contents)
    console.print(f"{settings.name} is in {settings.output}: {json.dumps(contents['tasks'])}")
    return 0


def recipe_of(settings: FromPairsSettings, shards: list[Path]) -> dict[str, Any]:
    """What decides the dataset's bytes; shards by name, size and time of change."""
    chosen = settings.model_dump(mode="json", exclude={"config", "output", "shards"})
    files = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in shards]
    return {"version": GENERATOR_VERSION, **chosen, "shards": files}


def write_dataset(root: Path, shards: list[Path], settings: FromPairsSettings) -> dict[str, Any]:
    """Writes images, tasks and the global pool below `root`.

    Returns:
        What the dataset holds, for its manifest.

    Raises:
        PairsError: the shards cannot be read, repeat a sample, or hold fewer than two images.
    """
    entries = _write_images(root, read_photos(shards), settings)
    if len(entries) < 2:
        raise PairsError(f"expected at least two images to tell apart, got {len(entries)}")
    as_image, as_text, as_page = entries, entries, entries
    if settings.keys == "once":
        as_image, as_text, as_page = entries[0::3], entries[1::3], entries[2::3]
    if not as_page:
        raise PairsError(f"expected at least three images, one for each kind of key, got {len(entries)}")
    builder = Builder(as_image, as_text, as_page, Numbering(settings.dataset_id), Numbering(settings.dataset_id))
    union: list[Row] = []
    counts = {}
    for task, queries, candidates in builder.tasks(settings.text_keys == "all"):
        write_task(root, settings.name, task, queries, candidates)
        union += candidates
        counts[f"mbeir_{settings.name}_task{task}"] = {"queries": len(queries), "keys": len(candidates)}
    write_global_pool(root, union)
    return {"name": settings.name, "dataset_id": settings.dataset_id, "images": len(entries), "tasks": counts}


def _write_images(root: Path, photos: Iterator[Photo], settings: FromPairsSettings) -> list[Entry]:
    """Copies the image files as they are, under numbers, since names in shards may be anything."""
    entries: dict[str, Entry] = {}
    folder = Path("mbeir_images") / f"{settings.name}_images"
    (root / folder).mkdir(parents=True)
    with progress_bar("images") as bar:
        progress = bar.add_task("reading pairs", total=settings.limit)
        for photo in photos:
            if photo.name in entries:
                raise PairsError(f"sample '{photo.name}' comes a second time")
            image = folder / f"{len(entries):06d}.{photo.extension}"
            (root / image).write_bytes(photo.data)
            captions = tuple(dict.fromkeys(text for text in map(format_string, photo.captions) if text))
            if not captions:
                raise PairsError(f"sample '{photo.name}' has no caption with a word in it")
            entries[photo.name] = Entry(photo.name, image.as_posix(), captions)
            bar.advance(progress)
            if len(entries) == settings.limit:
                break
    return list(entries.values())
