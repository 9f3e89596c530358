"""What a build will do to the keys that are published, told and judged before anything is embedded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anykey.index.errors import RemovalRefusedError, shortened
from anykey.index.jobs.embed import is_current
from anykey.index.jobs.plan import Plan
from anykey.index.jobs.published import PublishedIndex
from anykey.index.settings import BuildSettings
from anykey.sources.errors import InvalidRowError
from anykey.sources.files.roots import ImageRoots

MOST_REMOVED_UNASKED = 0.1  # of the keys that earlier builds stored
FEW_KEYS = 100  # of so many, any may go
NAMES_SHOWN = 5


@dataclass
class Outlook:
    """What a build will do.

    Attributes:
        num_published: Keys that earlier builds stored.
        num_new: Keys of the corpus that the index does not have.
        num_changed: Keys that earlier builds stored, and that the corpus has otherwise.
        num_live: Keys that were stored live, whose place a row of the corpus takes.
        gone: Keys that earlier builds stored, and that the corpus has no usable row of.
        num_unread: Keys that earlier builds stored and the corpus does not name, but may where it cannot be read: they
            stay.
        num_unreachable: Keys that stay as earlier builds stored them, since their images cannot be read now.
        num_deleted: Keys that were deleted live and stay so, though the corpus names them.
        is_any_unread: Whether a stretch of the corpus cannot be read.
        can_keep: Whether keys that the corpus does not give can stay: not those of another encoder.
        bad_rows: Rows of the corpus that are skipped.
    """

    num_published: int = 0
    num_new: int = 0
    num_changed: int = 0
    num_live: int = 0
    gone: list[str] = field(default_factory=list)
    num_unread: int = 0
    num_unreachable: int = 0
    num_deleted: int = 0
    is_any_unread: bool = False
    can_keep: bool = True
    bad_rows: list[InvalidRowError] = field(default_factory=list)


def compare(
    plan: Plan,
    published: PublishedIndex | None,
    settings: BuildSettings,
    skip: Callable[[InvalidRowError, int], None],
    roots: ImageRoots | None = None,
) -> Outlook:
    """Marks in a plan what the index does not hold as the corpus has it, and what stays deleted.

    Args:
        plan: The corpus.
        published: What is published.
        settings: The build's.
        skip: Told of rows that the encoder would refuse again, with their places in the plan.
        roots: Below which images must lie; anywhere when absent.
    """
    outlook = Outlook(is_any_unread=plan.is_any_unread)
    deleted = set() if published is None or settings.restore_deleted else set(published.store.deleted())
    for entry in plan.entries():
        if entry.key in deleted:
            plan.mark_deleted(entry.position)
            outlook.num_deleted += 1
            continue
        known = published.store.known(entry.key) if published is not None and published.has_encoder else None
        if not is_current(entry, known, settings, roots):
            plan.mark_stale(entry.position)
            _count(outlook, entry.key, published)
        elif known is not None and known.reason is not None:
            skip(InvalidRowError(entry.where, known.reason, entry.key), entry.position)
    if published is not None:
        _look_at_published(outlook, plan, published)
    outlook.bad_rows = plan.bad_rows()
    return outlook


def require_allowed(outlook: Outlook, settings: BuildSettings, gone: list[str] | None = None) -> None:
    """Makes sure that no more of the published keys go than may go unasked.

    Args:
        outlook: What the build will do.
        settings: The build's.
        gone: The keys that go, once all has been tried; as the outlook has them when absent.

    Raises:
        RemovalRefusedError: more would go: of more than 100 keys over a tenth; or any that may only be unreadable, and
            cannot be kept.
    """
    gone = outlook.gone if gone is None else gone
    if settings.allow_removal or not gone:
        return
    if is_much(len(gone), outlook.num_published):
        raise removal_refused(gone, outlook.num_published, settings.output, "the corpus has no usable row of them")
    if not outlook.can_keep and (outlook.is_any_unread or outlook.num_unreachable):
        reason = "what the corpus has of them cannot be read now"
        raise removal_refused(gone, outlook.num_published, settings.output, reason)


def is_much(num_gone: int, num_stored: int) -> bool:
    """Whether so many keys go that it looks like an accident."""
    return num_stored > FEW_KEYS and num_gone > MOST_REMOVED_UNASKED * num_stored


def removal_refused(gone: Sequence[str], num_stored: int, place: str | Path, reason: str) -> RemovalRefusedError:
    """Says which keys would go from where, why, and what to do."""
    names = ", ".join(repr(shortened(key)) for key in gone[:NAMES_SHOWN])
    rest = " and more" if len(gone) > NAMES_SHOWN else ""
    return RemovalRefusedError(
        f"{len(gone):,} of the {num_stored:,} keys that earlier runs stored in {place} would go, as {reason}: "
        f"{names}{rest}; mend the corpus, or use --allow-removal if they are to go"
    )


def summary(outlook: Outlook) -> str:
    """What a build will do to the keys of an index, in a line."""
    live = f", {outlook.num_live:,} in place of keys stored live" if outlook.num_live else ""
    return (
        f"compared with {outlook.num_published:,} keys of earlier builds: {outlook.num_new:,} new, "
        f"{outlook.num_changed:,} changed{live}, {len(outlook.gone):,} to be removed"
    )


def kept_lines(num_unread: int, num_unreachable: int, num_deleted: int) -> list[str]:
    """What a build says of keys that stay as they are, or stay away, whatever the corpus gives."""
    lines = []
    if num_unread:
        lines.append(f"{num_unread:,} keys that may be named where the corpus cannot be read stay as they were indexed")
    if num_unreachable:
        lines.append(f"{num_unreachable:,} keys whose images cannot be read now stay as they were indexed")
    if num_deleted:
        lines.append(f"{num_deleted:,} keys that were deleted live stay deleted; --restore-deleted stores them again")
    return lines


def _count(outlook: Outlook, key: str, published: PublishedIndex | None) -> None:
    if published is not None and published.store.is_built(key):
        outlook.num_changed += 1
    elif published is not None and published.store.has(key):
        outlook.num_live += 1
    else:
        outlook.num_new += 1


def _look_at_published(outlook: Outlook, plan: Plan, published: PublishedIndex) -> None:
    outlook.num_published = published.store.num_keys("corpus")
    outlook.num_unreachable = sum(map(published.store.is_built, plan.unreachable()))
    outlook.can_keep = published.has_encoder
    choose = plan.lacking if outlook.can_keep else plan.left_out
    outlook.gone = list(choose(published.store.keys("corpus")))
    if outlook.can_keep and plan.is_any_unread:
        outlook.num_unread = sum(1 for _ in plan.unnamed(published.store.keys("corpus")))


def cut_lines(num_cut: int) -> list[str]:
    """What is said of keys whose text is longer than the encoder's context, if there are any."""
    return [f"{num_cut:,} texts are longer than the encoder's context: their ends are not in the vectors"] * bool(
        num_cut
    )
