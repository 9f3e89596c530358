"""Images that a request names by their addresses, where the service fetches such.

A body is read twice then: the first time tells which images are missing, which are fetched in between. So whoever
reads an item needs to know nothing of it, and nothing is fetched for a request that is wrong.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from anykey.service.errors import ItemTooLargeError, ServiceError
from anykey.service.queries.base64_text import decode_base64

T = TypeVar("T")
PLACEHOLDER = b"\0"  # stands for an image that is missing, while what else the body says is read


class NamedImages:
    """The images that one request names.

    Attributes:
        is_used: Whether an address was read.
        missing: Addresses of those that are to be fetched, and which field named them first.
        found: What they are, or why they cannot be had.
    """

    def __init__(self, max_images: int) -> None:
        """Knows of none.

        Args:
            max_images: Most that a request may name.
        """
        self._max_images = max_images
        self.is_used = False
        self.missing: dict[str, str] = {}
        self.found: dict[str, bytes | ServiceError] = {}

    def used_by(self, read: Callable[[], T]) -> T:
        """What `read` gives, where addresses stand for these images."""
        token = _CURRENT.set(self)
        try:
            return read()
        finally:
            _CURRENT.reset(token)

    def get(self, address: str, where: str) -> bytes:
        """The image, or what stands for it while it is missing.

        Raises:
            ServiceError: it cannot be had.
            ItemTooLargeError: there are too many.
        """
        self.is_used = True
        found = self.found.get(address)
        if isinstance(found, ServiceError):
            raise type(found)(f"{where}: {found.message}")
        if found is not None:
            return found
        self.missing.setdefault(address, where)
        if len(self.missing) > self._max_images:
            raise ItemTooLargeError(f"{where}: at most {self._max_images} images of a request may be addresses")
        return PLACEHOLDER


_CURRENT: ContextVar[NamedImages | None] = ContextVar("named_images", default=None)


def are_images_named() -> bool:
    """Whether what is being read names images, so that the same words may say something else the next time."""
    images = _CURRENT.get()
    return images is not None and images.is_used


def encoded_image(text: str, where: str, max_bytes: int) -> bytes:
    """Bytes of an image that a client sent as base64 or a `data:` URI, or as an address where such are fetched.

    Args:
        text: What the client sent.
        where: The field, for the message.
        max_bytes: Largest result.

    Raises:
        ServiceError: as `decode_base64`, or the image cannot be fetched.
    """
    images = _CURRENT.get()
    if images is not None and text[:8].lstrip().lower().startswith(("http:", "https:")):
        return images.get(text.strip(), where)
    return decode_base64(text, where, max_bytes)
