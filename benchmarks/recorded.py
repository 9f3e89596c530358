"""What was measured before, as JSON beside the page, and which of it may stand on the page together."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.setting import Setting

NOTES = "## Notes"


def kept_notes(page: Path) -> list[str]:
    """The lines from the heading "Notes" to the end of a page, which people wrote and a page written anew keeps.

    Args:
        page: The page as it was written before, if it was.
    """
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    return lines[lines.index(NOTES) :] if NOTES in lines else []


class NotComparableError(Exception):
    """What was asked for would be measured beside something else, or beside nothing."""


class Recorded:
    """The recorded parts of a page, a file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def parts(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """By name, the parts that were measured."""
        paths = {name: self._path(name) for name in names}
        return {name: json.loads(path.read_bytes()) for name, path in paths.items() if path.exists()}

    def write(self, name: str, found: Mapping[str, Any]) -> None:
        """Records a part in place of what it was before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path(name).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    def require_search(self, beside: Setting | None) -> None:
        """Makes sure that search was measured, since a page begins with it.

        Args:
            beside: What is to be measured beside it; `None` if that is nothing that has to be alike.

        Raises:
            NotComparableError: it was not, or it was measured in another setting.
        """
        path = self._path("search")
        if not path.exists():
            raise NotComparableError(f"there is no {path}: measure search first, or with the rest (--only search ...)")
        there = Setting.of(json.loads(path.read_bytes()))
        if beside not in (None, there):
            raise NotComparableError(
                f"{path} is of {there}, and peers were asked for {beside}: give that --num-keys and --width, or "
                "measure search again with them (--only search ...)"
            )

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def beside(search: Mapping[str, Any], peers: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Parts the peers that may stand beside the search from those that may not.

    Returns:
        The first, by name; of the others what they were measured with, a sentence each.
    """
    alike = {name: found for name, found in peers.items() if Setting.of(found) == Setting.of(search)}
    others = [f"{name} was measured with {Setting.of(peers[name])}" for name in peers if name not in alike]
    return alike, others
