"""A corpus into a plan, for all that start from one: builds, their dry runs and embedding jobs."""

from rich.console import Console

from anykey.index.jobs.corpus import read_corpus
from anykey.index.jobs.encoding import EncoderSource
from anykey.index.jobs.plan import Plan
from anykey.index.settings import EmbeddingSettings, EmbedSettings
from anykey.program.progress import progress
from anykey.sources.errors import InvalidRowError, SourceError, UnreadableStretchError
from anykey.sources.files.locations import without_secrets


def read_into(plan: Plan, settings: EmbeddingSettings, source: EncoderSource, console: Console) -> None:
    """Reads the whole corpus into a plan, bad rows included.

    Raises:
        SourceError: a file cannot be read at all, `strict` met a bad row, nothing can be used, or the source of
            vectors has others than for these rows.
    """
    with progress(console, "reading the corpus", None) as advance:
        for row in read_corpus(settings):
            plan.next_row(row.num_rows if isinstance(row, UnreadableStretchError) else 1)
            try:
                if isinstance(row, InvalidRowError):
                    raise row
                plan.add(row.entry, row.images)
            except InvalidRowError as error:
                if settings.strict:
                    raise
                plan.add_bad_row(error)
            advance()
    plan.end_reading()
    if plan.count() == 0:
        raise SourceError(nothing_left(plan, settings))
    source.require_rows(plan.num_rows)


def nothing_left(plan: Plan, settings: EmbeddingSettings) -> str:
    """Says that no row of a corpus can be used, and why not the first."""
    bad_rows = plan.bad_rows()
    paths = ", ".join(map(without_secrets, settings.corpus))
    first = f"; the first is {bad_rows[0]}" if bad_rows else ""
    use = "embed" if isinstance(settings, EmbedSettings) else "index"
    return f"nothing to {use} in {paths}: no usable row, {len(bad_rows)} bad rows{first}"
