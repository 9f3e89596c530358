"""Keys that are to be stored to their vectors, by the model that embeds queries, which go first.

Shape legend: D = width.
"""

import asyncio
from dataclasses import dataclass

from anykey.encoder.errors import InvalidItemError
from anykey.encoder.images import image_type
from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import ItemEncoder, Prepared, Role, check_item
from anykey.index.hits import StoredImage
from anykey.index.key_index import NewKey
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.embedding.batcher import Batcher, Lane, Vector
from anykey.service.errors import InvalidRequestError, UndecodableImageError, from_item_error
from anykey.service.keys.changes import KeyToStore


@dataclass(frozen=True)
class EmbeddedKey:
    """A key that can be stored.

    Attributes:
        new: The key with its vector.
        is_text_cut: Whether its text is longer than the model's context; `None` where no text was embedded.
    """

    new: NewKey
    is_text_cut: bool | None


class KeyEmbedder:
    """Gives keys their vectors, as builds of an index do.

    Belongs to one event loop, which it never blocks. At most as many keys are decoded and wait for the model at a time
    as the batcher has places for them; whoever comes on top waits for a place, first come, first served, so that many
    keys can be handed over at once. Owns none of its parts; who made them closes them.
    """

    def __init__(
        self, encoder: ItemEncoder, batcher: Batcher[Prepared], *, turns: asyncio.Semaphore, threads: BoundedThreads
    ) -> None:
        """Joins the parts.

        Args:
            encoder: Prepares items; must be the batcher's.
            batcher: Encodes what is prepared.
            turns: As many as the batcher has places in its lane `LATER`.
            threads: For decoding.
        """
        self._encoder = encoder
        self._batcher = batcher
        self._threads = threads
        self._turns = turns

    async def embed(self, key: KeyToStore, deadline_s: float) -> EmbeddedKey:
        """The key with its vector.

        Args:
            key: What is to be stored.
            deadline_s: On the clock of `time.monotonic`; later than this it is not encoded any more.

        Raises:
            UnsupportedModalityError: the model does not take this kind of item.
            InvalidRequestError: the model cannot embed all of it, or the told vector has another width.
            ItemTooLargeError: an image is over a limit.
            UndecodableImageError: an image cannot be read.
            DeadlineExceededError: not encoded within the deadline.
            NotReadyError: shutting down, or the encoder's worker died.
            InternalError: the encoder failed on the key's batch.
        """
        if key.vector_D is not None:
            self._check_width(key, len(key.vector_D))
            return EmbeddedKey(_new_key(key, await self._images(key), key.vector_D), None)
        item = Item(text=key.text, images=key.images)
        try:
            check_item(self._encoder, item)
            async with self._turns:
                with self._batcher.reserve(Lane.LATER) as place:
                    prepared = await self._threads.run(self._encoder.prepare, item, Role.KEY)
                    images = await self._images(key)
                    encoded = await asyncio.wrap_future(place.submit(prepared, deadline_s))
        except InvalidItemError as error:
            raise from_item_error(error) from error
        is_text_cut = None if key.text is None else prepared.is_text_cut
        return EmbeddedKey(_new_key(key, images, encoded.vector_D), is_text_cut)

    async def _images(self, key: KeyToStore) -> tuple[StoredImage, ...]:
        return await self._threads.run(_stored_images, key) if key.images else ()

    def _check_width(self, key: KeyToStore, width: int) -> None:
        if width != self._encoder.width:
            where = f"{key.where}.vector" if key.where else "vector"
            raise InvalidRequestError(
                f"{where}: expected {self._encoder.width} numbers, as the model gives, got {width}"
            )


def _stored_images(key: KeyToStore) -> tuple[StoredImage, ...]:
    """The key's images with what they are; raises `UndecodableImageError` for what is none."""
    images = []
    for position, data in enumerate(key.images):
        media_type = image_type(data)
        if media_type is None:
            where = f"{key.where}.image" if key.where else "image"
            raise UndecodableImageError(f"{where}[{position}]: cannot decode {len(data)} bytes as an image")
        images.append(StoredImage(data, media_type))
    return tuple(images)


def _new_key(key: KeyToStore, images: tuple[StoredImage, ...], vector_D: Vector) -> NewKey:
    bare = key.modality or Modality.TEXT if key.text is None and not images else None
    return NewKey(key.key, vector_D, key.text, images, dict(key.metadata), key.pools, bare)
