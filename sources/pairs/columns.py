"""Which columns of a table hold the images and texts of pairs."""

from collections.abc import Sequence

from anykey.sources.columns import IMAGE_NAMES, NOTHING, Columns, find_columns, url_among
from anykey.sources.errors import SourceError
from anykey.sources.pairs.file import DataFile


def pair_columns(header: Sequence[str], file: DataFile) -> Columns:
    """The columns of a table of pairs, which needs no key.

    Raises:
        SourceError: there is neither text nor image, a column is there twice, or images are named by addresses alone.
    """
    columns = find_columns(header, file.columns, file.label, needs_key=False)
    if columns.image not in header and (url := unfetched(header, columns)):
        raise SourceError(f"{file.label}: {not_fetched(url)}")
    return columns


def unfetched(names: Sequence[str], columns: Columns) -> str | None:
    """The first of some names that stands for the address of an image, unless it is said that there are none."""
    return None if columns.image == NOTHING else url_among(names)


def not_fetched(url: str) -> str:
    """Why rows that name their images by an address alone are refused: taken for texts, half of each would be lost."""
    return (
        f"column '{url}' holds addresses, and images are not fetched here: expected a column of image files, such as "
        f"'{IMAGE_NAMES[0]}' (img2dataset fetches them), or `--columns image=` where the texts alone are meant"
    )
