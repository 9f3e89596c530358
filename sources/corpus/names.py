"""What a user names as a corpus becomes files: braces, patterns, URLs, folders."""

from collections.abc import Sequence

from anykey.sources.corpus.entry import CorpusFile
from anykey.sources.corpus.mbeir import candidate_files
from anykey.sources.errors import SourceError
from anykey.sources.files.files import is_folder, reason_of
from anykey.sources.files.locations import normal_location, without_secrets
from anykey.sources.names import expand, named_files


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
    return [file for name in names for expanded in expand(name) for file in _find(normal_location(expanded))]


def _find(location: str) -> list[CorpusFile]:
    label = without_secrets(location)
    try:
        if is_folder(location):
            return candidate_files(location) or [CorpusFile(location, is_folder=True)]
        found = named_files(location)
    except OSError as error:
        raise SourceError(f"corpus {label} cannot be read: {reason_of(error)}") from error
    if not found:
        raise SourceError(f"corpus {label} does not exist")
    return list(map(CorpusFile, found))
