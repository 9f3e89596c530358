"""What the fields of a corpus row are called."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

from anykey.sources.errors import SourceError

# Names under which other tools, and training, have images and texts.
_OTHER_NAMES = {
    "image": ("image_path", "image_url", "img_url", "image_link", "url", "file_name", "img", "jpg"),
    "text": ("captions", "caption", "title", "txt"),
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Columns:
    """The names of a row's fields: those of a JSON object, or of a table's columns."""

    key: str = "key"
    text: str = "text"
    image: str = "image"
    metadata: str = "metadata"
    pool: str = "pool"

    def others(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What a row has besides the five, but for nulls: its metadata where the format has no other place for it."""
        names = (self.key, self.text, self.image, self.metadata, self.pool)  # `astuple` takes long, in each row
        return {name: value for name, value in row.items() if name not in names and value is not None}


def parse_columns(renamings: Sequence[str]) -> Columns:
    """Reads `field=column`, such as `key=sku`; one column may be several fields, such as the key and the image.

    Raises:
        ValueError: something else came, or a field twice.
    """
    known = [field.name for field in fields(Columns)]
    chosen: dict[str, str] = {}
    for renaming in renamings:
        name, equals, column = renaming.partition("=")
        if name not in known or not equals or not column or name in chosen:
            raise ValueError(f"expected FIELD=COLUMN, each FIELD once, of {', '.join(known)}; got '{renaming}'")
        chosen[name] = column
    return replace(Columns(), **chosen)


def find_columns(header: Sequence[str], columns: Columns, label: str) -> Columns:
    """The columns as a table's header spells them; case and white space around them do not count.

    Args:
        header: The column names.
        columns: What they are expected to be.
        label: The file, for messages.

    Raises:
        SourceError: there is no key, neither text nor image, or a column is there twice.
    """
    twice = next((name for name in header if list(header).count(name) > 1), None)
    if twice is not None:
        raise SourceError(f"{label}: column '{twice}' is there twice")
    wanted = {field.name: getattr(columns, field.name) for field in fields(Columns)}
    spelled = {name: _spelled(column, header, label) for name, column in wanted.items()}
    found = ", ".join(header)[:200] or "none"
    if spelled["key"] is None:
        raise SourceError(
            f"{label}: expected a column '{columns.key}', found {found}; `--columns key=NAME` says what it is called"
        )
    if spelled["text"] is None and spelled["image"] is None:
        raise SourceError(f"{label}: expected a column '{columns.text}' or '{columns.image}', found {found}")
    return Columns(**{name: spelled[name] or column for name, column in wanted.items()})


def note_unread(header: Collection[str], columns: Columns, label: str) -> None:
    """Says where no column is the image, or the text, and one has a name as if it should be.

    Args:
        header: The names of a table's columns, or of a row's fields.
        columns: What the fields are called, as the header spells them.
        label: The file, for messages.
    """
    others = {name.strip().casefold(): name for name in header if name not in astuple(columns)}
    for field, names in _OTHER_NAMES.items():
        name = next((others[name] for name in names if name in others), None)
        if name is not None and getattr(columns, field) not in header:
            logger.warning(
                "%s: there is no column '%s', and '%s' is not embedded; `--columns %s=%s` makes it the %s",
                *(label, getattr(columns, field), name, field, name, field),
            )


def _spelled(column: str, header: Sequence[str], label: str) -> str | None:
    """A column as the header has it; `None` if it is not there."""
    if column in header:
        return column
    found = [name for name in header if name.strip().casefold() == column.casefold()]
    if len(found) > 1:
        raise SourceError(f"{label}: expected one column '{column}', found {', '.join(found)}")
    return found[0] if found else None
