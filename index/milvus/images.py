"""Images' bytes beside a Milvus collection: one file per content, named by its SHA-256, wherever fsspec reaches."""

import hashlib
import uuid
from pathlib import Path

from index.errors import ImageUnavailableError
from index.sources.files import file_system


class ImageFolder:
    """A folder of images; safe for use from several threads and processes.

    Files are only ever added, each in one step, and never changed: equal images are one file, whichever keys have them.

    Attributes:
        url: The folder; absolute.
    """

    def __init__(self, url: str) -> None:
        """Looks at nothing yet.

        Args:
            url: A path, or an address such as `s3://bucket/folder`.
        """
        self.url = url if "://" in url else str(Path(url).absolute())
        self._files, self._root = file_system(self.url)

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

    def read(self, location: str) -> bytes:
        """Reads an image back.

        Raises:
            ImageUnavailableError: the file is gone, damaged or out of reach.
        """
        try:
            data: bytes = self._files.cat_file(f"{self._root}/{location}")
        except OSError as error:
            raise ImageUnavailableError(f"image {location} cannot be read from {self.url}: {error}") from error
        if hashlib.sha256(data).hexdigest() != location.rpartition("/")[2]:
            raise ImageUnavailableError(f"image {location} in {self.url} is damaged: its content has another SHA-256")
        return data
