"""Which images an index may refer to: roots that whoever made it named, in a file of its directory.

The file is no part of a store or a version, and in no snapshot: what comes from others widens nothing.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from anykey.index.errors import IndexCorruptError, IndexFormatError
from anykey.index.hits import FoundImage, StoredImage, at_hand
from anykey.index.referred import read_referred
from anykey.index.store.manifest import read_whole
from anykey.index.store.records import NewImage
from anykey.index.store.versions import IndexDirectory
from anykey.program.files import replace_file
from anykey.sources.files.roots import MAX_IMAGE_BYTES, ImageRoots

ROOTS_NAME = "image_roots.json"
FORMAT_VERSION = 1
logger = logging.getLogger(__name__)


class RecordedRoots(BaseModel):
    """What the file says.

    Attributes:
        format_version: Of the file.
        corpus: Roots of the corpus that the last build read.
        named: Roots that `load`, `restore` and `reembed` were told of.
        of_versions: Roots of the corpora of builds, by the versions that they published, while those are kept or others
            that were made of them.
        max_image_bytes: Larger images are not read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    corpus: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    of_versions: dict[str, tuple[str, ...]] = {}
    max_image_bytes: int = MAX_IMAGE_BYTES

    def roots(self) -> ImageRoots:
        """Those of both."""
        return ImageRoots((*self.corpus, *self.named), self.max_image_bytes)


def read_roots(index_dir: Path) -> RecordedRoots:
    """What was recorded of an index; nothing, with a warning, where it cannot be read."""
    try:
        return _recorded(index_dir)
    except (OSError, IndexCorruptError, IndexFormatError) as error:
        path = index_dir / ROOTS_NAME
        logger.warning("%s cannot be read, so that no images are that the index refers to: %s", path, error)
        return RecordedRoots()


def _recorded(index_dir: Path) -> RecordedRoots:
    """What was recorded of an index, for those who write it anew: what they cannot read they would lose.

    Raises:
        IndexCorruptError: the file is damaged.
        IndexFormatError: a later release wrote it.
        OSError: it cannot be read.
    """
    path = index_dir / ROOTS_NAME
    try:
        content = json.loads(read_whole(path))
        if isinstance(content, dict) and content.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
            raise IndexFormatError(
                f"{path} has format {content['format_version']!r}, this release reads format {FORMAT_VERSION}"
            )
        return RecordedRoots.model_validate_json(json.dumps(content))
    except FileNotFoundError:
        return RecordedRoots()
    except ValueError as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise IndexCorruptError(path, f"{reason}; delete it, and name the roots again with --image-root") from error


def roots_in_force(index_dir: Path, named: Sequence[str] | None) -> ImageRoots:
    """Below which images may be read: roots that an application named, or those that are recorded of the index."""
    recorded = read_roots(index_dir)
    return recorded.roots() if named is None else ImageRoots(named, recorded.max_image_bytes)


def found_image(image: NewImage, key: str, index_dir: Path, named: Sequence[str] | None) -> FoundImage:
    """A key's image as it is stored, to be read below the roots that are in force then."""
    location, media_type = image.path or "", image.media_type
    if image.data is not None:
        return at_hand(StoredImage(image.data, media_type))
    return FoundImage(
        None,
        lambda timeout_s: read_referred(location, media_type, key, roots_in_force(index_dir, named), timeout_s),
    )


def record_corpus(index_dir: Path, roots: ImageRoots, *, keep: bool, version: str | None = None) -> None:
    """Records the roots of a corpus, in place of those of the one before, or beside them while both may be in use.

    Args:
        index_dir: The index directory.
        roots: The roots.
        keep: Whether those that are known stay.
        version: The version that has been made of the corpus, if one has.

    Raises:
        IndexCorruptError: what is recorded is damaged, and would be lost.
        IndexFormatError: a later release recorded it.
        OSError: it cannot be read, or the disk is full or not writable.
    """
    known = _recorded(index_dir)
    corpus, most = set(roots.roots), roots.max_bytes
    if keep:
        corpus, most = corpus | set(known.corpus), max(most, known.max_image_bytes)
    of_versions = known.of_versions
    if version is not None and (of_versions or corpus):  # of an index that refers to nothing, nothing is recorded
        of_versions = {**_kept(of_versions, index_dir), version: tuple(sorted(corpus))}
    changes = {"corpus": tuple(sorted(corpus)), "of_versions": of_versions, "max_image_bytes": most}
    _write(index_dir, known.model_copy(update=changes))


def roots_of_version(index_dir: Path, version: str) -> ImageRoots:
    """Roots of the corpus that a version was made of; those of the last build's, where that is not known."""
    known = read_roots(index_dir)
    of_version = _before(known.of_versions, int(version))
    return ImageRoots(known.corpus if of_version is None else known.of_versions[of_version], known.max_image_bytes)


def record_named(index_dir: Path, roots: Iterable[str]) -> None:
    """Records roots that somebody named, beside those that are known.

    Raises:
        IndexCorruptError: what is recorded is damaged, and would be lost.
        IndexFormatError: a later release recorded it.
        OSError: it cannot be read, or the disk is full or not writable.
    """
    known = _recorded(index_dir)
    _write(index_dir, known.model_copy(update={"named": tuple(sorted({*known.named, *roots}))}))


def _kept(of_versions: dict[str, tuple[str, ...]], index_dir: Path) -> dict[str, tuple[str, ...]]:
    """Those that versions which are still there were made of."""
    oldest = min(map(int, IndexDirectory(index_dir).names()), default=0)
    first = _before(of_versions, oldest)
    return {name: roots for name, roots in of_versions.items() if int(name) > oldest or name == first}


def _before(of_versions: Iterable[str], version: int) -> str | None:
    """The newest of some versions that is not newer than one; `None` if all are."""
    return max((name for name in of_versions if name.isdecimal() and int(name) <= version), key=int, default=None)


def _write(index_dir: Path, recorded: RecordedRoots) -> None:
    """Replaces the file in one step, unless it says that already."""
    if recorded == _recorded(index_dir):
        return
    content = json.dumps(recorded.model_dump(mode="json"), indent=2) + "\n"
    replace_file(index_dir / ROOTS_NAME, content.encode())
