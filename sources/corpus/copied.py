"""Files of a corpus that cannot be read in place, read from copies as training reads them."""

from dataclasses import replace

from anykey.program.cache_folder import MAX_DATA_BYTES, keep_below
from anykey.sources.corpus.entry import CorpusFile
from anykey.sources.files.copies import copy_file, default_cache_dir
from anykey.sources.files.files import file_state
from anykey.sources.files.locations import scheme_of


def copied(file: CorpusFile) -> CorpusFile:
    """A file as its copy in the user's cache folder, which is fetched unless it is there.

    Raises:
        SourceError: it cannot be fetched.
    """
    lease = copy_file(file.location)
    keep_below(default_cache_dir(), MAX_DATA_BYTES)
    return replace(file, location=str(lease.path), named=file.location, lease=lease)


def readable_in_parts(file: CorpusFile) -> CorpusFile:
    """A file that can be read at any place: itself, or its copy where a server serves whole files alone.

    Raises:
        SourceError: it cannot be fetched.
        OSError: its server cannot be reached.
    """
    is_page = scheme_of(file.location) in ("http", "https")
    return copied(file) if is_page and not file_state(file.location).has_ranges else file
