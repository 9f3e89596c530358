"""Snapshots: an index at one moment as one tar file, which is an index directory when it is unpacked."""

import contextlib
import io
import lzma
import os
import shutil
import sqlite3
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from anykey.index.errors import IndexNotFoundError, InvalidSnapshotError, OutputExistsError
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.verify import verify_index
from anykey.index.referred import require_referred
from anykey.index.store.image_roots import ROOTS_NAME, record_named
from anykey.index.store.manifest import Manifest
from anykey.index.store.retired import has_retired, prune
from anykey.index.store.staging import delete_staged
from anykey.index.store.store_file import naming_damage, open_read_only, unusable
from anykey.index.store.versions import CURRENT_NAME, LOCK_NAME, STORES_NAME, VERSIONS_NAME, OpenVersion, open_published
from anykey.index.store.word_table import compact_words
from anykey.program.files import link_file, make_folder, naming_target, sync
from anykey.sources.files.roots import ImageRoots, roots_named

_OF_TARGET = tuple(f"SQLITE_{name}" for name in ("FULL", "CANTOPEN", "IOERR_WRITE", "IOERR_FSYNC", "IOERR_SHM"))


def write_snapshot(index_dir: Path, path: Path) -> None:
    """Writes what is published in an index, and its store as it is now, to a tar file; writers may go on meanwhile.

    Args:
        index_dir: The index.
        path: The tar file; must not exist. As much room again is needed beside it for a moment.

    Raises:
        OutputExistsError: the file is there.
        OSError: the disk is full or not writable; nothing is left.
    """
    if path.exists():
        raise OutputExistsError(f"{path} is there already: choose another name")
    aside, store = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.store")
    version = open_published(index_dir)
    try:
        make_folder(path.parent, "a snapshot")
        store.unlink(missing_ok=True)  # of a run that was killed
        try:
            _copy_store(version.store_path, store)
            with naming_target(aside), tarfile.open(aside, "w") as tar:
                _add_all(tar, version, store)
            sync(aside)
            os.rename(aside, path)
        finally:
            for leftover in (aside, store):
                leftover.unlink(missing_ok=True)
    finally:
        version.release()


