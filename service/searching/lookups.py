"""One key, or one of its images, with a deadline; images that lie elsewhere are fetched in threads of their own."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from anykey.encoder.images import image_type
from anykey.index import errors as index_errors
from anykey.index.deadline import Deadline
from anykey.index.errors import (
    ImageLateError,
    ImageRefusedError,
    ImageUnavailableError,
    ImageUnreachableError,
    KeyNotFoundError,
)
from anykey.index.filtering.conditions import Path
from anykey.index.filtering.facets import FieldsPage
from anykey.index.hits import FoundImage, StoredImage, StoredKey
from anykey.index.key_index import Moment, Scope
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.errors import (
    DeadlineExceededError,
    ImageNotReachedError,
    InvalidRequestError,
    NotFoundError,
    ServiceError,
)
from anykey.service.indexes.watch import IndexWatch
from anykey.service.logs import LogEvent
from anykey.service.requests.deadline import late, within
from anykey.service.searching.searcher import SearchableIndex, notes_of_filter, unknown_fields
from anykey.service.searching.thumbnails import MEDIA_TYPE, Thumbnails

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShownImage:
    """An image as a browser may be given it.

    Attributes:
        data: Its encoded bytes.
        media_type: What the decoder calls it.
        etag: Changes with its content.
    """

    data: bytes
    media_type: str
    etag: str


class Lookups:
    """Looks keys and images up.

    Belongs to one event loop, which it never blocks. The index is asked in `search_threads`, for no longer than it
    takes to find out where an image is; one that the index refers to is read in `image_threads`, so that a machine that
    hangs holds up other images at most. Owns none of its parts; who made them closes them.
    """

    def __init__(
        self,
        index: SearchableIndex,
        watch: IndexWatch,
        *,
        search_threads: BoundedThreads,
        image_threads: BoundedThreads,
        thumbnails: Thumbnails,
        deadline_s: float,
    ) -> None:
        """Joins the parts.

        Args:
            index: What is asked.
            watch: The index's.
            search_threads: For all that the index answers from its own files.
            image_threads: For images that lie elsewhere.
            thumbnails: Makes small pictures of images.
            deadline_s: Longest time for one answer.
        """
        self._index = index
        self._watch = watch
        self._search_threads = search_threads
        self._image_threads = image_threads
        self._thumbnails = thumbnails
        self._deadline_s = deadline_s

    async def key(self, name: str, write: Callable[[StoredKey], T], *, with_vector: bool = False) -> T:
        """One key.

        Args:
            name: The key.
            write: Makes of it what is wanted; called in the thread that looked it up.
            with_vector: Whether its vector is wanted, too.

        Raises:
            NotFoundError: there is no such key.
            OverloadedError: no place in the queue.
            DeadlineExceededError: not answered within the deadline.
            IndexUnavailableError: the index cannot be reached, or is damaged.
        """
        try:
            look_up = partial(self._index.get, name, with_vector=with_vector)
            reading = self._search_threads.run(lambda: write(self._watch.call(look_up)))
            return await within(self._deadline_s, reading)
        except KeyNotFoundError as error:
            raise NotFoundError("no such key") from error

    async def page(self, after: str | None, limit: int, scope: Scope, write: Callable[[list[StoredKey]], T]) -> T:
        """The first keys of a scope in the order of their names.

        Args:
            after: The name to go on after; at the beginning when absent.
            limit: Most keys.
            scope: Which keys.
            write: Makes of them what is wanted; called in the thread that looked them up.

        Raises:
            InvalidRequestError: there is no such pool.
            OverloadedError: no place in the queue.
            DeadlineExceededError: not answered within the deadline.
            IndexUnavailableError: the index cannot be reached, or is damaged.
        """
        return await self._in_scope(lambda until: write(self._index.page(after, limit, scope, deadline=until)))

    async def count(self, scope: Scope) -> int:
        """Number of keys in a scope; raises as `page`."""
        return await self._in_scope(lambda until: self._index.count(scope, deadline=until))

    async def notes(self, scope: Scope) -> list[str]:
        """What whoever names a scope should know of it: fields of its filter that no key has; raises as `page`."""
        if scope.condition is None:
            return []

        def look(until: Deadline) -> list[str]:
            with self._index.moment(deadline=until) as moment:
                return notes_of_filter(unknown_fields(moment, scope))

        return await self._in_scope(look)

    async def fields(self, after: Path | None, limit: int, scope: Scope, write: Callable[[FieldsPage, Moment], T]) -> T:
        """The fields that the keys of a scope have.

        Args:
            after: The field to go on after; at the beginning when absent.
            limit: Most fields.
            scope: Which keys.
            write: Makes of them, and of the moment that they are of, what is wanted; called in the thread that counted.

        Raises:
            InvalidRequestError: there is no such pool, or the index counts no values.
            OverloadedError: no place in the queue.
            DeadlineExceededError: not answered within the deadline.
            IndexUnavailableError: the index cannot be reached, or is damaged.
        """

        def look(until: Deadline) -> T:
            with self._index.moment(deadline=until) as moment:
                return write(moment.fields(after, limit, scope), moment)

        return await self._in_scope(look)

    async def _in_scope(self, look: Callable[[Deadline], T]) -> T:
        deadline = Deadline(self._deadline_s)
        try:
            return await within(self._deadline_s, self._search_threads.run(self._watch.call, look, deadline))
        except index_errors.DeadlineExceededError as error:
            raise late(self._deadline_s) from error
        except index_errors.InvalidSearchError as error:
            raise InvalidRequestError(str(error)) from error
        finally:
            deadline.cancel()

    async def image(self, name: str, position: int, request_id: str) -> ShownImage:
        """One image of a key.

        Args:
            name: The key.
            position: Which of its images, from 0.
            request_id: For the log.

        Raises:
            NotFoundError: there is no such image, it is gone, or it is none that may be shown.
            ImageNotReachedError: the machine that holds it does not answer, or fails.
            OverloadedError: no place in the queue.
            DeadlineExceededError: not answered within the deadline.
            IndexUnavailableError: the index cannot be reached, or is damaged.
        """
        with _wire_errors(position, request_id):
            shown = await within(self._deadline_s, self._find_and_fetch(name, position))
        if shown is None:
            raise NotFoundError("the key's image is of a type that is not shown")
        return shown

    async def thumbnail(self, image: ShownImage, width_px: int) -> ShownImage:
        """A small picture of a key's image.

        Args:
            image: As it was indexed.
            width_px: One of `thumbnails.WIDTHS_PX`.

        Raises:
            ItemTooLargeError: the image is over a limit.
            UndecodableImageError: it cannot be decoded whole.
            OverloadedError: no place in the queue.
            DeadlineExceededError: not made within the deadline.
        """
        making = self._thumbnails.thumbnail(image.data, image.etag, width_px)
        return ShownImage(await within(self._deadline_s, making), MEDIA_TYPE, thumbnail_etag(image, width_px))

    async def _find_and_fetch(self, name: str, position: int) -> ShownImage | None:
        ends_s = time.monotonic() + self._deadline_s
        found = await self._search_threads.run(self._find, name, position)
        if isinstance(found, FoundImage):
            return await self._image_threads.run(_fetched, found, ends_s)
        return found

    def _find(self, name: str, position: int) -> FoundImage | ShownImage | None:
        found = self._watch.call(self._index.find_image, name, position)
        return found if found.image is None else _shown(found.image)


def thumbnail_etag(image: ShownImage, width_px: int) -> str:
    """What the thumbnail's entity tag is, without making the thumbnail."""
    return f'{image.etag[:-1]}-{width_px}"'


