"""The command `anykey-bench from-pairs`: held-out image-caption pairs become a dataset like M-BEIR or MixBench.

In M-BEIR's there are four tasks. text -> image: every caption asks for its image among all. image -> text, text -> text
and text -> page (image with text): the keys hold the first caption of each image, and a caption that is a key's
text is never a query. Captions with the same wording are one query, or one key, with several answers.

Pairs with the same image file are one image with all their captions. Rows that are no usable pair are left out and
listed.

With `--keys once` an image is one key only, in turn an image, a text or a page, so that the global pool holds every
image once and the modalities compete on equal terms; each task then asks for its own third.

With `--layout mixbench` the keys are those of `--keys once`, and there is one task: the next caption of each image
finds its key among all, of whatever kind it is.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from anykey.benchmark.datasets.mixbench import MixBench
from anykey.benchmark.directory import built_aside, is_current, write_manifest
from anykey.benchmark.errors import InvalidRowError, PairsError
from anykey.benchmark.mbeir_files import Row, candidate_row, query_row, write_global_pool, write_jsonl, write_task
from anykey.benchmark.pair_files import Photo, read_photos, states_digest
from anykey.benchmark.settings import FromPairsSettings
from anykey.program.image_limits import DECODER_ERRORS, MAX_IMAGE_ASPECT, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from anykey.program.progress import progress
from anykey.program.settings import plain_console
from anykey.sources.columns import parse_columns
from anykey.sources.mbeir import format_string

GENERATOR = "anykey-bench from-pairs"
GENERATOR_VERSION = 5
BAD_ROWS = "bad_rows.jsonl"
MAX_SHOWN_BAD_ROWS = 10
SUFFIXES = {  # of the formats that the encoder reads
    **{"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif", "AVIF": ".avif"},
}
UNDECODABLE = (*DECODER_ERRORS, Image.DecompressionBombError)


@dataclass(frozen=True)
class Entry:
    """One image of the dataset.

    Attributes:
        name: The pair's name in its source; need not be unique.
        image: Path of the image relative to the dataset's root; unique.
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
        self.images = {e.image: self._key(None, e.image, e.name) for e in self.as_image}
        self.pages = {e.image: self._key(e.captions[0], e.image, e.name) for e in self.as_page}
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
                positives = {keys[e.image]["did"] for e in entries}
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
        PairsError: the files cannot be read or hold fewer than two usable images.
        DatasetExistsError: the output directory holds something else.
    """
    console = plain_console(stderr=True)
    recipe = recipe_of(settings)
    if is_current(settings.output, recipe):
        console.print(f"{settings.name} is up to date in {settings.output}")
        return 0
    with built_aside(settings.output) as root:
        contents = write_dataset(root, settings, console)
        write_manifest(root, GENERATOR, recipe, contents)
    console.print(f"{settings.name} is in {settings.output}: {json.dumps(contents['tasks'])}")
    return 0


def recipe_of(settings: FromPairsSettings) -> dict[str, Any]:
    """What decides the dataset's bytes; files by a digest of their paths, sizes and times of change.

    Raises:
        PairsError: there are no such files.
    """
    chosen = settings.model_dump(mode="json", exclude={"config", "output", "pairs", "columns", "layout"})
    later: dict[str, Any] = {"columns": settings.columns} if settings.columns else {}
    later |= {"layout": settings.layout} if settings.layout != "mbeir" else {}
    return {"version": GENERATOR_VERSION, **chosen, **later, "pairs": states_digest(settings.pairs)}


def write_dataset(root: Path, settings: FromPairsSettings, console: Console) -> dict[str, Any]:
    """Writes images, tasks and the global pool below `root`.

    Returns:
        What the dataset holds, for its manifest.

    Raises:
        PairsError: the files cannot be read, or hold fewer than two usable images.
    """
    is_mixbench = settings.layout == "mixbench"
    folder = Path("mbeir_images", f"{settings.name}_images")
    if is_mixbench:
        folder = Path(MixBench.folder, settings.name, "images")
    photos = read_photos(settings.pairs, parse_columns(settings.columns))
    entries, bad_rows = _write_images(root, folder, photos, settings.limit)
    _report_bad_rows(root, bad_rows, console)
    if len(entries) < 2:
        raise PairsError(f"expected at least two images to tell apart, got {len(entries)} ({len(bad_rows)} bad rows)")
    totals = {"name": settings.name, "images": len(entries), "bad_rows": len(bad_rows)}
    if is_mixbench:
        return {**totals, "tasks": {settings.name: _write_mixbench(root / folder.parent, entries)}}
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
    return {**totals, "dataset_id": settings.dataset_id, "tasks": counts}


def _write_mixbench(subset: Path, entries: Sequence[Entry]) -> dict[str, int]:
    """Writes one subset as MixBench's release of 2025 has it; see `datasets/mixbench.py`.

    A query is the second caption of an image, unless that is the text of a key; it has the number of its key. Equal
    captions are one query with several answers.

    Returns:
        The number of queries and of keys.
    """
    rows: list[Row] = [
        {"corpus_id": str(number), "text": entry.captions[0], "image": Path(entry.image).name}
        for number, entry in enumerate(entries)
    ]
    lacks: tuple[list[str], ...] = (["text"], ["image"], [])  # in turn: an image, a text, a page
    mixed: list[Row] = [row | dict.fromkeys(lacks[number % 3]) for number, row in enumerate(rows)]
    taken = {row["text"] for row in mixed}
    asking: dict[str, list[int]] = {}
    for number, entry in enumerate(entries):
        if len(entry.captions) > 1 and entry.captions[1] not in taken:
            asking.setdefault(entry.captions[1], []).append(number)
    queries = [{"query_id": str(found[0]), "text": text, "image": None} for text, found in asking.items()]
    write_jsonl(subset / "corpus.jsonl", rows)
    write_jsonl(subset / "mixed_corpus.jsonl", mixed)
    write_jsonl(subset / "queries.jsonl", queries)
    judged = [f"{found[0]}\t{number}\t1\n" for found in asking.values() for number in found]
    (subset / "qrels").mkdir()
    (subset / "qrels" / "qrels.tsv").write_text("query_id\tcorpus_id\tscore\n" + "".join(judged), encoding="utf-8")
    return {"queries": len(queries), "keys": len(mixed)}


def _write_images(
    root: Path, folder: Path, rows: Iterator[Photo | InvalidRowError], limit: int | None
) -> tuple[list[Entry], list[InvalidRowError]]:
    """Copies the image files as they are, under numbers, since names in shards may be anything.

    Returns:
        An entry for every different image, with the captions of all pairs that have it; and the rows left out.
    """
    entries: dict[bytes, Entry] = {}
    bad_rows: list[InvalidRowError] = []
    (root / folder).mkdir(parents=True)
    with progress(plain_console(stderr=True), "reading pairs", limit) as advance:
        for row in rows:
            photo = row if isinstance(row, InvalidRowError) else _usable(row)
            if isinstance(photo, InvalidRowError):
                bad_rows.append(photo)
                continue
            digest = hashlib.sha256(photo.data).digest()
            if digest not in entries:
                if len(entries) == limit:
                    break
                image = folder / f"{len(entries):06d}{photo.suffix}"
                (root / image).write_bytes(photo.data)
                entries[digest] = Entry(photo.name, image.as_posix(), ())
                advance()
            known = entries[digest]
            entries[digest] = replace(known, captions=tuple(dict.fromkeys(known.captions + photo.captions)))
    return list(entries.values()), bad_rows


def _usable(photo: Photo) -> Photo | InvalidRowError:
    """The photo with its captions in M-BEIR's normal form, if one is left and the image can be decoded."""
    captions = tuple(text for text in map(format_string, photo.captions) if text)
    if not captions:
        return InvalidRowError(photo.where, "no caption has a word in it")
    try:
        with Image.open(io.BytesIO(photo.data), formats=tuple(SUFFIXES)) as image:
            _check_size(photo.data, image)
            image.load()
            suffix = SUFFIXES.get(image.format or "", ".jpg")  # MPO is a JPEG with more of them behind it
    except UNDECODABLE as error:
        return InvalidRowError(photo.where, f"cannot decode the image: {error}")
    return replace(photo, captions=captions, suffix=suffix)


