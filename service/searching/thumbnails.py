"""Small pictures of keys' images, made once, in threads, and kept in bounded memory."""

from collections import OrderedDict
from io import BytesIO

from anykey.encoder.errors import InvalidItemError
from anykey.encoder.images import ImageLimits, decode_image
from anykey.service.concurrency.shared_work import SharedWork
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.errors import from_item_error

WIDTHS_PX = (64, 128, 256, 512, 1024)  # few, so that whoever asks for all widths fills no memory
MEDIA_TYPE = "image/jpeg"
_QUALITY = 85
_MAX_SHARE = 8  # no thumbnail takes more than this share of the memory, so that one drives out few others
_ENTRY_BYTES = 300  # about what a thumbnail takes beside its bytes


def width_made(asked_px: int) -> int:
    """The width in which a thumbnail is made that is asked for in another: the next one up.

    >>> width_made(100), width_made(128), width_made(1024)
    (128, 128, 1024)
    """
    return next(width_px for width_px in WIDTHS_PX if width_px >= asked_px)


class Thumbnails:
    """Makes thumbnails and keeps those that were used last; belongs to one event loop, which it never blocks.

    They are kept by the content of the image that they are of, so that none is ever of an image that has changed, and
    equal images of any index share one. Of several who ask for the same at once, one has it made.

    Attributes:
        num_bytes: What those that are kept take, about.
    """

    def __init__(self, threads: BoundedThreads, limits: ImageLimits, max_bytes: int) -> None:
        """Begins with none.

        Args:
            threads: Where they are made; who made the threads closes them.
            limits: Largest image that is decoded.
            max_bytes: Room for those that are kept; 0 keeps none.
        """
        self._threads = threads
        self._limits = limits
        self._max_bytes = max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._under_way: SharedWork[bytes] = SharedWork()

    def __len__(self) -> int:
        return len(self._kept)

    async def thumbnail(self, data: bytes, etag: str, width_px: int) -> bytes:
        """A JPEG of an image, upright, at most so wide and twice as high, never larger than the image.

        Args:
            data: The encoded image; of an animation, the first frame is shown.
            etag: Tells its content.
            width_px: One of `WIDTHS_PX`.

        Raises:
            ItemTooLargeError: the image is over a limit.
            UndecodableImageError: it is none, or cut short.
            OverloadedError: too many are waiting.
        """
        name = f"{width_px} {etag}"
        kept = self._kept.get(name)
        if kept is not None:
            self._kept.move_to_end(name)
            return kept

        async def make() -> bytes:
            made = await self._threads.run(_made, data, self._limits, width_px)
            self._keep(name, made)
            return made

        try:
            return await self._under_way.result(name, make)
        except InvalidItemError as error:
            raise from_item_error(error) from error

    def _keep(self, name: str, made: bytes) -> None:
        size = len(made) + _ENTRY_BYTES
        if size > self._max_bytes // _MAX_SHARE or name in self._kept:
            return
        self._kept[name] = made
        self.num_bytes += size
        while self.num_bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.num_bytes -= len(dropped) + _ENTRY_BYTES


def _made(data: bytes, limits: ImageLimits, width_px: int) -> bytes:
    picture = decode_image(data, limits, target_px=width_px)
    picture.thumbnail((width_px, 2 * width_px))
    written = BytesIO()
    picture.save(written, "JPEG", quality=_QUALITY, optimize=True)
    return written.getvalue()
