"""Whether the files of an open version are sound: as far as milliseconds can tell, and by what its readers met."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from index.embedded.store_reader import StoreReader
from index.embedded.versions import OpenVersion, check_file
from index.errors import IndexCorruptError

SAMPLED_KEYS = 32

_State = tuple[int, int, int] | None  # what a file's replacement or change changes; `None` where there is none


class Health:
    """The soundness of one open version and of its store; safe for use from several threads."""

    def __init__(self, version: OpenVersion) -> None:
        """Begins with files that have just been opened and found sound."""
        self._version = version
        self._opened_store = _state(version.store_path)
        self._sound = {name: _state(version.path / name) for name in version.manifest.files}
        self._damage: tuple[IndexCorruptError, _State] | None = None

    @property
    def is_outdated(self) -> bool:
        """Whether the files were damaged or the store replaced since, so that what is open is not what is there."""
        now, opened = _state(self._version.store_path), self._opened_store
        return self._damage is not None or (now and now[0]) != (opened and opened[0])

    @contextmanager
    def noting_damage(self) -> Iterator[None]:
        """Remembers the damage that the block meets, until the file that has it changes."""
        try:
            yield
        except IndexCorruptError as error:
            self._damage = error, _state(error.path)
            raise

    def check(self) -> None:
        """Looks at what tells most damage: files that changed, what the store says about itself, and some of its keys.

        Raises:
            IndexCorruptError: a file is missing or damaged, or is remembered to be.
            OSError: the store cannot be read.
        """
        if self._damage is not None:
            error, met_in = self._damage
            if _state(error.path) == met_in:
                raise error.with_traceback(None)
        with self.noting_damage():
            self._check_version()
            self._check_store()

    def _check_version(self) -> None:
        """The version's files never change, so that one that did is compared with its checksum."""
        for name, known in self._sound.items():
            now = _state(self._version.path / name)
            if now is None or now != known:
                check_file(self._version.path, self._version.manifest, name, is_whole=True)
                self._sound[name] = now

    def _check_store(self) -> None:
        """Over a connection of its own: those that are open may hold pages that are no longer in the file."""
        with closing(StoreReader(self._version.store_path)) as reader:
            reader.check(self._version.manifest)
            with reader.snapshot() as snapshot:
                snapshot.sample(SAMPLED_KEYS)


def _state(path: Path) -> _State:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