def _check_size(data: bytes, image: Image.Image) -> None:
    """Raises ValueError for an image that an index and a service refuse by default, so that no query asks for it."""
    if len(data) > MAX_IMAGE_BYTES:
        raise ValueError(f"it has {len(data)} bytes, at most {MAX_IMAGE_BYTES} are accepted")
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise ValueError(f"it has {image.width} x {image.height} pixels, at most {MAX_IMAGE_PIXELS} are accepted")
    if max(image.size) > MAX_IMAGE_ASPECT * min(image.size):
        raise ValueError(
            f"it has {image.width} x {image.height} pixels; "
            f"the longer side may be at most {MAX_IMAGE_ASPECT:g} times the shorter"
        )


def _report_bad_rows(root: Path, bad_rows: list[InvalidRowError], console: Console) -> None:
    """Lists what was left out: all in `bad_rows.jsonl`, the first on the terminal."""
    if not bad_rows:
        return
    write_jsonl(root / BAD_ROWS, ({"where": row.where, "reason": row.reason} for row in bad_rows))
    console.print(f"{len(bad_rows)} rows are no usable pairs and are left out; the dataset's {BAD_ROWS} lists them all")
    for row in bad_rows[:MAX_SHOWN_BAD_ROWS]:
        console.print(f"  {row}")
