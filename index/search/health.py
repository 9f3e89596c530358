"""Whether the files of an open version are sound: as far as little work can tell, and by what its readers met."""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from anykey.index.errors import IndexCorruptError, KeyCorruptError
from anykey.index.queries import is_unicode
from anykey.index.store.store_file import naming_damage, open_read_only, reading_any_text
from anykey.index.store.store_reader import StoreReader
from anykey.index.store.versions import OpenVersion, check_file

SAMPLED_KEYS = 32

_State = tuple[int, int, int] | None  # what a file's replacement or change changes; `None` where there is none


class Health:
    """The soundness of one open version and of its store; safe for use from several threads.

    What is read of the store is compared with checksums then and there. The version's files are mapped into memory: of
    one that changed, searches would give anything, and one that was cut short would end the process. So they are
    looked at before they are used, and used no more once one is damaged.
    """

    def __init__(self, version: OpenVersion) -> None:
        """Begins with files that have just been opened and found sound."""
        self._version = version
        self._opened_store = _state(version.store_path)
        self._sound = {version.path / name: _contents(version.path / name) for name in version.manifest.files}
        self._damage: dict[Path, tuple[IndexCorruptError, _State]] = {}
        self._comparing = threading.Lock()

    @property
    def is_untouched(self) -> bool:
        """Whether nobody has met damage and all files are as they were found sound; no more than a look at each."""
        store, sound = self._version.store_path, self._sound
        return not self._damage and _state(store) is not None and all(_contents(path) == sound[path] for path in sound)

    @property
    def is_outdated(self) -> bool:
        """Whether files were damaged, or the store replaced, so that what is open is not what is there."""
        now, opened = _state(self._version.store_path), self._opened_store
        return bool(self._damage) or (now and now[0]) != (opened and opened[0])

    @contextmanager
    def noting_damage(self) -> Iterator[None]:
        """Remembers the damage that the block meets."""
        try:
            yield
        except IndexCorruptError as error:
            self.note(error)
            raise

    def note(self, error: IndexCorruptError) -> None:
        """Remembers damage; of a file that is damaged as a whole, not that one key in it is."""
        known, _ = self._damage.get(error.path, (None, None))
        is_less = isinstance(error, KeyCorruptError) and known is not None and not isinstance(known, KeyCorruptError)
        if error is not known and not is_less:
            self._damage[error.path] = error, _state(error.path)

    def require_files(self) -> None:
        """Makes sure that the files are there, and those of the version unchanged; looks at their sizes and times.

        Raises:
            IndexCorruptError: one is missing or damaged, or was; then the version has to be opened again.
        """
        for path, (error, _) in list(self._damage.items()):
            if path in self._sound:
                raise error.with_traceback(None)
        self._compare_files()

    def check(self) -> None:
        """Looks at what tells most damage: files that changed, what the store says about itself, and some of its keys.

        Raises:
            IndexCorruptError: a file is missing or damaged; one that somebody met as damaged counts until it changes.
            KeyCorruptError: nothing is damaged but the records of some keys; names one, until it is mended or gone.
            OSError: the store cannot be read.
        """
        met = list(self._damage.items())
        for path, (error, met_in) in met:
            if not isinstance(error, KeyCorruptError) and _state(path) == met_in:
                raise error.with_traceback(None)
        with self.noting_damage():
            self._compare_files()
            self._check_store([error.key for _, (error, _) in met if isinstance(error, KeyCorruptError)])

    def _compare_files(self) -> None:
        """The version's files never change, so that one that did is compared with its checksum, by one thread."""
        if _state(self._version.store_path) is None:
            raise IndexCorruptError(self._version.store_path, "it is missing")
        if all(_contents(path) == known for path, known in self._sound.items()):
            return
        with self._comparing:
            for path, known in self._sound.items():
                now = _contents(path)
                if now is None or now != known:
                    check_file(self._version.path, self._version.manifest, path.name, is_whole=True)
                    self._sound[path] = now

    def _check_store(self, keys: Iterable[str]) -> None:
        """Over connections of its own: those that are open may hold pages that are no longer in the file."""
        from anykey.index.store.store_records import (
            read_records,  # with what builds remember, which searches do not need
        )

        path = self._version.store_path
        with closing(StoreReader(path)) as reader:
            reader.check(self._version.manifest)
            with reader.transaction() as transaction:
                transaction.sample(SAMPLED_KEYS)
        with naming_damage(path), closing(open_read_only(path)) as db, reading_any_text(db):
            for key in filter(is_unicode, keys):
                list(read_records(db, "key = ?", (key,)))


def _contents(path: Path) -> tuple[int, int] | None:
    """What changes with a file's contents; not its inode, which some network file systems make up anew."""
    state = _state(path)
    return state and state[1:]


def _state(path: Path) -> _State:
    try:
        facts = os.stat(str(path))  # which is faster than through the path
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
