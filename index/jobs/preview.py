"""What a build would do, told without doing it."""

import contextlib
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from anykey.index.jobs.comparison import Comparison
from anykey.index.jobs.corpus import roots_of
from anykey.index.jobs.encoding import EncoderSource
from anykey.index.jobs.imported import source_of
from anykey.index.jobs.outlook import Outlook, compare
from anykey.index.jobs.plan import Plan
from anykey.index.jobs.preconditions import check_vector_type, check_wishes
from anykey.index.jobs.published import open_published_index
from anykey.index.jobs.reading import read_into
from anykey.index.settings import BuildSettings
from anykey.index.store.store import Store
from anykey.index.store.versions import IndexDirectory
from anykey.program.settings import plain_console
from anykey.sources.errors import InvalidRowError


def preview_build(
    settings: BuildSettings, source: EncoderSource | None = None, console: Console | None = None
) -> Outlook:
    """What `build_index` would do; nothing is written where the index is, and nothing embedded.

    Args:
        settings: What to build, from what, where to.
        source: The encoder; the checkpoint that the settings name when absent.
        console: Where progress is shown; stderr when absent.

    Raises:
        SourceError: as `build_index`, as far as it can be told without embedding; `strict` counts what the
            encoder refused.
        LiveKeysError: keys that were stored live would be lost; says what to do.
    """
    source = source or source_of(settings)
    console = console or plain_console(stderr=True)
    fingerprint, _ = check_wishes(settings, source)
    taken = None if settings.faiss else fingerprint
    with (
        TemporaryDirectory(prefix="anykey-build-") as scratch,
        contextlib.closing(Plan(Path(scratch) / "plan.sqlite", settings.images, taken, keeps_vectors=False)) as plan,
    ):

        def skip(row: InvalidRowError, position: int) -> None:
            if settings.strict:
                raise row
            plan.add_bad_row(row, position)

        read_into(plan, settings, source, console)
        published = open_published_index(
            IndexDirectory(settings.output), fingerprint, settings.anew, plan.left_out, Store.reading
        )
        try:
            if published is not None and published.has_encoder:
                check_vector_type(settings.vectors, published.store.meta["vector_type"], settings.output)
            return compare(Comparison(plan, settings, roots_of(settings)), plan, published, settings, skip)
        finally:
            if published is not None:
                published.close()
