"""Indexes in and out as Parquet shards and FAISS files.

Shape legend: N = keys, D = width.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import mimetypes
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.images import image_type
from anykey.index.errors import OutputExistsError
from anykey.index.faiss_index import FaissIndex
from anykey.index.jobs.preconditions import check_structure, check_vector_type
from anykey.index.jobs.shards import PART_NAME, common_encoder, find_shards, read_shard, write_shard
from anykey.index.publish.creation import create_index
from anykey.index.publish.directory import WritableDirectory
from anykey.index.publish.folding import encoder_facts
from anykey.index.publish.verify import repair_index
from anykey.index.referred import read_referred, require_referred
from anykey.index.settings import FoldSettings
from anykey.index.store.image_roots import record_named, roots_in_force
from anykey.index.store.manifest import EncoderFacts, FoldOptions
from anykey.index.store.records import NewImage, Record
from anykey.index.store.store_file import naming_damage, open_read_only, read_meta
from anykey.index.store.store_records import read_records
from anykey.index.store.versions import open_published
from anykey.index.vectors.exact import write_exact
from anykey.index.vectors.structure_facts import VectorType
from anykey.index.vectors.structures import GpuUse
from anykey.program.files import make_folder, naming_target
from anykey.program.locks import holder_of, try_lock
from anykey.sources.files.locations import parse_location
from anykey.sources.files.roots import ImageRoots, roots_named

logger = logging.getLogger(__name__)

Advance = Callable[[int], None]
SHARD_KEYS = 100_000
KEYS_NAME, FAISS_NAME, IMAGES_NAME = "keys.jsonl", "vectors.faiss", "images"


def export_shards(index_dir: Path, output: Path, advance: Advance, shard_keys: int = SHARD_KEYS) -> int:
    """Writes all keys of an index, as they are at one moment, as Parquet shards; gives their number.

    Args:
        index_dir: The index.
        output: Folder for `keys-00000.parquet`, `keys-00001.parquet`, ...; must be empty if it exists.
        advance: Told how many keys have been written since it was last told.
        shard_keys: Keys in a shard.

    Raises:
        OutputExistsError: there are files in the folder.
    """
    num_keys = 0
    with _keys_of(index_dir) as (records, encoder, vector_type), _filling(output) as folder:
        for number, shard in enumerate(_split(records, shard_keys)):
            written = write_shard(str(folder / f"keys-{number:05}.parquet"), shard, encoder, vector_type)
            num_keys += written
            advance(written)
    return num_keys


def export_faiss(index_dir: Path, output: Path, advance: Advance) -> int:
    """Writes all vectors as a FAISS file, and their keys as a corpus in the same order; gives their number.

    Args:
        index_dir: The index.
        output: Folder for `vectors.faiss` (IndexFlatIP of the encoder's vectors, without calibration), `keys.jsonl`
            and `images/`, the images that the index holds and those that it refers to inside other files; must be
            empty if it exists.
        advance: Told how many keys have been written since it was last told.

    Raises:
        OutputExistsError: there are files in the folder.
        ImageUnavailableError: an image that the index refers to cannot be read.
    """
    with (
        _keys_of(index_dir) as (records, encoder, _),
        _filling(output) as folder,
        (folder / KEYS_NAME).open("w", encoding="utf-8") as lines,
    ):
        roots = roots_in_force(index_dir, None)
        vectors_BD = (_vector_after_line(record, folder, lines, advance, roots) for record in records)
        return write_exact(folder / FAISS_NAME, vectors_BD, encoder.width, "float32")


def load_shards(
    shards: Sequence[str],
    index_dir: Path,
    advance: Advance,
    vector_type: VectorType | None = None,
    settings: FoldSettings | None = None,
    image_roots: Sequence[str] = (),
) -> int:
    """Stores the keys of Parquet shards in an index, which is made if there is none; gives their number.

    Keys that the index has are replaced. Readers see all of a load or nothing of it. One that was stopped has changed
    nothing and is run again.

    Args:
        shards: Parquet files, or folders of them; paths or URLs.
        index_dir: The index.
        advance: Told how many keys have been stored since it was last told.
        vector_type: How a new index keeps vectors, float32 when absent.
        settings: How its versions are derived; as before when absent.
        image_roots: Folders, files and URLs below which images may lie that the shards only refer to.

    Raises:
        InvalidShardError: a file is no shard.
        ImageRefusedError: a shard refers to an image below none of `image_roots`.
        EncoderMismatchError: shards, or shards and index, have different encoders.
        InvalidStructureError: FAISS cannot build the search structure that the settings name.
        UnusableOptionError: the index is there and keeps vectors in another way than `vector_type`.
    """
    roots = roots_named(image_roots)
    files = find_shards(shards)
    encoder = common_encoder(files)
    settings = settings or FoldSettings()
    check_structure(settings, encoder.width)
    num_keys = 0

    def records() -> Iterator[Record]:
        nonlocal num_keys
        for batch in chain.from_iterable(map(read_shard, files)):
            for record in batch:
                _require_references(record, roots)
                yield record
            num_keys += len(batch)
            advance(len(batch))

    if _is_published(WritableDirectory(index_dir)):
        _load_into(index_dir, encoder, records(), vector_type, settings, roots)
    else:
        gpu = GpuUse.of(settings.search_device, settings.search_gpu_memory_mib * 2**20)
        options = FoldOptions().changed_by(settings)
        create_index(index_dir, encoder, vector_type or "float32", options, records(), gpu)
        record_named(index_dir, roots.roots)
    return num_keys


def _is_published(directory: WritableDirectory) -> bool:
    """Whether there is an index; one whose keys are there, though no version of them is published, is published."""
    if directory.current() is None and directory.store_names():
        logger.warning("%s holds keys that no version is published of; publishing them first", directory.path)
        repair_index(directory.path)
    return directory.current() is not None


def _load_into(
    index_dir: Path,
    encoder: EncoderFacts,
    records: Iterator[Record],
    vector_type: VectorType | None,
    settings: FoldSettings,
    roots: ImageRoots,
) -> None:
    with FaissIndex.open(
        index_dir,
        writable=True,
        job="load",
        compact_after=0,
        gpu_memory_bytes=settings.search_gpu_memory_mib * 2**20,
        fold_device=settings.search_device,
    ) as index:
        index.manifest.check_encoder(encoder.fingerprint, encoder.width, encoder.fusion)
        check_vector_type(vector_type, index.info().details["vectors"], index_dir)
        record_named(index_dir, roots.roots)
        index.load_records(records, index.manifest.options.changed_by(settings))


def _require_references(record: Record, roots: ImageRoots) -> None:
    for image in record.images:
        if image.data is None and image.path is not None:
            require_referred(image.path, record.key, roots)


def _vector_after_line(
    record: Record, output: Path, lines: TextIO, advance: Advance, roots: ImageRoots
) -> NDArray[np.float32]:
    """A key's vector `[1, D]`, once its line is written."""
    images = [_export_image(image, output, record.key, roots) for image in record.images]
    line = {"key": record.key, "modality": record.modality, "text": record.text, "image": images}
    line = {name: value for name, value in line.items() if value not in (None, [])}
    line |= {"metadata": json.loads(record.metadata), "pool": list(record.pools)}
    lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    advance(1)
    return np.asarray(record.vector_D, np.float32)[None]


def _export_image(image: NewImage, output: Path, key: str, roots: ImageRoots) -> str:
    """What a corpus calls an image: where it is, or a file of its content that is written here."""
    if image.path is not None and parse_location(image.path) is None:
        return image.path
    data = image.data
    if data is None:
        data = read_referred(image.path or "", image.media_type, key, roots).data
    digest = hashlib.sha256(data).hexdigest()
    name = f"{IMAGES_NAME}/{digest[:2]}/{digest}{mimetypes.guess_extension(image_type(data) or '') or ''}"
    path = output / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return name


@contextlib.contextmanager
def _keys_of(index_dir: Path) -> Iterator[tuple[Iterator[Record], EncoderFacts, VectorType]]:
    """All keys of an index at one moment, by time of their last change."""
    version = open_published(index_dir, files=[])
    path = version.store_path
    try:
        with naming_damage(path), contextlib.closing(open_read_only(path)) as db:
            db.execute("BEGIN")
            meta = read_meta(db)
            yield read_records(db, "true"), encoder_facts(meta), meta["vector_type"]
    finally:
        version.release()


def _split(records: Iterator[Record], size: int) -> Iterator[Iterator[Record]]:
    """Runs of records, each to be read to its end before the next is asked for."""
    for first in records:
        yield chain([first], islice(records, size - 1))


@contextlib.contextmanager
def _filling(output: Path) -> Iterator[Path]:
    """A folder to write to; what is in it moves to `output` when the block has ended, and is deleted if it fails."""
    make_folder(output, "what is exported")
    aside = output / PART_NAME
    with _owned(aside), naming_target(aside):
        if [path for path in output.iterdir() if path != aside]:
            aside.rmdir()
            raise OutputExistsError(f"{output} is not empty: choose another place")
        try:
            yield aside
            for path in sorted(aside.iterdir()):
                path.rename(output / path.name)
        finally:
            shutil.rmtree(aside)


@contextlib.contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """An empty folder that nobody else has; what somebody who was killed left in it is deleted."""
    folder.mkdir(exist_ok=True)
    fd = os.open(folder, os.O_RDONLY)
    try:
        if not try_lock(fd, fcntl.LOCK_EX) or not os.path.samestat(os.fstat(fd), os.stat(folder)):
            raise OutputExistsError(f"{folder.parent} is being written to by another export ({holder_of(fd)})")
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield
    finally:
        os.close(fd)
