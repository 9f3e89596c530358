"""What a build will do to the keys that are published, told and judged before anything is embedded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from anykey.index.errors import RemovalRefusedError, shortened
from anykey.index.jobs.comparison import Comparison, Some
from anykey.index.jobs.plan import Plan
from anykey.index.jobs.published import PublishedIndex
from anykey.index.settings import BuildSettings
from anykey.sources.errors import InvalidRowError

MOST_REMOVED_UNASKED = 0.1  # of the keys that earlier builds stored
FEW_KEYS = 100  # of so many, any may go


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
    gone: Some = field(default_factory=Some)
    num_unread: int = 0
    num_unreachable: int = 0
    num_deleted: int = 0
    is_any_unread: bool = False
    can_keep: bool = True
    bad_rows: list[InvalidRowError] = field(default_factory=list)


def compare(
    comparison: Comparison,
    plan: Plan,
    published: PublishedIndex | None,
    settings: BuildSettings,
    skip: Callable[[InvalidRowError, int], None],
) -> Outlook:
    """Marks in a plan what the index holds as the corpus has it, and what stays deleted.

    Args:
        comparison: Of the plan with what is published, which is attached to it.
        plan: The corpus.
        published: What is published.
        settings: The build's.
        skip: Told of rows that the encoder would refuse again, with their places in the plan.
    """
    outlook = Outlook(is_any_unread=plan.is_any_unread)
    if published is not None:
        comparison.attach("published", published.store.path)
        if not settings.restore_deleted:
            outlook.num_deleted = comparison.keep_deleted(published.store.deleted())
        if published.has_encoder:
            for entry, reason in comparison.settle("published"):
                skip(InvalidRowError(entry.where, reason, entry.key), entry.position)
    outlook.num_new, outlook.num_changed, outlook.num_live = comparison.new_changed_live()
    if published is not None:
        outlook.num_published = published.store.num_keys("corpus")
        outlook.num_unreachable = comparison.num_unreachable()
        outlook.can_keep = published.has_encoder
        outlook.gone = comparison.gone() if outlook.can_keep else comparison.left_out()
        outlook.num_unread = comparison.num_unread() if outlook.can_keep else 0
    outlook.bad_rows = plan.bad_rows()
    return outlook


def require_allowed(outlook: Outlook, settings: BuildSettings, gone: Some | None = None) -> None:
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
    if settings.allow_removal or not gone.count:
        return
    if is_much(gone.count, outlook.num_published):
        raise removal_refused(gone, outlook.num_published, settings.output, "the corpus has no usable row of them")
    if not outlook.can_keep and (outlook.is_any_unread or outlook.num_unreachable):
        reason = "what the corpus has of them cannot be read now"
        raise removal_refused(gone, outlook.num_published, settings.output, reason)


def is_much(num_gone: int, num_stored: int) -> bool:
    """Whether so many keys go that it looks like an accident."""
    return num_stored > FEW_KEYS and num_gone > MOST_REMOVED_UNASKED * num_stored


def removal_refused(gone: Some, num_stored: int, place: str | Path, reason: str) -> RemovalRefusedError:
    """Says which keys would go from where, why, and what to do."""
    names = ", ".join(repr(shortened(key)) for key in gone.names)
    rest = " and more" if gone.count > len(gone.names) else ""
    return RemovalRefusedError(
        f"{gone.count:,} of the {num_stored:,} keys that earlier runs stored in {place} would go, as {reason}: "
        f"{names}{rest}; mend the corpus, or use --allow-removal if they are to go"
    )


def summary(outlook: Outlook) -> str:
    """What a build will do to the keys of an index, in a line."""
    live = f", {outlook.num_live:,} in place of keys stored live" if outlook.num_live else ""
    return (
        f"compared with {outlook.num_published:,} keys of earlier builds: {outlook.num_new:,} new, "
        f"{outlook.num_changed:,} changed{live}, {outlook.gone.count:,} to be removed"
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


def cut_lines(num_cut: int) -> list[str]:
    """What is said of keys whose text is longer than the encoder's context, if there are any."""
    return [f"{num_cut:,} texts are longer than the encoder's context: their ends are not in the vectors"] * bool(
        num_cut
    )
