"""Karpathy's splits of COCO, Flickr30k and Flickr8k: a caption finds its photo, and a photo one of its captions.

Karpathy and Fei-Fei, CVPR 2015, arXiv 1412.2306. The files are read by training's own reader. Papers take the first
five captions of each photo, of which COCO has up to seven: its test split has 5,000 photos and 25,000 captions.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from anykey.benchmark.dataset import Card, Dataset, Entry, Modality, Query, Task
from anykey.benchmark.errors import DatasetError
from anykey.sources.errors import SourceError
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.karpathy import KarpathyRows
from anykey.sources.pairs.pair import Pair

PHOTOS = ("coco", "flickr30k", "flickr8k")
CAPTIONS = 5  # of a photo
CUTOFFS = (1, 5, 10)
DIRECTIONS: tuple[tuple[Modality, Modality], ...] = (("text", "image"), ("image", "text"))
ANY = "any"


class Karpathy(Dataset):
    """A directory with one of Karpathy's files and the photos, as training reads them."""

    name = "Karpathy's splits"
    splits = ("test", "val", "train", "restval")
    card = Card(
        measures="finding photos by their captions, and captions by their photos",
        size="test: COCO 5,000 photos, Flickr30k and Flickr8k 1,000 each; five captions a photo",
        licence="COCO's captions CC BY 4.0, its photos and all of Flickr30k and Flickr8k the terms of their owners",
        published="https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
        by_hand=(
            "unzip https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip and put one of its three "
            "files into DIR, such as dataset_coco.json",
            "for COCO, unzip http://images.cocodataset.org/zips/val2014.zip in DIR, for train also train2014.zip; the "
            "photos of Flickr30k and Flickr8k are given to those who ask for them with their owners' form",
        ),
    )
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"photos": (ANY, *PHOTOS)}

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """By any of the three files."""
        return any(_file(root, photos).is_file() for photos in PHOTOS)

    def tasks(self) -> list[Task]:
        """Captions among the split's photos, and photos among its captions.

        Raises:
            DatasetError: there is no such file, or several and none is chosen.
        """
        return [
            Task(
                name=f"{self._photos}_{asked}_to_{found}",
                title=f"{self._photos} {asked} -> {found}",
                candidates="split",
                pool=self._pool(found),
                headline="success@1",
                key_modality=found,
                cutoffs=CUTOFFS,
                aliases=(f"{asked}_to_{found}",),
            )
            for asked, found in DIRECTIONS
        ]

    def queries(self, task: Task) -> list[Query]:
        """The split's captions, each of which its photo answers, or its photos, which any of their captions answers.

        Raises:
            DatasetError: the file has no such split, a row is wrong, or a photo is missing.
        """
        if task.key_modality == "image":
            return [
                Query(name, caption, relevant={pair.name: 1})
                for pair in self._pairs
                for name, caption in _captions(pair)
            ]
        return [
            Query(pair.name, images=(_image(pair),), relevant={name: 1 for name, _ in _captions(pair)})
            for pair in self._pairs
        ]

    def corpus(self) -> Iterator[Entry]:
        """Each photo of the split and behind it its captions, which are called `PHOTO#0` to `PHOTO#4`.

        Raises:
            DatasetError: As for `queries`.
        """
        for pair in self._pairs:
            yield Entry(pair.name, images=(_image(pair),), pools=(self._pool("image"),), place=pair.where)
            for name, caption in _captions(pair):
                yield Entry(name, caption, pools=(self._pool("text"),), place=pair.where)

    def _pool(self, modality: str) -> str:
        return f"{self._photos}_{self.split}_{modality}s"

    @cached_property
    def _photos(self) -> str:
        chosen = self.options["photos"]
        found = [photos for photos in PHOTOS if _file(self.root, photos).is_file()]
        if chosen == ANY and len(found) > 1:
            names = " or ".join(f"photos={photos}" for photos in found)
            raise DatasetError(f"{self.root} has {len(found)} of Karpathy's files: say which with --options {names}")
        if chosen == ANY and not found:
            raise DatasetError(f"{self.root} has none of {', '.join(_file(self.root, each).name for each in PHOTOS)}")
        return found[0] if chosen == ANY else chosen

    @cached_property
    def _pairs(self) -> list[Pair]:
        try:
            rows = KarpathyRows(DataFile(_file(self.root, self._photos), self.split))
            pairs = [rows[position] for position in range(len(rows))]
        except SourceError as error:
            raise DatasetError(str(error)) from error
        known: set[str] = set()
        for pair in pairs:
            if pair.name in known:
                raise DatasetError(f"{pair.where}: photo '{pair.name}' comes a second time")
            known.add(pair.name)
        return pairs


def _file(root: Path, photos: str) -> Path:
    return root / f"dataset_{photos}.json"


def _captions(pair: Pair) -> list[tuple[str, str]]:
    """Names and texts of those captions that count."""
    return [(f"{pair.name}#{number}", caption) for number, caption in enumerate(pair.captions[:CAPTIONS])]


def _image(pair: Pair) -> Path:
    assert isinstance(pair.image, Path)
    return pair.image
