"""Names of data as a user writes them: braces, patterns and `file://`, for corpora and for pairs."""

from braceexpand import braceexpand

from anykey.sources.errors import SourceError
from anykey.sources.files.files import exists, matches
from anykey.sources.files.locations import without_secrets


def expand(name: str) -> list[str]:
    """The names that braces stand for: `{000..099}` and `{a,b}` expand in any part of a name.

    Raises:
        SourceError: braces are unbalanced.
    """
    try:
        return list(braceexpand(name))
    except ValueError as error:
        raise SourceError(f"unbalanced braces in '{without_secrets(name)}'") from error


def named_files(location: str) -> list[str]:
    """The file or folder of that very name, or else the files that `*`, `?` and `[...]` match, sorted by name.

    Raises:
        OSError: the place cannot be reached.
    """
    return [location] if exists(location) else matches(location)
