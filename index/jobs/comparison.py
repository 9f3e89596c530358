"""A plan beside the stores it is to change, compared by SQLite: none of them is held in memory.

The stores are attached to the plan's connection, so that they can only be read. What is marked is marked in the plan.
"""

import heapq
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from anykey.index.errors import KeyCorruptError
from anykey.index.jobs.embed import is_current
from anykey.index.jobs.plan import CURRENT, ENTRY, LEFT, SETTLED, Plan, PlannedEntry, planned
from anykey.index.settings import BuildSettings
from anykey.index.store.store_file import naming_damage
from anykey.index.store.store_records import Known, load_images
from anykey.sources.files.roots import ImageRoots

NAMES_SHOWN = 5
PAGE_ROWS = 512
Side = Literal["published", "staged"]

_TABLES = {  # of records, and of what was refused
    "published": ("published.keys", "published.failures"),
    "staged": ("staged.staged", "staged.staged_failures"),
}
_IS_NAMED = "EXISTS (SELECT 1 FROM entries WHERE entries.key = k.key)"
_IS_WANTED = f"EXISTS (SELECT 1 FROM entries WHERE entries.key = k.key AND state != {CURRENT})"
_IS_TO_COME = (  # not so if its row turned out to be bad
    f"EXISTS (SELECT 1 FROM entries WHERE entries.key = k.key AND state != {CURRENT}"
    " AND position NOT IN (SELECT position FROM bad_rows))"
)
_IS_BAD = "EXISTS (SELECT 1 FROM bad_rows WHERE bad_rows.key = k.key)"
_IS_UNREACHABLE = "EXISTS (SELECT 1 FROM bad_rows WHERE bad_rows.key = k.key AND is_unreachable)"
_GONE = f"published.keys AS k WHERE origin = 'corpus' AND NOT {_IS_NAMED} AND NOT {_IS_UNREACHABLE}"


