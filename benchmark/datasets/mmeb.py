"""MMEB as its owners publish it: 36 tasks in which every query has its own candidates, the first of which is the gold.

Version 1 (Jiang et al., arXiv 2410.05160) has the instruction inside the text, version 2 (Meng et al., arXiv
2507.04590) apart from it. Both say by a marker where an image stands in a text. Keys carry neither markers nor
instructions, so that an image is one, and not a page with the text "Represent the given image.".
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from anykey.benchmark.dataset import Card, Dataset, Entry, Hit, Hub, Mean, Published, Query, Task, mean_over
from anykey.benchmark.datasets.mbeir import WORDS
from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.benchmark.parquet_rows import read_parquet

CUTOFFS = (1, 5, 10)
PAGES = "text -> image,text"
OTHER = "other"  # of no meta-task that is known
SEEN, UNSEEN = "in-distribution tasks", "out-of-distribution tasks"
SUBSETS: dict[tuple[str, str], tuple[str, ...]] = {  # by meta-task and modalities, in the order of papers' tables
    ("classification", "image -> text"): (
        *("ImageNet-1K", "HatefulMemes", "VOC2007", "SUN397", "Place365", "ImageNet-A", "ImageNet-R", "ObjectNet"),
        "Country211",
    ),
    ("classification", "image,text -> text"): ("N24News",),
    ("vqa", "image,text -> text"): (
        *("OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA", "ChartQA", "Visual7W", "ScienceQA", "VizWiz", "GQA"),
        "TextVQA",
    ),
    ("retrieval", "text -> image"): ("VisDial", "VisualNews_t2i", "MSCOCO_t2i", "Wiki-SS-NQ"),
    ("retrieval", "image -> text"): ("VisualNews_i2t", "MSCOCO_i2t"),
    ("retrieval", "image -> image"): ("NIGHTS",),
    ("retrieval", "image,text -> image"): ("CIRR", "FashionIQ"),
    ("retrieval", PAGES): ("WebQA", "EDIS"),
    ("retrieval", "image,text -> image,text"): ("OVEN",),
    ("grounding", "image,text -> image"): ("MSCOCO", "Visual7W-Pointing", "RefCOCO"),
    ("grounding", "image,text -> image,text"): ("RefCOCO-Matching",),
}
OUT_OF_DISTRIBUTION = frozenset(
    {
        *("Place365", "ImageNet-A", "ImageNet-R", "ObjectNet", "Country211"),
        *("ScienceQA", "VizWiz", "GQA", "TextVQA"),
        *("FashionIQ", "Wiki-SS-NQ", "OVEN", "EDIS"),
        *("Visual7W-Pointing", "RefCOCO", "RefCOCO-Matching"),
    }
)
IMAGE_FOLDERS = (  # where people unpack the owners' archives
    *("eval_images", "images", "MMEB-eval/eval_images", "MMEB-eval/images"),
    *("MMEB-V2/image-tasks", "MMEB-V2/image-tasks/MMEB"),
)
MARKERS = re.compile(r"<\|image_\d+\|>|<image>|<\|(?:image|video)_pad\|>|<\|vision_(?:start|end)\|>")


@dataclass(frozen=True)
class Kind:
    """What is known of a subset.

    Attributes:
        group: Its meta-task, or "other".
        modalities: Of queries and keys, such as "text -> image"; empty where they are not known.
        seen: Whether its training split is in MMEB's training set.
        place: Where it stands in a table.
    """

    group: str
    modalities: str
    seen: bool
    place: int


KINDS = {
    name: Kind(group, modalities, name not in OUT_OF_DISTRIBUTION, place)
    for place, (group, modalities, name) in enumerate(
        (*kind, name) for kind, names in SUBSETS.items() for name in names
    )
}


@dataclass(frozen=True)
class Row:
    """One row of a subset's file, in the owners' words.

    Attributes:
        path: The file.
        line: The row's number, from 1.
        text: The query's text.
        image: Path of the query's image, empty where it has none.
        instruction: The query's instruction where it is told apart, else empty.
        candidates: Text and image path of each candidate; the first is the gold.
    """

    path: Path
    line: int
    text: str
    image: str
    instruction: str
    candidates: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Subset:
    """One subset, read.

    Attributes:
        queries: Its queries in the order of the files.
        entries: Its keys, each candidate once.
        names: What version 2 of the owners' code calls each key; keys of one name are one candidate to it.
    """

    queries: list[Query]
    entries: list[Entry]
    names: dict[str, str]


class Mmeb(Dataset):
    """A directory with the files of MMEB's version 1, and the images beside them."""

    name = "MMEB"
    splits = ("test",)
    card = Card(
        measures="classification, questions about images, retrieval and grounding, each query among its own candidates",
        size="36,000 queries in 36 tasks, up to 1,000 candidates for each query",
        licence="Apache 2.0 for the files; each source dataset has its own terms",
        published="https://huggingface.co/datasets/TIGER-Lab/MMEB-eval",
        hub=(Hub("TIGER-Lab/MMEB-eval", ("*.parquet", "images.zip"), "MMEB-eval"),),
        by_hand=("unzip DIR/MMEB-eval/images.zip -d DIR/MMEB-eval/eval_images",),
    )
    folder: ClassVar[str] = "MMEB-eval"
    required: ClassVar[tuple[str, ...]] = ("qry_text", "tgt_text")  # columns

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """By the folder of tables."""
        return any((root / cls.folder).glob("*/*.parquet"))

    def tasks(self) -> list[Task]:
        """One task for each subset's folder, those of papers' tables first.

        Raises:
            DatasetError: there is no folder with tables.
        """
        folders = {path.parent.name for path in (self.root / self.folder).glob("*/*.parquet")}
        if not folders:
            raise DatasetError(f"{self.root} is no {self.name}: expected tables such as {self.folder}/CIRR/*.parquet")
        return [_task(name) for name in sorted(folders, key=lambda name: (kind_of(name).place, name))]

    def queries(self, task: Task) -> list[Query]:
        """The subset's queries, named by their row from 0.

        Raises:
            DatasetFormatError: a row is wrong, or a query's image is missing.
        """
        return self._subset(task.name).queries

    def corpus(self) -> Iterator[Entry]:
        """Every candidate of every subset once, in a pool that is named like the subset.

        Raises:
            DatasetFormatError: As for `queries`.
        """
        for task in self.tasks():
            yield from self._subset(task.name).entries

    def means(self, tasks: Sequence[Task]) -> list[Mean]:
        """Of each meta-task, of what training has seen and has not, of pages, and of all."""
        if len(tasks) < 2:
            return []
        groups: dict[str, list[Task]] = {}
        for task in tasks:
            kind = kind_of(task.name)
            groups.setdefault(kind.group, []).append(task)
            if kind.group != OTHER:
                groups.setdefault(SEEN if kind.seen else UNSEEN, []).append(task)
            if kind.modalities == PAGES:
                groups.setdefault(PAGES, []).append(task)
        order = [*dict.fromkeys(kind.group for kind in KINDS.values()), OTHER, SEEN, UNSEEN, PAGES]
        partial = {name: groups[name] for name in order if 0 < len(groups.get(name, ())) < len(tasks)}
        return [
            *(mean_over(some, f"mean over {name}") for name, some in partial.items()),
            mean_over(tasks, "mean over tasks"),
        ]

    def warnings(self, tasks: Sequence[Task]) -> list[str]:
        """That the texts of version 1 hold instructions, which cannot be left out."""
        told_apart = any(query.instruction for task in tasks for query in self.queries(task))
        return [] if told_apart else ["the queries' texts hold the instructions, whatever --instructions says"]

    def published(self, task: Task, queries: Sequence[Query], rankings: Sequence[Sequence[Hit]]) -> list[Published]:
        """What both versions of the owners' code (VLM2Vec, `eval.py`) say, where it is another number than ours."""
        names = self._subset(task.name).names
        ours, first, second = [], [], []
        for query, hits in zip(queries, rankings, strict=True):
            best = [hit.key for hit in hits if hit.score == hits[0].score]
            golds = {names[key] for key in query.relevant}
            ours.append(float(all(key in query.relevant for key in best)))
            first.append(float(any(key in query.relevant for key in best)))
            second.append(float(any(names[key] in golds for key in best)))
        found = [
            Published("accuracy, version 1", "of hits that tie, the gold comes first", first),
            Published(
                "hit@1, version 2",
                "a candidate of the gold's name counts as the gold, and of hits that tie it comes first",
                second,
            ),
        ]
        return [each for each in found if each.values != ours]

    @cached_property
    def _subsets(self) -> dict[str, Subset]:
        return {}

    def _subset(self, name: str) -> Subset:
        """One subset; each is read once."""
        if name not in self._subsets:
            self._subsets[name] = self._read(name)
        return self._subsets[name]

    def _read(self, name: str) -> Subset:
        images = _Images(self.root)
        keys = _Keys(name)
        queries = [
            _query(number, row, keys.of(row), images)
            for number, row in enumerate(
                _row(path, line, row)
                for path in sorted((self.root / self.folder / name).glob("*.parquet"))
                for line, row in read_parquet(path, self.required, ("qry_inst", "qry_img_path", "tgt_img_path"))
            )
        ]
        if not queries:
            raise DatasetError(f"{self.root / self.folder / name} has no rows")
        asked_by_image = any(query.images for query in queries)
        return Subset(queries, keys.entries(images), keys.names(asked_by_image))


