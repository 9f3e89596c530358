"""FashionIQ as its owners publish it: a garment and two captions find another garment (Wu et al., arXiv 1905.12794).

Captions and splits are those of github.com/XiaoxiaoGuo/fashion-iq. A row's `candidate` is the query's own image.
Each category is searched among its split's images, and among those alone that are a reference or a target. Products
vanish from shops, so images are usually missing: such keys are left out and counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from anykey.benchmark.dataset import Card, Dataset, Entry, Query, Task
from anykey.benchmark.datasets.covr import clean_edit
from anykey.benchmark.errors import DatasetError
from anykey.benchmark.json_files import JsonRow, read_names, read_rows

CATEGORIES = ("dress", "shirt", "toptee")
ORIGINAL, JUDGED = "original", "reference or target"
HIDDEN = "test"  # whose targets are not published
SUFFIXES = (".jpg", ".png", ".jpeg")  # the first that is there counts


@dataclass(frozen=True)
class Row:
    """One row of the captions.

    Attributes:
        place: File and number, for errors.
        id: Name of the query.
        reference: Its own image.
        target: The image that it looks for; None where that is not published.
        captions: What shall be changed, in two sentences.
    """

    place: str
    id: str
    reference: str
    target: str | None
    captions: tuple[str, ...]

    @property
    def images(self) -> list[str]:
        """Its images, by name."""
        return [self.reference] if self.target is None else [self.reference, self.target]


@dataclass(frozen=True)
class Category:
    """The files of one category.

    Attributes:
        rows: Its captions.
        galleries: By kind of candidates the names of the images, also of those that are missing.
    """

    rows: Sequence[Row]
    galleries: Mapping[str, Sequence[str]]


class FashionIQ(Dataset):
    """A directory with FashionIQ's `captions`, `image_splits` and `images`."""

    name = "FashionIQ"
    splits = ("val", HIDDEN, "train")
    card = Card(
        measures="finding the garment that two captions make of another one, in three categories",
        size="6,016 queries over 15,536 images (val), in two galleries of each category",
        licence="CDLA for the captions; the images are the shops'",
        published="https://github.com/XiaoxiaoGuo/fashion-iq",
        by_hand=(
            "git clone https://github.com/XiaoxiaoGuo/fashion-iq DIR",
            "put the images of the shops into DIR/images, called B00006M009.jpg and so on; the repository's page says "
            "where their addresses are listed, of which many do not answer any more",
        ),
    )
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"missing": ("error", "skip")}

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """By the captions and splits of any category."""
        return any(
            (root / "captions" / f"cap.{category}.{split}.json").is_file()
            and (root / "image_splits" / f"split.{category}.{split}.json").is_file()
            for category in CATEGORIES
            for split in cls.splits
        )

    def tasks(self) -> list[Task]:
        """Each category among its split's images, then each among references and targets, where these are published.

        Raises:
            DatasetFormatError: a file of a category is missing or wrong.
        """
        return [
            self._task(name, candidates)
            for candidates in (ORIGINAL, JUDGED)
            for name, category in self._categories.items()
            if candidates in category.galleries
        ]

    def queries(self, task: Task) -> list[Query]:
        """The category's queries in file order; a query's own image is its reference, and the text is both captions.

        Raises:
            DatasetError: images of queries or their targets are missing, and the option `missing` is "error".
            DatasetFormatError: As for `tasks`.
        """
        rows = self._categories[_category(task)].rows
        skipped = self._skipped(task)
        if skipped and self.options["missing"] == "error":
            raise DatasetError(
                f"{skipped[0].place}: the reference or target has no image in {self.root / 'images'}, and so for "
                f"{len(skipped)} of {len(rows)} queries; --options missing=skip leaves them out"
            )
        pool = self.keys(str(task.pool))
        left_out = {row.id for row in skipped}
        return [self._query(row, pool) for row in rows if row.id not in left_out]

    def corpus(self) -> Iterator[Entry]:
        """Every image of all categories that is there, once.

        Raises:
            DatasetFormatError: As for `tasks`.
        """
        pools: dict[str, list[str]] = {}
        for task in self.tasks():
            for key in self._gallery(task):
                if key in self._images:
                    pools.setdefault(key, []).append(str(task.pool))
        for key, own in pools.items():
            yield Entry(key, images=(self._images[key],), pools=tuple(own), place=str(self._images[key]))

    def warnings(self, tasks: Sequence[Task]) -> list[str]:
        """How many keys and queries are left out since their images are missing."""
        found = []
        for task in tasks:
            gallery, rows = self._gallery(task), self._categories[_category(task)].rows
            missing, skipped = [key for key in gallery if key not in self._images], self._skipped(task)
            if missing:
                keys = f"{len(missing)} of {len(gallery)} keys are left out, whose images are missing"
                of_queries = f", and {len(skipped)} of {len(rows)} queries" if skipped else ""
                found.append(f"{task.name}, {task.candidates}: {keys}{of_queries}")
        return found

    def _task(self, category: str, candidates: str) -> Task:
        return Task(
            name=f"fashioniq_{category}",
            title=f"{category} image,text -> image",
            candidates=candidates,
            pool=f"fashioniq_{category}_{self.split}_{candidates.replace(' ', '_')}",
            headline="success@10",
            key_modality="image",
            cutoffs=(10, 50),
            aliases=(category,),
        )

    def _query(self, row: Row, pool: frozenset[str]) -> Query:
        return Query(
            row.id,
            " and ".join(filter(None, map(clean_edit, row.captions))) or None,
            (self._images[row.reference],),
            {row.target: 1} if row.target else {},
            references=(row.reference,) if row.reference in pool else (),
            facts={"captions": row.captions},
        )

    def _skipped(self, task: Task) -> list[Row]:
        """The rows whose reference or target has no image."""
        rows = self._categories[_category(task)].rows
        return [row for row in rows if any(name not in self._images for name in row.images)]

    def _gallery(self, task: Task) -> Sequence[str]:
        return self._categories[_category(task)].galleries[task.candidates]

    @cached_property
    def _categories(self) -> dict[str, Category]:
        """The categories that have captions of the split."""
        names = [name for name in CATEGORIES if self._file("captions/cap", name).is_file()]
        if not names:
            raise DatasetError(f"{self.root} has no captions such as {self._file('captions/cap', CATEGORIES[0])}")
        return {name: self._read(name) for name in names}

    def _read(self, category: str) -> Category:
        """One category's files, every target of which is in the split."""
        path = self._file("image_splits/split", category)
        split = read_names(path)
        known, rows = set(split), []
        for number, fields in enumerate(read_rows(self._file("captions/cap", category)), start=1):
            row = _row(fields, f"{category}:{number}", is_judged=self.split != HIDDEN)
            if row.target is not None and row.target not in known:
                raise fields.error(f"target '{row.target}' is not in {path}")
            rows.append(row)
        galleries: dict[str, Sequence[str]] = {ORIGINAL: split}
        if self.split != HIDDEN:
            galleries[JUDGED] = list(dict.fromkeys(name for row in rows for name in row.images))
        return Category(rows, galleries)

    @cached_property
    def _images(self) -> dict[str, Path]:
        """The images that are there, by name."""
        folder = self.root / "images"
        if not folder.is_dir():
            raise DatasetError(f"{folder} does not exist: expected FashionIQ's images, such as B00006M009.jpg")
        found: dict[str, Path] = {}
        for suffix in reversed(SUFFIXES):
            found |= {path.stem: path for path in folder.iterdir() if path.suffix.lower() == suffix}
        return found

    def _file(self, kind: str, category: str) -> Path:
        return self.root / f"{kind}.{category}.{self.split}.json"


def _row(fields: JsonRow, id: str, is_judged: bool) -> Row:
    target = fields.text("target") if is_judged else None
    row = Row(f"{fields.path}: {fields.name}", id, fields.text("candidate"), target, tuple(fields.texts("captions")))
    if row.reference == target:
        raise fields.error(f"'{target}' is both candidate and target")
    return row


def _category(task: Task) -> str:
    return task.aliases[0]
