"""A folder of photos, each with its captions beside it: `cats/1.jpg` and `cats/1.txt` or `cats/1.json`."""

import os
from pathlib import Path

from training.errors import InvalidPairsError, InvalidRowError
from training.pairs import Pair
from training.sources.file import DataFile
from training.sources.rows import captions_of, parse_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
# Photos that cannot be read are listed as such, not passed over.
_OTHER_PHOTOS = (".heic", ".heif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".arw")


class ImageFolder:
    """Every image below a folder, sorted by path.

    A `.json` beside it holds what a shard's does; in a `.txt` each line is a caption. An image without either is a bad
    row, since among captioned photos it is a mistake. Hidden files, links to folders and texts without an image are
    left aside.
    """

    def __init__(self, file: DataFile) -> None:
        """Lists the images.

        Raises:
            InvalidPairsError: a folder below cannot be read.
        """
        self._root = file.path
        self._images = [path for path in list_files(file) if path.suffix.lower() in IMAGE_SUFFIXES + _OTHER_PHOTOS]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, position: int) -> Pair:
        """Reads the captions of one image.

        Raises:
            InvalidRowError: there are none, or they cannot be read.
        """
        image = self._images[position]
        try:
            captions = _captions_beside(image)
        except (ValueError, OSError) as error:
            raise InvalidRowError(str(image), str(error)) from error
        return Pair(image.relative_to(self._root).as_posix(), image, captions, str(image))


def list_files(file: DataFile) -> list[Path]:
    """Every file below a folder that is not hidden, sorted by path.

    Raises:
        InvalidPairsError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InvalidPairsError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    found: list[Path] = []
    for folder, inner, names in os.walk(file.path, onerror=refuse):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _captions_beside(image: Path) -> tuple[str, ...]:
    for sidecar in (image.with_suffix(".json"), image.with_suffix(".txt")):
        if sidecar.is_file():
            text = sidecar.read_bytes().decode("utf-8-sig")
            return captions_of(parse_json(text) if sidecar.suffix == ".json" else {"captions": text.split("\n")})
    names = [image.with_suffix(suffix).name for suffix in (".txt", ".json")]
    raise ValueError(f"expected {names[0]} or {names[1]} beside {image.name}")