class MmebV2(Mmeb):
    """A directory with the image tasks of MMEB's version 2, whose instructions stand apart."""

    name = "MMEB v2, image tasks"
    folder = "MMEB_Test_Instruct"
    required = ("qry_text", "tgt_text", "qry_inst")  # without the last, they are tables of version 1
    card = Card(
        measures="as mmeb, with the instructions told apart from the texts",
        size=Mmeb.card.size,
        licence=Mmeb.card.licence,
        published="https://huggingface.co/datasets/ziyjiang/MMEB_Test_Instruct, images in TIGER-Lab/MMEB-V2",
        hub=(
            Hub("ziyjiang/MMEB_Test_Instruct", ("*.parquet",), "MMEB_Test_Instruct"),
            Hub("TIGER-Lab/MMEB-V2", ("image-tasks/*",), "MMEB-V2"),
        ),
        by_hand=("unpack the archives in DIR/MMEB-V2/image-tasks there, so that each subset is a folder of images",),
    )


class _Images:
    """The image files of one subset, in the folder that the first of them is found in."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder: Path | None = None

    def path(self, name: str, path: Path, line: int) -> Path:
        """Where an image is that this row names.

        Raises:
            DatasetFormatError: no folder has the subset's first image.
        """
        if self._folder is None:
            folders = [self._root / folder for folder in IMAGE_FOLDERS]
            self._folder = next((folder for folder in folders if os.path.isfile(folder / name)), None)
        if self._folder is None:
            places = ", ".join(IMAGE_FOLDERS)
            raise DatasetFormatError(path, line, f"image {name} is in none of the folders {places} of {self._root}")
        return self._folder / name


class _Keys:
    """The unique candidates of a subset, numbered as they come."""

    def __init__(self, subset: str) -> None:
        self._subset = subset
        self._of: dict[tuple[str, str], str] = {}  # key by text and image as the files have them
        self._known: dict[tuple[str, str], str] = {}  # by text without marker, and image
        self._places: list[tuple[Path, int]] = []

    def of(self, row: Row) -> list[str]:
        """The keys of a row's candidates, in their order."""
        return [self._of.get(candidate) or self._add(candidate, row) for candidate in row.candidates]

    def entries(self, images: _Images) -> list[Entry]:
        """All keys. A text that all images of a subset share is an instruction, and left out."""
        texts = [text for text, image in self._known if image]
        shared = texts[0] if len(texts) > 1 and len(set(texts)) == 1 else None
        return [
            Entry(
                key,
                text=None if image and text == shared else text or None,
                images=(images.path(image, path, line),) if image else (),
                pools=(self._subset,),
                place=f"{path}:{line}",
            )
            for ((text, image), key), (path, line) in zip(self._known.items(), self._places, strict=True)
        ]

    def names(self, asked_by_image: bool) -> dict[str, str]:
        """What the owners' parsers call the keys: texts; images, with their texts where queries have images too."""
        named = {}
        for (text, image), key in self._known.items():
            with_text = f"{image}:" + text.strip('"')
            named[key] = (with_text if asked_by_image else image) if image else text
        return named

    def _add(self, candidate: tuple[str, str], row: Row) -> str:
        """The key of a candidate that no row before had, at least not with this white space and marker."""
        text, image = plain(candidate[0]), candidate[1]
        if not text and not image:
            place = row.candidates.index(candidate)
            raise DatasetFormatError(row.path, row.line, f"candidate {place} has neither text nor image")
        key = self._known.setdefault((text, image), f"{self._subset}/{len(self._known)}")
        if len(self._known) > len(self._places):
            self._places.append((row.path, row.line))
        self._of[candidate] = key
        return key


