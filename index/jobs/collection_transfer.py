"""Shards of keys into a Milvus collection, so that what was embedded anywhere is searched beyond one machine."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice

from anykey.index.errors import IndexNotFoundError, UnusableOptionError
from anykey.index.hits import StoredImage
from anykey.index.jobs.shards import common_encoder, find_shards, read_shard
from anykey.index.key_index import NewKey
from anykey.index.milvus.address import CollectionAddress
from anykey.index.milvus_index import MilvusIndex, Structure
from anykey.index.referred import read_referred, require_referred
from anykey.index.store.manifest import EncoderFacts
from anykey.index.store.records import NewImage, Record
from anykey.sources.files.roots import ImageRoots, roots_named


def load_collection(
    shards: Sequence[str],
    address: CollectionAddress,
    advance: Callable[[int], None],
    *,
    structure: Structure | None = None,
    images_dir: str | None = None,
    token: str | None = None,
    image_roots: Sequence[str] = (),
) -> int:
    """Stores the keys of Parquet shards in a collection, which is made if there is none; gives their number.

    Keys that it has are replaced. A load that was stopped is run again.

    Args:
        shards: Parquet files, or folders of them; paths or URLs.
        address: The collection.
        advance: Told how many keys have been stored since it was last told.
        structure: How Milvus arranges the vectors of a new collection, `FLAT` when absent.
        images_dir: Folder for the images' bytes, where they are to be kept; the collection's own when absent.
        token: Credentials for the server, such as `user:password`.
        image_roots: Folders, files and URLs below which images are read that the shards only refer to.

    Raises:
        InvalidShardError: a file is no shard.
        ImageRefusedError: a shard refers to an image below none of `image_roots`. The batches before it are stored.
        EncoderMismatchError: shards, or shards and collection, have different encoders.
        UnusableOptionError: the collection is there, and of another structure.
        InvalidKeyError: Milvus cannot store a key; says which and why. The batches before it are stored.
        ImageUnavailableError: an image that a shard refers to cannot be read, or one cannot be written.
        IndexUnavailableError: Milvus cannot be reached or fails.
    """
    roots = roots_named(image_roots)
    files = find_shards(shards)
    encoder = common_encoder(files)
    batches = _begun(chain.from_iterable(map(read_shard, files)))
    num_keys = 0
    with _opened(address, encoder, structure, images_dir, token) as index:
        index.encoder.check(encoder.fingerprint, encoder.width, encoder.fusion)
        for batch in batches:
            index.upsert([_to_key(record, index.keeps_images, roots) for record in batch])
            num_keys += len(batch)
            advance(len(batch))
    return num_keys


@contextmanager
def _opened(
    address: CollectionAddress,
    encoder: EncoderFacts,
    structure: Structure | None,
    images_dir: str | None,
    token: str | None,
) -> Iterator[MilvusIndex]:
    try:
        index = MilvusIndex.open(address.uri, address.collection, images_dir=images_dir, token=token)
        _check_structure(structure, index)
    except IndexNotFoundError:
        index = MilvusIndex.create(
            address.uri, address.collection, encoder, structure=structure, images_dir=images_dir, token=token
        )
    with index:
        yield index


def _check_structure(asked: Structure | None, index: MilvusIndex) -> None:
    if asked is not None and asked.kind != index.structure.kind:
        index.close()
        raise UnusableOptionError(
            f"--milvus-structure {asked.kind}: the collection has {index.structure.kind}; it is for a new collection"
        )


def _begun(batches: Iterator[list[Record]]) -> Iterator[list[Record]]:
    """The batches, the first of which is there: where it cannot be read, no collection is made for it."""
    return chain(list(islice(batches, 1)), batches)


def _to_key(record: Record, keeps_images: bool, roots: ImageRoots) -> NewKey:
    assert record.vector_D is not None  # a shard's records have theirs
    return NewKey(
        key=record.key,
        vector_D=record.vector_D,
        text=record.text,
        images=tuple(_to_image(image, record.key, keeps_images, roots) for image in record.images),
        metadata=json.loads(record.metadata),
        pools=record.pools,
        bare=record.modality if record.text is None and not record.images else None,
    )


def _to_image(image: NewImage, key: str, keeps_images: bool, roots: ImageRoots) -> StoredImage:
    """An image with its bytes, where they are kept; they may have to be fetched for it."""
    if not keeps_images:
        return StoredImage(b"", image.media_type)
    if image.data is not None:
        return StoredImage(image.data, image.media_type)
    require_referred(image.path or "", key, roots)
    return read_referred(image.path or "", image.media_type, key, roots)
