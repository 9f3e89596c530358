"""The engine for more than one machine: keys in a collection of Milvus, or of Milvus Lite in a file.

Shape legend: Q = queries, D = width, K = results per query.
"""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Collection as Listed
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index.changes import Applied, Capabilities, Change, RequestKey
from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import ImageUnavailableError, KeyNotFoundError, SnapshotRefusedError
from anykey.index.hits import FoundImage, Hit, StoredImage, StoredKey
from anykey.index.key_index import EVERYTHING, Held, IndexInfo, NewKey, Place, Scope
from anykey.index.milvus.collection import Collection, CollectionFacts, Structure
from anykey.index.milvus.connection import Connection
from anykey.index.milvus.expressions import listed
from anykey.index.milvus.images import ImageFolder
from anykey.index.milvus.limits import AS_INSTALLED, Limits
from anykey.index.milvus.moment import MilvusMoment
from anykey.index.milvus.records import STORED_FIELDS, stored_key_of
from anykey.index.milvus.search import count, records_in
from anykey.index.milvus.writer import Writer
from anykey.index.queries import check_after, check_limit, require_names
from anykey.index.store.manifest import EncoderFacts

__all__ = ["MilvusIndex", "Structure"]

CHECK_TIMEOUT_S = 2.0


class MilvusIndex:
    """Keys in a Milvus collection; a `KeyIndex`. `docs/engines.md` says where it promises less than `FaissIndex`.

    Made by `create` or `open`.

    Attributes:
        encoder: The encoder that made the vectors.
    """

    def __init__(self, collection: Collection, images: ImageFolder | None) -> None:
        self.encoder: EncoderFacts = collection.facts.encoder
        self._collection = collection
        self._images = images
        self._writer = Writer(collection, images)

    @classmethod
    def create(
        cls,
        uri: str,
        collection: str,
        encoder: EncoderFacts,
        *,
        structure: Structure | None = None,
        images_dir: str | None = None,
        token: str | None = None,
        timeout_s: float = 60.0,
        limits: Limits = AS_INSTALLED,
    ) -> "MilvusIndex":
        """Makes an index without keys.

        Args:
            uri: A server, such as `http://localhost:19530`, or a path that ends with `.db`, for Milvus Lite.
            collection: Name of the collection: letters, digits and underscores.
            encoder: The encoder whose vectors will be stored.
            structure: How Milvus arranges the vectors; compares with every key when absent.
            images_dir: Folder for the images' bytes, a path or an address that fsspec knows; when absent, they are not
                kept, and `image` raises `ImageUnavailableError`.
            token: Credentials for the server, such as `user:password`.
            timeout_s: Longest time that one call to Milvus may take, in seconds.
            limits: How much Milvus is asked for and handed at once; a server may be set to take more or less.

        Raises:
            MissingLibraryError: pymilvus or Milvus Lite is not installed.
            IndexExistsError: there is a collection of that name.
            IndexLockedError: another process has the file open.
            IndexUnavailableError: Milvus cannot be reached or refuses.
        """
        connection = Connection(uri, token, timeout_s, may_create=True)
        try:
            images = None if images_dir is None else ImageFolder(images_dir)
            facts = CollectionFacts(
                encoder=encoder, structure=structure or Structure(), images_dir=images.url if images else None
            )
            return cls(Collection.create(connection, collection, facts, limits), images)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def open(
        cls,
        uri: str,
        collection: str,
        *,
        images_dir: str | None = None,
        token: str | None = None,
        timeout_s: float = 60.0,
        image_roots: Sequence[str] | None = None,
        limits: Limits = AS_INSTALLED,
    ) -> "MilvusIndex":
        """Opens an index for reading and changing.

        Args:
            uri: As for `create`.
            collection: Name of the collection.
            images_dir: Where the images' bytes are now; where they were at first when absent.
            token: Credentials for the server, such as `user:password`.
            timeout_s: Longest time that one call to Milvus may take, in seconds.
            image_roots: Folders and URLs below which the images' bytes must be to be read; anywhere when absent.
            limits: How much Milvus is asked for and handed at once; a server may be set to take more or less.

        Raises:
            MissingLibraryError: pymilvus or Milvus Lite is not installed.
            IndexNotFoundError: there is no such file or collection.
            IndexFormatError: the collection is no index, or of another format.
            IndexLockedError: another process has the file open.
            IndexUnavailableError: Milvus cannot be reached or refuses.
        """
        connection = Connection(uri, token, timeout_s)
        try:
            opened = Collection.open(connection, collection, limits)
            url = images_dir or opened.facts.images_dir
            return cls(opened, None if url is None else ImageFolder(url, image_roots))
        except BaseException:
            connection.close()
            raise

    @property
    def structure(self) -> Structure:
        """How Milvus arranges the vectors."""
        return self._collection.facts.structure

    @property
    def keeps_images(self) -> bool:
        """Whether there is a folder for the images' bytes."""
        return self._images is not None

    @property
    def version(self) -> None:
        """`None`: a collection has no versions."""
        return None

    def check(self) -> None:
        """Makes sure that Milvus answers for this collection; each question may take `CHECK_TIMEOUT_S` at most.

        Raises:
            IndexUnavailableError: it does not, or has another collection of this name now.
        """
        self._collection.check(CHECK_TIMEOUT_S)

    def search(
        self,
        vectors_QD: NDArray[np.float32],
        k: int,
        scope: Scope = EVERYTHING,
        *,
        exact: bool = False,
        query_modalities: Sequence[Modality | None] | None = None,
        with_vectors: bool = False,
        deadline: Deadline = NEVER,
    ) -> list[list[Hit]]:
        """Finds the `k` best keys of the scope for each query; equal scores in the order of the keys' names.

        Which of the keys with the lowest score come back, if not all do, is up to Milvus. `k` beyond 16,384, and an
        exact search in an `HNSW` structure, fetch the vectors of the whole scope.

        Raises:
            InvalidSearchError: see `KeyIndex.search`.
            DeadlineExceededError: the answer is no longer wanted; what Milvus was asked for last, it may go on with.
            IndexUnavailableError: Milvus cannot be reached or fails.
        """
        moment = MilvusMoment(self._collection.until(deadline))
        return moment.search(vectors_QD, k, scope, exact=exact, with_vectors=with_vectors)

    @contextmanager
    def moment(self, snapshot: str | None = None, *, deadline: Deadline = NEVER) -> Iterator[MilvusMoment]:
        """The collection as it is while it is asked.

        Raises:
            SnapshotRefusedError: a snapshot is asked for, which Milvus cannot give.
        """
        if snapshot is not None:
            raise SnapshotRefusedError("an index in Milvus keeps no snapshots: each answer is of its own moment")
        yield MilvusMoment(self._collection.until(deadline))

    def moment_at_hand(self) -> None:
        """Nothing: Milvus does not tell its moments apart."""

    def make_writable(self, wanted: bool) -> bool:
        """Nothing is needed: every process that has a collection open may change it."""
        return True

    def upsert(self, keys: Sequence[NewKey]) -> None:
        """Stores keys in place of those of the same names; of two of one name the later counts.

        All keys are checked before anything is stored. They are sent in batches of up to 5,000 keys and 16 MiB. Milvus
        has no transactions: if it or this process fails in between, the batches before are stored and the others not,
        which the error says; repeating the call is safe.

        Raises:
            InvalidKeyError: a key cannot be stored; says which and why. Nothing was changed.
            ImageUnavailableError: an image cannot be written. Nothing was changed.
            IndexUnavailableError: Milvus cannot be reached or fails; says how many keys were stored.
        """
        self._writer.upsert(keys, self.encoder.width)

    def delete(self, keys: Listed[str]) -> int:
        """Deletes keys; gives the number that were there. Sent in batches of 5,000, as `upsert` does.

        Raises:
            IndexUnavailableError: Milvus cannot be reached or fails.
        """
        require_names(keys, "the keys to delete")
        return self._writer.delete(keys)

    @property
    def capabilities(self) -> Capabilities:
        """Milvus has no transactions and no numbers of changes."""
        return Capabilities(numbers_changes=False, is_atomic=False, remembers_requests=False, puts_back=False)

    def apply(self, changes: Sequence[Change], *, atomic: bool = False, request: RequestKey | None = None) -> Applied:
        """Makes changes of single keys as if in their order; what comes of each key is sent once, in batches.

        A patch reads the key and stores it again; what another process changes in between is lost.

        Raises:
            UnsupportedError: `atomic`, a `request` or a change with `if_seq`. Nothing was changed.
            ImageUnavailableError: an image cannot be written. Nothing was changed.
            IndexUnavailableError: Milvus cannot be reached or fails; says how many keys were stored.
        """
        self.capabilities.require("Milvus", changes, atomic=atomic, request=request)
        return self._writer.apply(changes, self.encoder.width)

    def delete_scope(
        self,
        scope: Scope,
        *,
        dry_run: bool = False,
        request: RequestKey | None = None,
        deadline: Deadline = NEVER,
        pause: Callable[[Applied], None] | None = None,
    ) -> Applied:
        """Deletes the keys that were in the scope when they were looked for, in batches; not all or nothing.

        Others change keys meanwhile in any case, so that nobody needs a `pause`. A key that another process changes
        meanwhile is deleted too.

        Raises:
            UnsupportedError: a `request`. Nothing was changed.
            IndexUnavailableError: Milvus cannot be reached or fails.
        """
        self.capabilities.require("Milvus", (), atomic=False, request=request)
        collection = self._collection.until(deadline)
        if dry_run:
            return Applied(num_deleted=count(collection, scope))
        return Applied(num_deleted=self._writer.delete([record["key"] for record in records_in(collection, scope)]))

    def remembered(self, request: RequestKey) -> Applied | None:
        """Raises `UnsupportedError`: Milvus remembers no requests."""
        self.capabilities.require("Milvus", (), atomic=False, request=request)
        return None

    def get(self, key: str, *, with_vector: bool = False) -> StoredKey:
        """Looks a key up.

        Raises:
            KeyNotFoundError: there is no such key.
            IndexUnavailableError: Milvus cannot be reached or fails.
        """
        return stored_key_of(self._collection.record(key, (*STORED_FIELDS, "vector") if with_vector else STORED_FIELDS))

    def vector(self, key: str) -> NDArray[np.float32]:
        """The stored unit vector `[D]` of a key.

        Raises:
            KeyNotFoundError: there is no such key.
            IndexUnavailableError: Milvus cannot be reached or fails.
        """
        return np.asarray(self._collection.record(key, ["vector"])["vector"], dtype=np.float32)

    def image(self, key: str, position: int = 0) -> StoredImage:
        """Gives one image of a key, as it came.

        Raises:
            KeyNotFoundError: there is no such key, or it has no such image.
            ImageUnavailableError: its bytes were not kept, or cannot be read where they were; the class says why.
            IndexUnavailableError: Milvus cannot be reached or fails.
        """
        return self.find_image(key, position).read()

    def find_image(self, key: str, position: int = 0) -> FoundImage:
        """Looks one image of a key up; its bytes are read later.

        Raises:
            KeyNotFoundError: there is no such key, or it has no such image.
            ImageUnavailableError: its bytes were not kept.
            IndexUnavailableError: Milvus cannot be reached or fails.
        """
        images = self._collection.record(key, ["images"])["images"]["files"]
        if not 0 <= position < len(images):
            raise KeyNotFoundError(f"key '{key}' has {len(images)} images, there is none at position {position}")
        location, media_type, folder = images[position]["location"], images[position]["media_type"], self._images
        if location is None or folder is None:
            raise ImageUnavailableError(f"the bytes of the image of key '{key}' were not kept: there was no images_dir")
        return FoundImage(None, lambda timeout_s: StoredImage(folder.read(location, timeout_s), media_type))

    def scan(self, after: str | None = None) -> Iterator[StoredKey]:
        """All keys in the order of their names (by code point), those after `after` only; 500 are read at a time.

        Raises:
            IndexUnavailableError: Milvus cannot be reached or fails.
        """
        check_after(after)
        for page in self._collection.pages("", STORED_FIELDS, after):
            yield from map(stored_key_of, page)

    def page(
        self, after: str | None = None, limit: int = 100, scope: Scope = EVERYTHING, *, deadline: Deadline = NEVER
    ) -> list[StoredKey]:
        """The first keys of a scope by name (by code point), at most `limit` and those after `after` only.

        Raises:
            DeadlineExceededError: the answer is no longer wanted.
            IndexUnavailableError: Milvus cannot be reached or fails.
        """
        check_after(after)
        records = records_in(self._collection.until(deadline), scope, STORED_FIELDS, after, check_limit(limit))
        return list(map(stored_key_of, islice(records, limit)))

    def count(self, scope: Scope = EVERYTHING, *, deadline: Deadline = NEVER) -> int:
        """Number of keys in the scope.

        Raises:
            InvalidSearchError: there is no such pool (`UnknownPoolError`) or modality.
            DeadlineExceededError: the answer is no longer wanted.
            IndexUnavailableError: Milvus cannot be reached or fails.
        """
        return MilvusMoment(self._collection.until(deadline)).count(scope)

    def info(self) -> IndexInfo:
        """What the index is at this moment; reads the pools of every key that is in some.

        Raises:
            IndexUnavailableError: Milvus cannot be reached or fails.
        """
        pools: dict[str, int] = {}
        for page in self._collection.pages("num_pools > 0", ["pools"], page_records=self._collection.limits.found // 4):
            for record in page:
                for pool in record["pools"]:
                    pools[pool] = pools.get(pool, 0) + 1
        modalities = {modality: self._collection.count(listed("modality", [modality])) for modality in Modality}
        facts, connection = self._collection.facts, self._collection.connection
        details: dict[str, Any] = {
            "format_version": facts.format_version,
            "server": connection.where,
            "server_version": connection.version,
            "collection": self._collection.name,
            "structure": facts.structure.model_dump(),
            "images_dir": None if self._images is None else self._images.url,
        }
        return IndexInfo(
            "milvus", self.encoder, sum(modalities.values()), modalities, dict(sorted(pools.items())), details
        )

    def held(self) -> list[Held]:
        """The file of Milvus Lite, which other collections may be in, too; what a server holds is the server's."""
        file = self._collection.connection.file
        return [] if file is None else [Held("store", file.stat().st_size if file.is_file() else 0, Place.DISK)]

    def close(self) -> None:
        """Closes the connection, and a file that nothing else in this process has open. Repeating it is fine."""
        self._collection.connection.close()

    def __enter__(self) -> "MilvusIndex":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