def kind_of(subset: str) -> Kind:
    """What is known of a subset, however its folder spells the name."""
    spelt = subset.casefold().replace("_", "-")
    known = next((kind for name, kind in KINDS.items() if name.casefold().replace("_", "-") == spelt), None)
    return known or Kind(OTHER, "", True, len(KINDS))


def plain(text: str) -> str:
    r"""A text without markers of images, and without white space around it.

    >>> plain("<|image_1|>\nRepresent the given image.\n")
    'Represent the given image.'
    """
    return MARKERS.sub("", text).strip()


def _task(subset: str) -> Task:
    kind = kind_of(subset)
    seen = () if kind.group == OTHER else ("ind",) if kind.seen else ("ood",)
    return Task(
        name=subset,
        title=f"{subset} {kind.modalities or kind.group}",
        candidates="own candidates",
        pool=None,
        headline="success@1",
        key_modality=WORDS[kind.modalities.split(" -> ")[1]] if kind.modalities else None,
        cutoffs=CUTOFFS,
        ties_lose=True,
        aliases=(kind.group, *seen, subset),
    )


def _query(number: int, row: Row, keys: Sequence[str], images: _Images) -> Query:
    """The query of a row.

    Raises:
        DatasetFormatError: it has neither text nor image, or its image is missing.
    """
    text, instruction = plain(row.text), plain(row.instruction)
    image = images.path(row.image, row.path, row.line) if row.image else None
    if image is not None and not os.path.isfile(image):
        raise DatasetFormatError(row.path, row.line, f"image {image} does not exist")
    if image is None and not text:
        raise DatasetFormatError(row.path, row.line, "the query has neither text nor image")
    return Query(
        str(number),
        text or None,
        () if image is None else (image,),
        relevant={keys[0]: 1},
        instruction=instruction or None,
        instructed=f"{instruction} {text}".strip() if instruction else None,
        within=tuple(sorted(set(keys))),  # in an order that does not tell the gold
    )


