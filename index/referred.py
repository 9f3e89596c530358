"""Images that an index only refers to: read below its roots, in the time there is, and only if they are images."""

from anykey.index.errors import ImageLateError, ImageRefusedError, ImageUnavailableError, ImageUnreachableError
from anykey.index.hits import FETCH_S, UNKNOWN_TYPE, StoredImage
from anykey.sources.files.files import reason_of
from anykey.sources.files.locations import describe, is_remote
from anykey.sources.files.roots import ImageRoots, OutsideRootsError, root_of

__all__ = ["read_referred", "require_referred", "root_of"]

NAME_ROOTS = "name its folder or URL with --image-root, or build the index again"


def read_referred(
    location: str, media_type: str, key: str, roots: ImageRoots, timeout_s: float = FETCH_S
) -> StoredImage:
    """Reads an image that an index refers to.

    Args:
        location: Where it is.
        media_type: What the index says it is.
        key: The key's name, for messages.
        roots: Below which it may lie.
        timeout_s: Longest time that fetching it from another machine may take.

    Raises:
        ImageRefusedError: it lies below no root, or is no image of that type.
        ImageLateError: it did not come in time.
        ImageUnreachableError: the machine that holds it does not answer, or fails.
        ImageUnavailableError: it is gone, or cannot be read.
    """
    what = f"the index refers to the image of key '{key}' at {describe(location)}, which"
    try:
        data = roots.read(location, timeout_s)
    except OutsideRootsError as error:
        raise ImageRefusedError(f"{what} may not be read: {error}; {NAME_ROOTS}") from error
    except TimeoutError as error:
        raise ImageLateError(f"{what} cannot be read: {error}") from error
    except OSError as error:
        is_away = is_remote(location) and not isinstance(error, FileNotFoundError)
        kind = ImageUnreachableError if is_away else ImageUnavailableError
        raise kind(f"{what} cannot be read: {reason_of(error)}") from error
    return StoredImage(data, _checked_type(data, media_type, what))


def require_referred(location: str, key: str, roots: ImageRoots) -> None:
    """Makes sure that a reference that comes from elsewhere, in a shard or a snapshot, is below a root.

    Raises:
        ImageRefusedError: it is below none; says what to name.
    """
    try:
        roots.require(location)
    except OutsideRootsError as error:
        raise ImageRefusedError(
            f"key '{key}' refers to an image at {describe(location)}, which may not be read: {error}; if it shall be, "
            "name its folder or URL with --image-root"
        ) from error


def _checked_type(data: bytes, media_type: str, what: str) -> str:
    """What the decoder calls the image; what the index says of it may be of a release that could not tell."""
    from anykey.encoder.images import image_type  # with Pillow, which whoever only names a root does not need

    found = image_type(data)
    if found is None:
        raise ImageRefusedError(f"{what} holds no image that can be shown")
    if media_type not in (found, UNKNOWN_TYPE):
        raise ImageRefusedError(f"{what} holds another kind of image than was indexed: {found}, not {media_type}")
    return found