def _fetched(found: FoundImage, ends_s: float) -> ShownImage | None:
    return _shown(found.read(max(0.001, ends_s - time.monotonic())))


def _shown(image: StoredImage) -> ShownImage | None:
    """The image, if it is one, whatever is noted of its type."""
    media_type = image_type(image.data)
    if media_type is None:
        return None
    return ShownImage(image.data, media_type, f'"{hashlib.sha256(image.data).hexdigest()[:32]}"')


@contextmanager
def _wire_errors(position: int, request_id: str) -> Iterator[None]:
    """Tells the client what of an image is its affair, and the log that an image could not be shown."""
    try:
        yield
    except KeyNotFoundError as error:
        raise NotFoundError(f"no such key, or it has no image {position}") from error
    except ImageUnavailableError as error:
        kind, reason = _reason(error)
        fields = {"event": LogEvent.IMAGE_UNAVAILABLE, "request_id": request_id}
        logger.warning("an image that the index refers to %s", reason, extra=fields)
        raise kind(f"the key's image {reason}") from error


def _reason(error: ImageUnavailableError) -> tuple[type[ServiceError], str]:
    """The wire's error for an image that cannot be shown, and why; neither names the key nor the place."""
    if isinstance(error, ImageLateError):
        return DeadlineExceededError, "did not come in time from where the index says it is"
    if isinstance(error, ImageUnreachableError):
        return ImageNotReachedError, "cannot be reached where the index says it is; retry in a moment"
    if isinstance(error, ImageRefusedError):
        return NotFoundError, "is not shown: where the index says it is, no image may be read, or there is none"
    return NotFoundError, "is no longer where the index says it is"
