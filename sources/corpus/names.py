"""What a user names as a corpus becomes files: braces, patterns, URLs, folders."""

from collections.abc import Sequence

from anykey.sources.corpus.copied import copied
from anykey.sources.corpus.entry import CorpusFile
from anykey.sources.corpus.mbeir import candidate_files
from anykey.sources.errors import SourceError
from anykey.sources.files.files import reason_of
from anykey.sources.files.locations import PIPE, without_secrets
from anykey.sources.names import Named, expand, find


def find_files(names: Sequence[str]) -> list[CorpusFile]:
    """Resolves corpus names to files and folders in the order they are read.

    `{000..099}` and `{a,b}` expand in any part of a name. Then a file or folder of that very name is meant; else `*`,
    `?` and `[...]` match files, sorted by name. A folder with `cand_pool/local/*.jsonl` is an M-BEIR dataset and
    stands for those files; any other is a folder of images.

    Args:
        names: Paths, patterns, URLs, and `pipe:COMMAND` for a shard that a command writes.

    Raises:
        SourceError: there is no such file, or it cannot be reached.
    """
    return [file for name in names for expanded in expand(name) for file in _files_of(expanded)]


def _files_of(name: str) -> list[CorpusFile]:
    if name.startswith(PIPE):
        return [copied(CorpusFile(name))]
    return [file for found in find(name) for file in _files_in(found)]


def _files_in(found: Named) -> list[CorpusFile]:
    if not found.is_folder:
        return [CorpusFile(found.location)]
    try:
        return candidate_files(found.location) or [CorpusFile(found.location, is_folder=True)]
    except OSError as error:
        raise SourceError(f"cannot read {without_secrets(found.location)}: {reason_of(error)}") from error