@dataclass(frozen=True)
class Some:
    """Some keys: how many, and the first of them."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, keys: Collection[str]) -> "Some":
        """These keys."""
        return cls(len(keys), heapq.nsmallest(NAMES_SHOWN, keys))

    def __add__(self, other: "Some") -> "Some":
        return Some(self.count + other.count, [*self.names, *other.names][:NAMES_SHOWN])


class Comparison:
    """A plan, and what a store has of its keys; for one thread."""

    def __init__(self, plan: Plan, settings: BuildSettings, roots: ImageRoots | None) -> None:
        """Attaches nothing yet.

        Args:
            plan: The corpus, which has been read.
            settings: The build's.
            roots: Below which images must lie; anywhere when absent.
        """
        self._plan = plan
        self._settings = settings
        self._roots = roots
        self._paths: dict[str, Path] = {}

    def attach(self, side: Side, path: Path) -> None:
        """Compares with a store from now on.

        Raises:
            IndexCorruptError: the file is no store.
        """
        self._paths[side] = path
        with naming_damage(path):
            self._plan.execute(f"ATTACH ? AS {side}", (f"{path.absolute().as_uri()}?mode=ro",))

    def keep_deleted(self, deleted: Iterable[str]) -> int:
        """Marks the entries of keys that were deleted live, and stay so; gives their number."""
        mark = "UPDATE entries SET is_deleted = 1, state = ? WHERE key = ?"
        self._plan.execute_all(mark, ((CURRENT, key) for key in deleted))
        return self._count("published", "SELECT count(*) FROM entries WHERE is_deleted")

    def settle(self, side: Side) -> Iterator[tuple[PlannedEntry, str]]:
        """Marks the entries left that a store has as the corpus has them, or has seen refused and would again.

        Yields:
            An entry that was refused, and why.
        """
        state = CURRENT if side == "published" else SETTLED
        table, failures = _TABLES[side]
        same = "known.key = entries.key AND known.payload_sha256 = entries.payload_sha256"
        is_same = f"EXISTS (SELECT 1 FROM {table} AS known WHERE {same})"
        with self._naming_damage(side):
            self._plan.execute(
                f"UPDATE entries SET state = ? WHERE state = ? AND images = '[]' AND {is_same}", (state, LEFT)
            )
        joined = f"entries CROSS JOIN {table} AS known ON {same} WHERE entries.images != '[]'"  # in this order
        yield from self._settle_by_images(side, state, joined, "content_sha256, NULL, NULL")
        joined = f"entries CROSS JOIN {failures} AS known ON {same} WHERE true"
        yield from self._settle_by_images(side, state, joined, "NULL, limits, reason")

    def left(self, with_published: bool) -> Iterator[tuple[PlannedEntry, Known | None]]:
        """The entries left, in the corpus's order, each with what is staged of its key; the plan may change meanwhile.

        Args:
            with_published: Whether what is published counts where nothing is staged: not that of another encoder.
        """
        joins = "LEFT JOIN staged.staged AS s USING (key)"
        columns = ("payload_sha256", "stamps", "content_sha256")  # of a record that a build made all, else none
        facts = [f"s.{column}" for column in columns]
        if with_published:
            joins += " LEFT JOIN published.keys AS k USING (key)"
            facts = [f"coalesce(s.{column}, k.{column})" for column in columns]
        query = (
            f"SELECT {ENTRY}, s.payload_sha256 IS NULL, {', '.join(facts)} FROM entries {joins}"
            " WHERE state = ? AND position > ? ORDER BY position LIMIT ?"
        )
        return chain.from_iterable(self._left_pages(query))

    def _left_pages(self, query: str) -> Iterator[list[tuple[PlannedEntry, Known | None]]]:
        last = -1
        while page := self._left_page(query, last):
            last = page[-1][0].position
            yield page

    def _left_page(self, query: str, last: int) -> list[tuple[PlannedEntry, Known | None]]:
        left = list[tuple[PlannedEntry, Known | None]]()
        rows = self._page("staged", query, LEFT, last, PAGE_ROWS)
        for *entry, is_published, payload_sha256, stamps, content_sha256 in rows:
            known = None
            if payload_sha256 is not None:
                side: Side = "published" if is_published else "staged"
                known = self._known(side, entry[1], payload_sha256, stamps, content_sha256, None, None)
            left.append((planned(entry), known))
        return left

    def new_changed_live(self) -> tuple[int, int, int]:
        """How many of the entries left are new keys, keys that a build stored, and keys that were stored live."""
        if "published" not in self._paths:
            return self._plan.count(only_left=True), 0, 0
        query = (
            "SELECT coalesce(known.origin, ''), count(*) FROM entries LEFT JOIN published.keys AS known USING (key)"
            " WHERE state = ? GROUP BY 1"
        )
        counts = dict(self._rows("published", query, LEFT))
        return counts.get("", 0), counts.get("corpus", 0), counts.get("live", 0)

    def num_unreachable(self, only_built: bool = True) -> int:
        """How many published keys, or of those that a build stored, have images that cannot be read now."""
        origin = "AND origin = 'corpus'" * only_built
        keys = f"bad_rows JOIN published.keys USING (key) WHERE is_unreachable {origin}"
        return self._count("published", f"SELECT count(DISTINCT key) FROM {keys}")

    def num_unread(self) -> int:
        """How many keys that a build stored are not named, but may be where the corpus cannot be read."""
        return self._count("published", f"SELECT count(*) FROM {_GONE}") if self._plan.is_any_unread else 0

    def gone(self) -> Some:
        """The keys that a build stored and that are gone from the corpus: none where a stretch cannot be read."""
        return Some() if self._plan.is_any_unread else self._some(_GONE)

    def gone_keys(self) -> Iterator[str]:
        """The same, one by one, in the order of their change numbers."""
        if not self._plan.is_any_unread:
            yield from self._keys("published", f"SELECT k.key FROM {_GONE} ORDER BY k.row")

    def left_out(self) -> Some:
        """The keys that a build stored and that are not to be stored from this corpus, whatever the reason."""
        named = "EXISTS (SELECT 1 FROM entries WHERE entries.key = k.key AND NOT is_deleted)"
        return self._some(f"published.keys AS k WHERE origin = 'corpus' AND NOT {named}")

    def not_taken_over(self, with_live: bool) -> Some:
        """The keys of what is published that a build with another encoder does not have.

        Args:
            with_live: Whether those that were stored live are among them.
        """
        origin = "true" if with_live else "origin = 'corpus'"
        staged = "EXISTS (SELECT 1 FROM staged.staged WHERE staged.key = k.key)"
        return self._some(f"published.keys AS k WHERE {origin} AND NOT {staged}")

    def refused(self) -> Some:
        """The keys that a build stored and that the encoder has refused since."""
        return self._some("staged.staged_failures JOIN published.keys AS k USING (key) WHERE origin = 'corpus'")

    def forgettable_refusals(self) -> Iterator[str]:
        """Keys that were refused and are gone from the corpus."""
        if not self._plan.is_any_unread:
            query = f"SELECT key FROM published.failures AS k WHERE NOT {_IS_NAMED} AND NOT {_IS_UNREACHABLE}"
            yield from self._keys("published", query)

    def deletions(self, named: bool) -> Iterator[str]:
        """Keys that were deleted live: those that the corpus names, by a good row or a bad one, or the others.

        Where not all bad rows tell their keys, any of them may be named.
        """
        has_table = "SELECT 1 FROM published.sqlite_master WHERE type = 'table' AND name = 'deletions'"
        if not self._keys_of("published", has_table):
            return
        is_any_nameless = self._keys_of("published", "SELECT 1 FROM bad_rows WHERE key IS NULL LIMIT 1")
        is_named = "true" if is_any_nameless else f"({_IS_NAMED} OR {_IS_BAD})"
        query = f"SELECT key FROM published.deletions AS k WHERE {is_named if named else f'NOT {is_named}'}"
        yield from self._keys("published", query)

    def strays(self) -> Iterator[int]:
        """What is staged and not to be published, as it is of another corpus; by `id`.

        This is also what an earlier run staged of a key whose images could be read then, and cannot any more.
        """
        query = f"SELECT k.id FROM staged.staged AS k WHERE NOT {_IS_TO_COME}"
        return (identity for (identity,) in self._rows("staged", query))

    def stray_refusals(self) -> Iterator[str]:
        """Keys that are staged as refused and that this is not to be published of.

        These are keys of another corpus; and keys that a build stored, while a stretch of the corpus cannot be read.
        """
        is_wanted = _IS_WANTED
        if self._plan.is_any_unread and "published" in self._paths:
            built = "SELECT 1 FROM published.keys WHERE keys.key = k.key AND origin = 'corpus'"
            is_wanted += f" AND NOT EXISTS ({built})"
        return self._keys("staged", f"SELECT k.key FROM staged.staged_failures AS k WHERE NOT ({is_wanted})")

    def _settle_by_images(self, side: Side, state: int, joined: str, facts: str) -> Iterator[tuple[PlannedEntry, str]]:
        """Looks at the images of entries whose payload is the same, page by page."""
        last = -1
        query = (
            f"SELECT {ENTRY}, known.payload_sha256, known.stamps, {facts} FROM {joined}"
            " AND state = ? AND position > ? ORDER BY position LIMIT ?"
        )
        while page := self._page(side, query, LEFT, last, PAGE_ROWS):
            last = page[-1][0]
            pairs = [(entry := planned(row[:-5]), self._known(side, entry.key, *row[-5:])) for row in page]
            same = [(entry, known) for entry, known in pairs if is_current(entry, known, self._settings, self._roots)]
            mark = "UPDATE entries SET state = ? WHERE position = ?"
            self._plan.execute_all(mark, ((state, entry.position) for entry, _ in same))
            yield from ((entry, known.reason) for entry, known in same if known.reason is not None)

    def _known(
        self,
        side: Side,
        key: str,
        payload_sha256: bytes,
        stamps: str,
        content_sha256: bytes | None,
        limits: str | None,
        reason: str | None,
    ) -> Known:
        """What a store knows of a key.

        Raises:
            KeyCorruptError: it is damaged.
        """
        facts = (payload_sha256, content_sha256) if reason is None else (payload_sha256, limits, reason)
        try:
            images = load_images(stamps, key, *facts)
        except ValueError as error:
            raise KeyCorruptError(self._paths[side], key, str(error)) from error
        return Known(payload_sha256, images, content_sha256, limits, reason)

    def _some(self, source: str) -> Some:
        names = self._keys_of("published", f"SELECT k.key FROM {source} ORDER BY k.row LIMIT {NAMES_SHOWN}")
        return Some(self._count("published", f"SELECT count(*) FROM {source}"), names) if names else Some()

    def _keys(self, side: Side, query: str) -> Iterator[str]:
        return (key for (key,) in self._rows(side, query))

    def _keys_of(self, side: Side, query: str) -> list[str]:
        return list(self._keys(side, query))

    def _count(self, side: Side, query: str) -> int:
        ((count,),) = self._rows(side, query)
        return int(count)

    def _rows(self, side: Side, query: str, *parameters: str | int) -> Iterator[tuple[Any, ...]]:
        with self._naming_damage(side):
            yield from self._plan.execute(query, parameters)

    def _page(self, side: Side, query: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        with self._naming_damage(side):
            return self._plan.execute(query, parameters).fetchall()

    def _naming_damage(self, side: Side) -> AbstractContextManager[None]:
        """Says of the store what SQLite complains about, unless it is of the plan."""
        return naming_damage(self._paths.get(side, self._plan.path))
