"""Names of data as a user writes them become files and folders: for an index, for training and for the benchmark."""

from dataclasses import dataclass

from braceexpand import braceexpand

from anykey.sources.errors import SourceError
from anykey.sources.files.files import exists, is_folder, matches, reason_of
from anykey.sources.files.locations import normal_location, scheme_of, without_secrets


@dataclass(frozen=True)
class Named:
    """A file or folder that a name stands for.

    Attributes:
        location: A path or URL.
        is_folder: Whether it is a folder.
        part: What follows `#` in its name, such as a split; empty for all of it.
    """

    location: str
    is_folder: bool = False
    part: str = ""


def expand(name: str) -> list[str]:
    """The names that braces stand for: `{000..099}` and `{a,b}` expand in any part of a name.

    Raises:
        SourceError: braces are unbalanced.
    """
    try:
        return list(braceexpand(name))
    except ValueError as error:
        raise SourceError(f"unbalanced braces in '{without_secrets(name)}'") from error


def find(name: str, has_parts: bool = False) -> list[Named]:
    """The file or folder of that very name, or else the files that `*`, `?` and `[...]` match, sorted by name.

    Args:
        name: A path or URL, whose braces have been expanded; `file://` is the path that it is.
        has_parts: Whether `#` and a part may follow the name.

    Raises:
        SourceError: there is no such file, or the place cannot be reached.
    """
    location = normal_location(name)
    label = without_secrets(location)
    try:
        for place, part in _readings(location, has_parts):
            if is_folder(place):
                return [Named(place, True, part)]
            if found := [place] if exists(place) else matches(place):
                return [Named(file, False, part) for file in found]
    except OSError as error:
        raise SourceError(f"cannot read {label}: {reason_of(error)}") from error
    raise SourceError(f"{label or 'an empty name'} does not exist")


def _readings(location: str, has_parts: bool) -> list[tuple[str, str]]:
    """What a name may mean, as a location and a part; over HTTP no name of a file holds a `#`."""
    base, mark, part = location.rpartition("#")
    if not mark or not has_parts:
        return [(location, "")]
    is_page = scheme_of(location) in ("http", "https")
    return [(base, part)] if is_page else [(location, ""), (base, part)]
