"""Names of keys and pools as applications hand them over."""

from collections.abc import Collection
from typing import Any


def is_unicode(name: object) -> bool:
    """Whether it can be the name of something stored: a string, without half a surrogate pair in it."""
    try:
        return isinstance(name, str) and name.encode() is not None
    except UnicodeEncodeError:
        return False


def require_names(names: Any, what: str) -> None:
    """Refuses one name where several are expected: it would be taken letter by letter.

    Args:
        names: What was handed over.
        what: What messages call it.

    Raises:
        TypeError: it is a string, or no collection.
    """
    if isinstance(names, str | bytes) or not isinstance(names, Collection):
        raise TypeError(f"expected {what} to be a collection of names, got {_shorten(repr(names))}")


def _shorten(text: str, max_chars: int = 80) -> str:
    return text if len(text) <= max_chars else text[:max_chars] + "..."
