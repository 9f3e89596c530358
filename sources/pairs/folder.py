"""A folder of photos, each with its captions beside it: `cats/1.jpg` and `cats/1.txt` or `cats/1.json`."""

import os
from dataclasses import replace
from pathlib import Path

from anykey.sources.errors import InvalidRowError, NoPairsError, SourceError
from anykey.sources.files.files import files_below, read_file
from anykey.sources.image_tables import FILE_NAME
from anykey.sources.kinds import PARQUET
from anykey.sources.pairs.concatenated import ConcatenatedPairs
from anykey.sources.pairs.file import DataFile
from anykey.sources.pairs.image_tables import image_tables, images_of, open_table
from anykey.sources.pairs.pair import Pair
from anykey.sources.pairs.rows import sidecar_captions
from anykey.sources.sidecars import MAX_TEXT_BYTES, TEXT_SUFFIXES
from anykey.sources.suffixes import IMAGE_SUFFIXES


class ImageFolder:
    """Every image below a folder, sorted by path.

    A `.json` beside it holds what a shard's does; in a `.txt` each line is a caption. An image without either is a bad
    row, since among captioned photos it is a mistake. Hidden files, links to folders and texts without an image are
    left aside.

    Tables `metadata.jsonl`, `.csv` or `.parquet` that name images by `file_name`, as Hugging Face's do, come first. An
    image whose row is bad is that bad row, whatever lies beside it; where a row cannot be read so far as to tell its
    image, every image below the table that no other row names is bad. A folder without images is its Parquet files,
    sorted by their paths as plain strings.
    """

    def __init__(self, file: DataFile) -> None:
        """Lists the images.

        Raises:
            SourceError: a folder below cannot be read, a table in it is damaged, or there are other files alone.
        """
        self._file = file
        self._columns = file.columns
        files = list_files(file)
        images = [path for path in files if _kind(path) in IMAGE_SUFFIXES]
        tables, columns = image_tables(files), replace(file.columns, image=FILE_NAME)
        self._names_images = bool(tables)
        if not images and not tables:
            tables = sorted((path for path in files if path.suffix.lower() in PARQUET.suffixes), key=str)
            columns = file.columns
        if files and not images and not tables:
            found = ", ".join(sorted({path.suffix or path.name for path in files}))
            raise NoPairsError(
                f"no pairs in {file.label}: expected images or .parquet files, found {found[:200]}. Files of other "
                f"formats are named one by one, or by a pattern such as {file.label}/*.tar"
            )
        self._tables = ConcatenatedPairs([open_table(file.within(path), columns) for path in tables])
        named_by = {path: set(images_of(path)) if images else set() for path in tables}
        named = set().union(*named_by.values())
        self._images = [path for path in images if os.path.normpath(path) not in named]
        self._unsure = [path for path, names in named_by.items() if None in names]
        self._sidecars = {_without_case(path): path for path in files if _kind(path) in TEXT_SUFFIXES}

    def __len__(self) -> int:
        return len(self._tables) + len(self._images)

    def __getitem__(self, position: int) -> Pair:
        """Reads the captions of one image.

        Raises:
            InvalidRowError: there are none, or they cannot be read.
        """
        if position < len(self._tables):
            return self._table_pair(position)
        image = self._images[position - len(self._tables)]
        where = self._file.within(image).label
        try:
            if table := next((table for table in self._unsure if image.is_relative_to(table.parent)), None):
                raise ValueError(f"a row of {table} that cannot be read may name it")
            captions = self._captions_beside(image)
        except (ValueError, OSError) as error:
            raise InvalidRowError(where, str(error)) from error
        return Pair(image.relative_to(self._file.path).as_posix(), image, captions, where)

    def _table_pair(self, position: int) -> Pair:
        pair = self._tables[position]
        if self._names_images and pair.image is None:
            raise InvalidRowError(pair.where, f"expected '{FILE_NAME}', the image's path from the table's folder")
        return pair

    def _captions_beside(self, image: Path) -> tuple[str, ...]:
        paths = {kind: self._sidecars.get(image.with_suffix(f".{kind}")) for kind in TEXT_SUFFIXES}
        texts = {kind: read_file(str(path), max_bytes=MAX_TEXT_BYTES) for kind, path in paths.items() if path}
        captions = sidecar_captions(texts, self._columns)
        if not captions:
            names = " or ".join(image.with_suffix(suffix).name for suffix in (".txt", ".json"))
            raise ValueError(f"expected a caption in {names}" if texts else f"expected {names} beside {image.name}")
        return captions


def list_files(file: DataFile) -> list[Path]:
    """Every file below a folder that is not hidden, sorted by path.

    Raises:
        SourceError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise SourceError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    return [file.path / found.name for found in files_below(str(file.path), refuse)]


def _kind(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")


def _without_case(path: Path) -> Path:
    """A path whose suffix is in lower case: `1.TXT` lies beside `1.JPG` where cameras write them."""
    return path.with_suffix(path.suffix.lower())
