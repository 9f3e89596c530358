"""What an answer shows of each hit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anykey.index.errors import InvalidFilterError
from anykey.index.filtering.conditions import Exists, Path, flatten
from anykey.index.filtering.filters import parse_path
from anykey.service.errors import InvalidRequestError

KNOWN = ("text", "metadata", "image_urls", "vector", "part_scores")
METADATA = "metadata."
MAX_INCLUDED = 100
SHOWN_CHARS = 40

_NOTHING = object()


@dataclass(frozen=True)
class Include:
    """What an answer shows of each hit, beside its name, score, rank and modality.

    Attributes:
        text: The key's text.
        metadata: All of the key's metadata.
        members: Paths of the members of the metadata that are shown, where not all are.
        image_urls: Where the key's images are.
        vector: The key's vector.
        part_scores: How well the key matches each part of the query.
    """

    text: bool = True
    metadata: bool = True
    members: tuple[Path, ...] = ()
    image_urls: bool = True
    vector: bool = False
    part_scores: bool = False

    def metadata_of(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """What is shown of a key's metadata: all of it, or the members that were asked for, where they are."""
        if self.metadata:
            return metadata
        tree: dict[str, Any] = {}
        for path in self.members:
            branch: Any = tree
            for name in path[:-1]:
                branch = branch.setdefault(name, {})
                if branch is None:
                    break
            else:
                branch[path[-1]] = None
        shown = _pruned(metadata, tree)
        return {} if shown is _NOTHING else dict(shown)


PAYLOAD = Include()


def parse_include(names: Sequence[str] | None) -> Include:
    """Reads the names of what is to be shown; absent: the payload.

    Raises:
        InvalidRequestError: a name is not known; says which are.
    """
    if names is None:
        return PAYLOAD
    if len(names) > MAX_INCLUDED:
        raise InvalidRequestError(f"include: at most {MAX_INCLUDED} names, got {len(names)}")
    members = [_member(name) for name in names if name.startswith(METADATA)]
    for name in names:
        if name not in KNOWN and not name.startswith(METADATA):
            shown = ascii(name if len(name) <= SHOWN_CHARS else name[:SHOWN_CHARS] + "...")
            known = f"{', '.join(KNOWN)}, and members of metadata such as metadata.price"
            raise InvalidRequestError(f"include: unknown name {shown}; known: {known}")
    chosen = {known: known in names for known in KNOWN}
    return Include(members=tuple(dict.fromkeys(members)), **chosen)


def _member(name: str) -> Path:
    """The path that a name such as `metadata.size.width` has in the metadata; dots are written as in filters."""
    try:
        return Exists(parse_path(name.removeprefix(METADATA))).path
    except InvalidFilterError as error:
        raise InvalidRequestError(f"include: wrong member of metadata: {error.reason}") from error


def _pruned(value: Any, tree: dict[str, Any] | None) -> Any:
    """What is left of a value if only the members in a tree are kept; of lists, the elements that have some."""
    if tree is None:
        return value
    if isinstance(value, dict):
        inner = {name: _pruned(value[name], branch) for name, branch in tree.items() if name in value}
        kept = {name: left for name, left in inner.items() if left is not _NOTHING}
        return kept or _NOTHING
    if isinstance(value, list):
        elements = [_pruned(element, tree) for element in flatten(value)]
        return [element for element in elements if element is not _NOTHING] or _NOTHING
    return _NOTHING
