"""The images of a row: bytes that it holds, or names of files."""

from typing import Any

from anykey.sources.files.inline_images import images_in
from anykey.sources.rows import RowError, kind_of


def images_named(cell: Any, column: str) -> list[bytes | str | None]:
    """What a cell holds or names, by position.

    Args:
        cell: A name, bytes, Hugging Face's structure of `bytes` and `path`, a list of them, or nothing.
        column: What messages call it.

    Returns:
        The images; `None` stands for a null or a blank name, which counts as absent.

    Raises:
        RowError: there is something else.
    """
    found: list[bytes | str | None] = []
    for value in images_in(cell):
        if not (value is None or isinstance(value, bytes | str)) or value == b"":
            kind = "an empty value" if value == b"" else kind_of(value)
            raise RowError(f"'{column}' must hold bytes or names of files, got {kind} in it")
        found.append(value if isinstance(value, bytes) or (value and value.strip()) else None)
    return found
