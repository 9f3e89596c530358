"""Networks as the files of another library, kept in the cache folder: to write them anew takes half a minute a start.

An entry is a folder named by a digest of all that its files depend on. It is written aside and renamed, by one process
at a time, and read back only if every byte is as it was written.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock

from anykey.program.cache_folder import FOLDER_SUFFIX, PART_SUFFIX, Lease, keep_below

MAX_BYTES = 4 * 1024**3
LIBRARIES = ("anykey", "torch", "open_clip_torch", "timm", "transformers", "onnx", "onnxruntime", "onnxscript")
SUMS_NAME = "sums.json"
logger = logging.getLogger(__name__)


def user_cache(kind: str) -> Path:
    """`anykey/KIND` in the folder that the XDG base directory specification names for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anykey" / kind


def version_of(library: str) -> str | None:
    """Which release of a library is installed, if it is."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


class Exports:
    """The networks of one checkpoint that were exported."""

    def __init__(self, fingerprint: str, folder: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        """Names them.

        Args:
            fingerprint: The checkpoint's.
            folder: Where they are kept; the user's cache folder when absent.
            max_bytes: Room for those of all checkpoints; those used longest ago go first.
        """
        self._fingerprint = fingerprint
        self._folder = folder or user_cache("networks")
        self._max_bytes = max_bytes

    @contextmanager
    def files(self, network: str, form: str, write: Callable[[Path], None]) -> Iterator[Path]:
        """A folder with the files of a network, which stays as long as the block lasts.

        Args:
            network: Which of the encoder's.
            form: In what form it is exported, and for what.
            write: Writes the files into an empty folder; called only if they are not there.

        Raises:
            OSError: there is no room for them, nor in the folder for temporary files.
        """
        try:
            lease = self._kept(network, form, write)
        except OSError as error:
            logger.warning("cannot keep networks in %s, so the next start exports them again: %s", self._folder, error)
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder))
                yield Path(folder)
        else:
            yield lease.path
            del lease

    def _kept(self, network: str, form: str, write: Callable[[Path], None]) -> Lease:
        facts = [self._fingerprint, network, form, {name: version_of(name) for name in LIBRARIES}]
        name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        path = self._folder / f"{name}{FOLDER_SUFFIX}"
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            lease = _whole(path)
            if lease is None:
                lease = _written(path, write)
                keep_below(self._folder, self._max_bytes)
        return lease


def _whole(path: Path) -> Lease | None:
    """An entry whose files are those that were written, if there is one."""
    try:
        lease = Lease(path)
    except FileNotFoundError:
        return None
    try:
        sums = json.loads((path / SUMS_NAME).read_bytes())
        if sums == {name: _digest(path / name) for name in sums}:
            return lease
    except (OSError, ValueError, TypeError):
        pass
    logger.warning("%s is damaged, so the network is exported again", path)
    return None


def _written(path: Path, write: Callable[[Path], None]) -> Lease:
    """Makes an entry; the lock is held, so no one else writes there."""
    part = path.with_name(f"{path.name}{PART_SUFFIX}")
    for left in (part, path):
        if left.exists():
            shutil.rmtree(left)
    part.mkdir()
    try:
        held = Lease(part)  # the folder itself, whatever it is called
        write(part)
        sums = {file.name: _digest(file) for file in part.iterdir()}
        (part / SUMS_NAME).write_text(json.dumps(sums))
        part.rename(path)
        lease = Lease(path)
        del held
        return lease
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
