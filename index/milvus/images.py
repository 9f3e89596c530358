"""Images' bytes beside a Milvus collection: one file per content, named by its SHA-256, wherever fsspec reaches."""

import hashlib
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

from anykey.index.errors import ImageLateError, ImageRefusedError, ImageUnavailableError, ImageUnreachableError
from anykey.index.hits import FETCH_S
from anykey.sources.files.files import file_system, reason_of
from anykey.sources.files.locations import normal_location, scheme_of, without_secrets
from anykey.sources.files.roots import ImageRoots, OutsideRootsError, root_of, roots_named

MAX_BYTES = 256 * 2**20
_KEPT = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}")


class ImageFolder:
    """A folder of images; safe for use from several threads and processes.

    Files are only ever added, each in one step, and never changed: equal images are one file, whichever keys have them.

    Attributes:
        url: The folder; absolute.
    """

    def __init__(self, url: str, image_roots: Sequence[str] | None = None) -> None:
        """Looks at nothing yet.

        Args:
            url: A path, or an address such as `s3://bucket/folder`.
            image_roots: Folders and URLs below which the folder must be for its images to be read; it may be anywhere
                when absent, as no image is given away but one of the SHA-256 that it is asked for by.

        Raises:
            ImageUnavailableError: it is neither.
        """
        location = normal_location(url)
        self.url = location if scheme_of(location) else str(Path(location).absolute())
        self._files, self._root = file_system(self.url)
        try:
            self._roots = ImageRoots([root_of(self.url)], MAX_BYTES)
            self._outer = None if image_roots is None else roots_named(image_roots)
        except ValueError as error:
            raise ImageUnavailableError(f"images cannot be kept in {without_secrets(url)}: {error}") from error

    def keep(self, data: bytes) -> str:
        """Writes an image, unless it is there; gives its location below the folder.

        Raises:
            ImageUnavailableError: it cannot be written.
        """
        digest = hashlib.sha256(data).hexdigest()
        location = f"{digest[:2]}/{digest}"
        path = f"{self._root}/{location}"
        try:
            if not self._files.exists(path):
                self._files.makedirs(f"{self._root}/{digest[:2]}", exist_ok=True)
                aside = f"{path}.{uuid.uuid4().hex}"
                self._files.pipe_file(aside, data)
                self._files.mv(aside, path)
        except OSError as error:
            raise ImageUnavailableError(f"image {location} cannot be written to {self.url}: {error}") from error
        return location

    def read(self, location: str, timeout_s: float = FETCH_S) -> bytes:
        """Reads an image back.

        Args:
            location: What `keep` gave.
            timeout_s: Longest time that fetching it from another machine may take.

        Raises:
            ImageRefusedError: `keep` gives no such location, or it leads out of the folder.
            ImageLateError: it did not come in time.
            ImageUnavailableError: the file is gone, damaged or out of reach.
        """
        if not isinstance(location, str) or not _KEPT.fullmatch(location):  # a collection of others may say anything
            raise ImageRefusedError(f"expected an image named by its SHA-256 in {self.url}, got {str(location)[:80]!a}")
        place = f"{self.url.rstrip('/')}/{location}"
        try:
            if self._outer is not None:
                self._outer.require(place)
            data = self._roots.read(place, timeout_s)
        except OutsideRootsError as error:
            raise ImageRefusedError(f"image {location} in {self.url} may not be read: {error}") from error
        except TimeoutError as error:
            raise ImageLateError(f"image {location} cannot be read from {self.url}: {error}") from error
        except OSError as error:
            is_away = bool(scheme_of(self.url)) and not isinstance(error, FileNotFoundError)
            kind = ImageUnreachableError if is_away else ImageUnavailableError
            raise kind(f"image {location} cannot be read from {self.url}: {reason_of(error)}") from error
        if hashlib.sha256(data).hexdigest() != location.rpartition("/")[2]:
            raise ImageUnavailableError(f"image {location} in {self.url} is damaged: its content has another SHA-256")
        return data