def _row(path: Path, line: int, row: dict[str, Any]) -> Row:
    """A row of a table, checked.

    Raises:
        DatasetFormatError: a field has another type, the lists' lengths differ, or there is no gold.
    """
    for name in ("qry_text", "qry_inst", "qry_img_path"):
        if not isinstance(row.get(name) or "", str):
            raise DatasetFormatError(path, line, f"{name} must be a text, got {type(row[name]).__name__}")
    texts, images = (_texts(row.get(name), name, path, line) for name in ("tgt_text", "tgt_img_path"))
    if not texts:
        raise DatasetFormatError(path, line, "no candidates, the first of which would be the gold")
    if images and len(images) != len(texts):
        raise DatasetFormatError(path, line, f"{len(texts)} tgt_text and {len(images)} tgt_img_path")
    text, image, instruction = (row.get(name) or "" for name in ("qry_text", "qry_img_path", "qry_inst"))
    candidates = list(zip(texts, images or [""] * len(texts), strict=True))
    return Row(path, line, text, image, instruction, candidates)


def _texts(cell: Any, name: str, path: Path, line: int) -> list[str]:
    """A list of texts in which None is an empty one."""
    if cell is None:
        return []
    if not isinstance(cell, list) or not all(value is None or isinstance(value, str) for value in cell):
        raise DatasetFormatError(path, line, f"{name} must be a list of texts")
    return [value or "" for value in cell]
