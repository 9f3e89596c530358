"""What a user names as a corpus becomes files: braces, patterns, URLs, folders."""

from collections.abc import Sequence

from anykey.sources.corpus.entry import CorpusFile
from anykey.sources.corpus.mbeir import candidate_files
from anykey.sources.errors import SourceError
from anykey.sources.files.files import reason_of
from anykey.sources.files.locations import without_secrets
from anykey.sources.names import Named, expand, find


def find_files(names: Sequence[str]) -> list[CorpusFile]:
    """Resolves corpus names to files and folders in the order they are read.

    `{000..099}` and `{a,b}` expand in any part of a name. Then a file or folder of that very name is meant; else `*`,
    `?` and `[...]` match files, sorted by name. A folder with `cand_pool/local/*.jsonl` is an M-BEIR dataset and
    stands for those files; any other is a folder of images.

    Args:
        names: Paths, patterns and URLs.

    Raises:
        SourceError: there is no such file, or it cannot be reached.
    """
    return [
        file for name in names for expanded in expand(name) for found in find(expanded) for file in _files_of(found)
    ]


def _files_of(named: Named) -> list[CorpusFile]:
    if not named.is_folder:
        return [CorpusFile(named.location)]
    try:
        return candidate_files(named.location) or [CorpusFile(named.location, is_folder=True)]
    except OSError as error:
        raise SourceError(f"cannot read {without_secrets(named.location)}: {reason_of(error)}") from error
