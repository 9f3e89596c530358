"""Which columns of a table hold images and texts, told by their names."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anykey.sources.errors import SourceError

IMAGE_COLUMNS = ("image", "image_path", "filepath", "file_path", "path", "file_name", "filename", "img", "jpg")
TEXT_COLUMNS = ("captions", "caption", "text", "title", "txt")
URL_COLUMNS = ("url", "image_url", "img_url", "image_link")
_NUMBERED = re.compile(r"caption_?\d+")


@dataclass(frozen=True)
class Columns:
    """The columns that make a pair, by their names in the file.

    Attributes:
        image: The image's column; `None` where the rows are texts alone.
        texts: The captions' columns; none where the rows are images alone.
        name: The column of the pair's name.
        group: The column of the group whose pairs are known to be alike.
    """

    image: str | None
    texts: tuple[str, ...]
    name: str | None
    group: str | None = None


def choose_columns(header: Sequence[str], label: str) -> Columns:
    """The first image column and the first text column that are there, and `caption_0`, `caption1`, ... beside it.

    Names are compared without regard to case and to white space around them.

    Args:
        header: The column names.
        label: The file, for messages.

    Raises:
        SourceError: there is neither, one of them is there twice, or images are named by addresses alone.
    """
    names: dict[str, list[str]] = {}
    for column in header:
        names.setdefault(column.strip().lower(), []).append(column)
    image = next((name for name in IMAGE_COLUMNS if name in names), None)
    text = next((name for name in TEXT_COLUMNS if name in names), None)
    numbered = [name for name in names if _NUMBERED.fullmatch(name)]
    texts = [*([text] if text else []), *numbered]
    chosen = [*([image] if image else []), *texts]
    if not chosen:
        known, found = ", ".join(IMAGE_COLUMNS + TEXT_COLUMNS), ", ".join(header)
        raise SourceError(f"{label}: expected a header with one of {known}; found {found[:200] or 'none'}")
    if image is None and (url := url_among(header)):
        raise SourceError(f"{label}: {not_fetched(url)}")
    for name in chosen:
        if len(names[name]) > 1:
            raise SourceError(f"{label}: column '{name}' comes {len(names[name])} times")
    return Columns(
        names[image][0] if image else None,
        tuple(names[name][0] for name in texts),
        names["name"][0] if "name" in names else None,
        names["group"][0] if "group" in names else None,
    )


def url_among(names: Iterable[str]) -> str | None:
    """The first of some names that stands for the address of an image."""
    return next((name for name in names if name.strip().lower() in URL_COLUMNS), None)


def not_fetched(url: str) -> str:
    """Why rows that name their images by an address alone are refused: taken for texts, half of each would be lost."""
    return (
        f"column '{url}' holds addresses, and images are not fetched here: expected a column of image files, such as "
        f"'{IMAGE_COLUMNS[0]}' (img2dataset fetches them), or no column '{url}' where the texts alone are meant"
    )