def restore_snapshot(path: Path, index_dir: Path, image_roots: Sequence[str] = ()) -> None:
    """Unpacks a snapshot and looks at every byte of it before it becomes an index.

    Args:
        path: What `write_snapshot` wrote.
        index_dir: Where the index will be; must not exist, or hold nothing but the lock of a build that made none.
        image_roots: Folders, files and URLs below which images may lie that the snapshot only refers to.

    Raises:
        OutputExistsError: something is there.
        ImageRefusedError: the snapshot refers to an image below none of `image_roots`.
        IndexLockedError: somebody is making an index there.
        InvalidSnapshotError: the file is no snapshot, or damaged.
        OSError: the file cannot be read, or the disk is full.
    """
    roots = roots_named(image_roots)
    index_dir = index_dir.resolve()  # `.` has no name to put another beside
    if index_dir.exists():
        make_folder(index_dir, "an index")
    if index_dir.exists() and [path for path in index_dir.iterdir() if path.name != LOCK_NAME]:
        raise OutputExistsError(f"{index_dir} is not empty: choose another place")
    aside = index_dir.with_name(f".{index_dir.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        try:
            with naming_target(index_dir), tarfile.open(path) as tar:
                tar.extractall(aside, filter=_part_of_index)
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise InvalidSnapshotError(f"{path} is no snapshot: {_reason_of(error)}") from error
        try:
            damaged = verify_index(aside)
        except IndexNotFoundError as error:
            raise InvalidSnapshotError(f"{path} is no snapshot: there is no index in it") from error
        for damage in damaged:
            raise InvalidSnapshotError(f"{path} is damaged: {damage}") from damage
        _require_references(aside, roots)
        if index_dir.exists():  # somebody may be in it: no other folder takes its place
            with WritableDirectory(index_dir).locked_for_writing("restore"):
                for file in sorted(aside.iterdir(), key=lambda file: file.name == CURRENT_NAME):
                    os.rename(file, index_dir / file.name)
        else:
            os.rename(aside, index_dir)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def copy_published(index_dir: Path, target: Path) -> Manifest:
    """Copies what is published in an index, and its store as it is now, to another index directory.

    Files of the version, which never change, are linked where the file system can. Writers may go on meanwhile.

    Args:
        index_dir: The index.
        target: Where the copy will be; must not exist.

    Returns:
        What the copied version says of itself.

    Raises:
        OSError: the disk is full or not writable.
    """
    version = open_published(index_dir)
    try:
        version_dir, store = (target / path.relative_to(index_dir) for path in (version.path, version.store_path))
        version_dir.mkdir(parents=True)
        store.parent.mkdir(parents=True)
        _copy_store(version.store_path, store)
        for file in sorted(version.path.iterdir()):
            link_file(file, version_dir / file.name)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(index_dir / ROOTS_NAME, target / ROOTS_NAME)
        (target / CURRENT_NAME).write_bytes(f"{version.manifest.version}\n".encode("ascii"))
        return version.manifest
    finally:
        version.release()


def _part_of_index(member: tarfile.TarInfo, place: str) -> tarfile.TarInfo:
    """Takes files and folders where `write_snapshot` writes some: what else is in an index is not the sender's to say.

    Raises:
        TarError: a member lies elsewhere, or is a link or the like.
    """
    names = [name for name in member.name.split("/") if name not in ("", ".")]
    is_known = not names or names == [CURRENT_NAME] or names[0] in (VERSIONS_NAME, STORES_NAME)
    if not is_known or not (member.isreg() or member.isdir()):
        raise tarfile.TarError(f"it holds {member.name[:80]!a}, which is no part of one")
    return tarfile.data_filter(member, place)


def _require_references(index_dir: Path, roots: ImageRoots) -> None:
    """Makes sure of all images that a store refers to, and records the roots if there are any."""
    version = open_published(index_dir, files=[])
    try:
        with naming_damage(version.store_path), contextlib.closing(open_read_only(version.store_path)) as db:
            query = "SELECT key, path FROM images LEFT JOIN keys USING (id) WHERE data IS NULL AND path IS NOT NULL"
            for key, location in db.execute(query):  # without a key, they are of a version to go back to
                require_referred(location, key or "(deleted)", roots)
    finally:
        version.release()
    if roots.roots:
        record_named(index_dir, roots.roots)


def _reason_of(error: Exception) -> object:
    """What is wrong with a tar file; of what is none, without what every kind of compression says of it."""
    return "it is no tar file" if "could not be opened" in str(error) else error


def _copy_store(path: Path, target: Path) -> None:
    """Copies a store as it is at one moment, though others write to it, without its unused room and what was there."""
    with naming_damage(path), contextlib.closing(open_read_only(path)) as source:
        try:
            source.execute("VACUUM INTO ?", (str(target.absolute()),))
            with contextlib.closing(sqlite3.connect(target)) as copy:
                _leave_out(copy)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname.startswith(_OF_TARGET):
                raise unusable(target, error) from error
            raise


def _leave_out(copy: sqlite3.Connection) -> None:
    """Deletes what is in no copy that is given away: what was deleted from an index, and what is not in it yet."""
    copy.execute("PRAGMA secure_delete = ON")  # or its bytes would stay in the file
    delete_staged(copy)
    after: int | None = -1 if has_retired(copy) else None
    while after is not None:
        after = prune(copy, [], after)
    compact_words(copy)
    copy.commit()


def _add_all(tar: tarfile.TarFile, version: OpenVersion, store: Path) -> None:
    index_dir = version.path.parents[1]
    for file in sorted(version.path.iterdir()):
        tar.add(file, file.relative_to(index_dir))
    tar.add(store, version.store_path.relative_to(index_dir))
    name = f"{version.manifest.version}\n".encode("ascii")
    facts = tarfile.TarInfo(CURRENT_NAME)
    facts.size = len(name)
    tar.addfile(facts, io.BytesIO(name))
