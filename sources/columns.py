"""What the fields of a row are called, in a corpus and among pairs alike."""

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anykey.sources.errors import SourceError

FIELDS = ("key", "text", "image", "metadata", "pool", "group")
# What other tools call images and texts; the first that is there counts.
IMAGE_NAMES = ("image", "image_path", "filepath", "file_path", "path", "file_name", "filename", "img", "jpg")
TEXT_NAMES = ("text", "captions", "caption", "title", "txt")
ADDRESS_NAMES = ("url", "image_url", "img_url", "image_link")  # of images, or of pages that speak of them
NOTHING = "\0"  # what a field is called that is not to be looked for: no column is called so
_NUMBERED = re.compile(r"caption_?\d+")
_KNOWN = {"image": IMAGE_NAMES, "text": TEXT_NAMES}
OTHER_NAMES = frozenset((*IMAGE_NAMES, *TEXT_NAMES)) - {"image", "text"}  # without one, `Columns.in_row` has no choice
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Columns:
    """The names of a row's fields: those of a JSON object, or of a table's columns.

    A text or an image that has its usual name may have another known one in a file; one that is called nothing is not
    looked for.

    Attributes:
        key: What names the row.
        text: Its text or captions.
        image: Its image or images.
        metadata: An object of whatever else there is to say.
        pool: The pools that it is in.
        group: The group of pairs that are known to be alike, for training.
        numbered: More columns of captions, `caption_0`, `caption1`, ..., beside the text, where a table has them.
    """

    key: str = "key"
    text: str = "text"
    image: str = "image"
    metadata: str = "metadata"
    pool: str = "pool"
    group: str = "group"
    numbered: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what is not metadata."""
        return (self.key, self.text, self.image, self.metadata, self.pool, *self.numbered)

    def others(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What a corpus row has besides those, except nulls: metadata where the format has no other place for it."""
        names = (self.key, self.text, self.image, self.metadata, self.pool, *self.numbered)
        return {name: value for name, value in row.items() if name not in names and value is not None}

    def texts(self, header: Collection[str]) -> tuple[str, ...]:
        """The columns of a table that hold its texts."""
        return ((self.text,) if self.text in header else ()) + self.numbered

    def in_row(self, row: Mapping[str, Any]) -> "Columns":
        """The names as one JSON object has them: the first known one under which it says something."""
        if OTHER_NAMES.isdisjoint(row):  # as in most rows, of which there are many
            return self
        return replace(self, text=_own_or_other("text", self.text, row), image=_own_or_other("image", self.image, row))


def is_blank(value: object) -> bool:
    """Whether a field says nothing: null, white space, or a list of such."""
    if isinstance(value, list):
        return all(map(is_blank, value))
    return value is None or (isinstance(value, str) and not value.strip())


def parse_columns(renamings: Sequence[str]) -> Columns:
    """Reads `field=column`, such as `key=sku`; one column may be several fields, such as the key and the image.

    `text=` and `image=` say that there is none, whatever the names of other columns look like.

    Raises:
        ValueError: something else came, or a field twice.
    """
    chosen: dict[str, Any] = {}
    for renaming in renamings:
        name, equals, column = renaming.partition("=")
        is_said = bool(column) or name in _KNOWN
        if name not in FIELDS or not equals or not is_said or name in chosen:
            raise ValueError(f"expected FIELD=COLUMN, each FIELD once, of {', '.join(FIELDS)}; got '{renaming}'")
        chosen[name] = column or NOTHING
    return replace(Columns(), **chosen)


def find_columns(header: Sequence[str], columns: Columns, label: str, needs_key: bool = True) -> Columns:
    """The columns as a table's header spells them; case and white space around them do not count.

    Args:
        header: The column names.
        columns: What they are expected to be.
        label: The file, for messages.
        needs_key: Whether rows have keys; where they need none, a column `name` may name them.

    Raises:
        SourceError: there is no key, neither text nor image, or a column is there twice.
    """
    twice = next((name for name in header if list(header).count(name) > 1), None)
    if twice is not None:
        raise SourceError(f"{label}: column '{twice}' is there twice")
    spelled = {field: _found(field, getattr(columns, field), header, label) for field in FIELDS}
    found = ", ".join(header)[:200] or "none"
    if needs_key and spelled["key"] is None:
        raise SourceError(
            f"{label}: expected a column '{columns.key}', found {found}; `--columns key=NAME` says what it is called"
        )
    if spelled["key"] is None and columns.key == "key":
        spelled["key"] = _spelled("name", header, label)
    numbered = (
        [] if columns.text == NOTHING else [name for name in header if _NUMBERED.fullmatch(name.strip().casefold())]
    )
    if spelled["text"] is None and numbered:
        spelled["text"] = numbered[0]
    if spelled["text"] is None and spelled["image"] is None:
        wanted = " or ".join(f"'{name}'" for name in (columns.text, columns.image) if name != NOTHING) or "to embed"
        raise SourceError(
            f"{label}: expected a column {wanted}, found {found}; "
            "`--columns text=NAME,image=NAME` says what they are called"
        )
    chosen = {field: name or getattr(columns, field) for field, name in spelled.items()}
    return Columns(**chosen, numbered=tuple(name for name in numbered if name not in chosen.values()))


def note_columns(header: Collection[str], asked: Columns, found: Columns, label: str) -> None:
    """Says which other column was taken for the text or the image, and which address of an image was not.

    Args:
        header: The names of a table's columns, or of a row's fields.
        asked: What the fields were expected to be called.
        found: What they are called.
        label: The file, for messages.
    """
    for field in _KNOWN:
        name = getattr(found, field)
        if name in header and name.strip().casefold() != getattr(asked, field).casefold():
            logger.warning("%s: '%s' is taken for the %s; `--columns %s=` says otherwise", label, name, field, field)
    address = url_among(name for name in header if name not in found.names)
    if address is not None and found.image != NOTHING and found.image not in header:
        logger.warning(
            "%s: there is no column '%s', and '%s' is not embedded; `--columns image=%s` makes it the image",
            *(label, found.image, address, address),
        )


def url_among(names: Iterable[str]) -> str | None:
    """The first of some names that stands for the address of an image."""
    return next((name for name in names if name.strip().casefold() in ADDRESS_NAMES), None)


def _own_or_other(field: str, column: str, row: Mapping[str, Any]) -> str:
    """What a row calls a field: as it is expected, or by the first known name under which it says something."""
    if column != field:
        return column
    return next((name for name in _KNOWN[field] if not is_blank(row.get(name))), column)


def _found(field: str, column: str, header: Sequence[str], label: str) -> str | None:
    """A field's column as the header has it; of one with its usual name, the first known one."""
    names = _KNOWN[field] if field == column and field in _KNOWN else (column,)
    found = (_spelled(name, header, label) for name in names)
    return next((name for name in found if name is not None), None)


def _spelled(column: str, header: Sequence[str], label: str) -> str | None:
    """A column as the header has it; `None` if it is not there."""
    if column in header:
        return column
    found = [name for name in header if name.strip().casefold() == column.casefold()]
    if len(found) > 1:
        raise SourceError(f"{label}: expected one column '{column}', found {', '.join(found)}")
    return found[0] if found else None
