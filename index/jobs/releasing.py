"""Publishes releases, goes back to earlier ones, and clears old ones away."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from anykey.encoder.description import described_fingerprint, description_of
from anykey.index.errors import IndexLockedError, InvalidReleaseError, ReleaseNotFoundError
from anykey.index.milvus.address import parse_address
from anykey.index.publish.backup import copy_published
from anykey.index.releases import RELEASE_NAME, Release, ReleaseDirectory
from anykey.index.settings import ReleaseSettings
from anykey.index.store.manifest import EncoderFacts
from anykey.index.store.versions import CURRENT_NAME, VERSIONS_NAME, open_published
from anykey.program.files import link_tree, make_folder, replace_file, sync, sync_tree
from anykey.program.locks import holder_of, try_lock

LOCK_NAME = ".lock"
PART_SUFFIX = ".part"
CHECKPOINT_NAME, INDEX_NAME = "checkpoint", "index"


@dataclass(frozen=True)
class Listed:
    """A release as it is listed.

    Attributes:
        name: Its name.
        is_current: Whether it is the current one.
        is_read: Whether somebody has it open.
        facts: What it says of itself; `None` if that is damaged.
        own_bytes: What deleting it would free.
        shared_bytes: What it shares with other files, such as those that it was made of.
    """

    name: str
    is_current: bool
    is_read: bool
    facts: Release | None
    own_bytes: int
    shared_bytes: int


def publish_release(settings: ReleaseSettings) -> tuple[Release, list[str]]:
    """Makes a release of a checkpoint and an index, and makes it the current one in one step.

    Args:
        settings: What it is made of, where, and how many releases are kept.

    Returns:
        The release, and the names of those that were deleted.

    Raises:
        EncoderMismatchError: another encoder made the index.
        InvalidReleaseError: the directory is an index, or lies within what the release is to be made of.
        IndexNotFoundError: there is no index.
        IndexLockedError: somebody else is publishing a release there.
        OSError: the disk is full or not writable; the current release stays.
    """
    directory = ReleaseDirectory(settings.releases)
    _require_place(directory.path, settings)
    encoder = _encoder_of(settings)
    with _locked(directory):
        _clear_parts(directory)
        name = str(int((directory.names() or ["0"])[-1]) + 1)
        aside = directory.path / f"{name}{PART_SUFFIX}"
        try:
            release = _fill(aside, name, settings, encoder)
            os.rename(aside, directory.folder(name))
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync(directory.path)
        _announce(directory, name)
        return release, _remove_old(directory, settings.keep)


def roll_back_release(path: Path, to: str | None) -> Release:
    """Makes an earlier release the current one, in one step.

    Args:
        path: The directory of releases.
        to: Its name; the one before the current one when absent.

    Raises:
        ReleaseNotFoundError: there is no such release, or none before the current one.
        InvalidReleaseError: it is damaged, or what it refers to is not what it was.
        IndexLockedError: somebody is publishing a release there.
    """
    directory = ReleaseDirectory(path)
    if not directory.names():
        raise ReleaseNotFoundError(f"no release at {path}")
    with _locked(directory):
        current, names = None if to is not None else directory.current(), directory.names()
        earlier = [name for name in names if current is not None and int(name) < int(current)]
        target = to if to is not None else (earlier[-1] if earlier else None)
        if target is None or target not in names:
            asked = f"no release {to}" if to is not None else f"no release before {current}"
            raise ReleaseNotFoundError(f"there is {asked} in {path}; there are {', '.join(names) or 'none'}")
        release = directory.read(target)
        _require_whole(directory, release)
        _announce(directory, target)
        return release


def list_releases(path: Path) -> list[Listed]:
    """All releases, oldest first.

    Raises:
        ReleaseNotFoundError: there is no directory of releases.
        InvalidReleaseError: `CURRENT` is damaged.
    """
    directory = ReleaseDirectory(path)
    current = directory.current()
    if current is None and not directory.names():
        raise ReleaseNotFoundError(f"no release at {path}")
    return [_listed(directory, name, is_current=name == current) for name in directory.names()]


def _listed(directory: ReleaseDirectory, name: str, *, is_current: bool) -> Listed:
    try:
        facts = directory.read(name)
    except InvalidReleaseError:
        facts = None
    own = shared = 0
    for folder, _, files in os.walk(directory.folder(name)):
        for file in files:
            found = os.lstat(os.path.join(folder, file))
            own, shared = (own + found.st_size, shared) if found.st_nlink == 1 else (own, shared + found.st_size)
    return Listed(name, is_current, not _is_free(directory.folder(name)), facts, own, shared)


def _require_place(path: Path, settings: ReleaseSettings) -> None:
    """Makes sure that releases, with their `CURRENT`, would not be put among other files."""
    if (path / VERSIONS_NAME).is_dir():
        raise InvalidReleaseError(f"{path} is an index; releases need a directory of their own")
    for name, source in (("checkpoint", settings.checkpoint), ("index", settings.index)):
        if path.resolve().is_relative_to(Path(source).resolve()):
            raise InvalidReleaseError(f"{path} is in the {name}, {source}; releases need a directory of their own")


def _encoder_of(settings: ReleaseSettings) -> EncoderFacts:
    """Facts of the encoder of the index, which the checkpoint is, too.

    Raises:
        EncoderMismatchError: it is another; says in what they differ.
        EncoderError: there is no such checkpoint, or it is damaged.
    """
    if (address := parse_address(settings.index)) is None:
        version = open_published(Path(settings.index), files=[])
        facts = version.manifest.encoder
        version.release()
    else:
        from anykey.index.milvus_index import MilvusIndex

        token = None if settings.milvus_token is None else settings.milvus_token.get_secret_value()
        with MilvusIndex.open(address.uri, address.collection, token=token) as index:
            facts = index.encoder
    fingerprint, description = (
        described_fingerprint(settings.checkpoint, settings.fusion, settings.width),
        description_of(settings.checkpoint),
    )
    width, fusion = description.get("width"), description.get("fusion")
    if fingerprint is not None and isinstance(width, int) and isinstance(fusion, str) and not settings.check:
        facts.check(fingerprint, width, fusion)
    else:
        from anykey.encoder.fusion import Fusion
        from anykey.encoder.model import Encoder

        named = Fusion(settings.fusion) if settings.fusion else None
        encoder = Encoder.load(settings.checkpoint, "cpu", fusion=named, width=settings.width)
        facts.check(encoder.fingerprint, encoder.width, str(encoder.fusion))
    return facts


def _fill(aside: Path, name: str, settings: ReleaseSettings, encoder: EncoderFacts) -> Release:
    """Everything of a release, in a folder that nobody looks at yet."""
    aside.mkdir(parents=True)
    checkpoint = Path(settings.checkpoint)
    is_checkpoint_inside = not settings.refer and checkpoint.is_dir()
    is_index_inside = not settings.refer and parse_address(settings.index) is None
    if is_checkpoint_inside:
        link_tree(checkpoint.resolve(), aside / CHECKPOINT_NAME)
    if is_index_inside:
        manifest = copy_published(Path(settings.index), aside / INDEX_NAME)
        encoder.check(
            manifest.encoder.fingerprint, manifest.encoder.width, manifest.encoder.fusion
        )  # it may have moved on
        if settings.check:
            _require_sound(aside / INDEX_NAME)
    release = Release(
        number=name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        note=settings.note,
        checkpoint=CHECKPOINT_NAME if is_checkpoint_inside else _elsewhere(settings.checkpoint),
        index=INDEX_NAME if is_index_inside else _elsewhere(settings.index),
        is_checkpoint_inside=is_checkpoint_inside,
        is_index_inside=is_index_inside,
        fusion=settings.fusion,
        width=settings.width,
        encoder=encoder,
        num_keys=_num_keys(str(aside / INDEX_NAME) if is_index_inside else settings.index, settings),
    )
    (aside / RELEASE_NAME).write_text(release.model_dump_json(indent=2) + "\n", encoding="utf-8")
    sync_tree(aside)
    return release


def _elsewhere(source: str) -> str:
    """A source that a release refers to, which must mean the same wherever the service is started."""
    return str(Path(source).absolute()) if Path(source).exists() else source


def _num_keys(index: str, settings: ReleaseSettings) -> int:
    """Number of keys of an index directory or a collection."""
    if (address := parse_address(index)) is None:
        from anykey.index.faiss_index import FaissIndex

        with FaissIndex.open(Path(index)) as directory:
            return directory.info().num_keys
    from anykey.index.milvus_index import MilvusIndex

    token = None if settings.milvus_token is None else settings.milvus_token.get_secret_value()
    with MilvusIndex.open(address.uri, address.collection, token=token) as collection:
        return collection.info().num_keys


def _require_sound(index_dir: Path) -> None:
    """Raises the first damage of an index."""
    from anykey.index.publish.verify import verify_index

    for damage in verify_index(index_dir):
        raise damage


def _require_whole(directory: ReleaseDirectory, release: Release) -> None:
    """Makes sure, at little cost, that what a release is made of is still there and what it was.

    Raises:
        InvalidReleaseError: it is not.
    """
    folder = directory.folder(release.number)
    checkpoint = str(folder / release.checkpoint) if release.is_checkpoint_inside else release.checkpoint
    said = description_of(checkpoint).get("fingerprint")
    is_changed = release.fusion is None and release.width is None and said not in (None, release.encoder.fingerprint)
    if (release.is_checkpoint_inside and not Path(checkpoint).is_dir()) or is_changed:
        raise InvalidReleaseError(f"the checkpoint of release {release.number}, {checkpoint}, is gone or is another")
    index = str(folder / release.index) if release.is_index_inside else release.index
    if parse_address(index) is None:
        version = open_published(Path(index), files=[])
        fingerprint = version.manifest.encoder.fingerprint
        version.release()
        if fingerprint != release.encoder.fingerprint:
            raise InvalidReleaseError(
                f"the index of release {release.number}, {index}, is of another encoder by now: {fingerprint}"
            )


def _announce(directory: ReleaseDirectory, name: str) -> None:
    replace_file(directory.path / CURRENT_NAME, f"{name}\n".encode("ascii"))


def _remove_old(directory: ReleaseDirectory, keep: int) -> list[str]:
    """Deletes all but the newest releases; the current one stays, and those that are read."""
    current = directory.current()
    removed = []
    for name in directory.names()[:-keep]:
        folder = directory.folder(name)
        if name != current and _is_free(folder):
            gone = directory.path / f"{name}{PART_SUFFIX}"
            os.rename(folder, gone)  # so that nobody finds half of it
            shutil.rmtree(gone, ignore_errors=True)
            removed.append(name)
    return removed


def _is_free(folder: Path) -> bool:
    """Whether nobody has a release open."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        return try_lock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def _clear_parts(directory: ReleaseDirectory) -> None:
    """Deletes what publishing was stopped in."""
    for path in directory.path.glob(f"*{PART_SUFFIX}"):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(directory: ReleaseDirectory) -> Iterator[None]:
    """Keeps others from publishing there."""
    make_folder(directory.path, "releases")
    fd = os.open(directory.path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not try_lock(fd, fcntl.LOCK_EX):
            raise IndexLockedError(f"{holder_of(fd)} is publishing a release in {directory.path}; try again later")
        yield
    finally:
        os.close(fd)
