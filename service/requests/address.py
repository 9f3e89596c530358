"""Addresses of the service: the key and the prefix in a path, the parameters behind it, and where images are."""

import re
from urllib.parse import quote, unquote_to_bytes

from starlette.requests import Request

from anykey.service.errors import InvalidRequestError, NotFoundError

SLASH = re.compile(b"/|%2f", re.IGNORECASE)  # both part a path for the routes, which see it decoded


def check_parameters(request: Request, *known: str, hint: str = "") -> None:
    """Makes sure that an address has no other parameters than these, and none twice: none is silently dropped.

    Args:
        request: The request.
        known: Names of the parameters that the route takes.
        hint: What to do instead, for the message.

    Raises:
        InvalidRequestError: another parameter, or one given twice; names it.
    """
    if not request.scope["query_string"]:
        return
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        shown = ascii(name[:40])
        if name not in known:
            takes = f"takes {', '.join(known)}" if known else "takes none"
            raise InvalidRequestError(f"unknown parameter {shown} in the address, which {takes}{hint}")
        if names.count(name) > 1:
            raise InvalidRequestError(f"parameter {shown} is given more than once")


def key_in_path(request: Request) -> tuple[str, bool]:
    """The key a `/keys/...` path names, and whether the path asks for its image.

    Reads the path as it was sent, because decoding makes `/keys/a%2Fimage` (the key `a/image`) and
    `/keys/a/image` (the image of `a`) the same.

    Raises:
        InvalidRequestError: the key is not percent-encoded UTF-8.
        NotFoundError: the key is empty.
    """
    raw: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    num_in_prefix = prefix_of(request).count("/")
    raw = SLASH.split(raw.partition(b"?")[0], num_in_prefix + 2)[-1]  # behind "PREFIX/keys/"
    encoded = raw.removesuffix(b"/image")
    try:
        key = unquote_to_bytes(encoded).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError("the key in the path must be percent-encoded UTF-8") from error
    if not key:
        raise NotFoundError("the path names no key; expected /keys/KEY")
    return key, len(encoded) < len(raw)


def prefix_of(request: Request) -> str:
    """What a proxy put before the service's addresses."""
    prefix: str = request.scope.get("root_path", "")
    return prefix


def image_urls(prefix: str, key: str, num_images: int) -> list[str]:
    """Addresses of a key's images: paths on the host that was asked, the prefix included."""
    if not num_images:  # as of most keys
        return []
    address = f"{prefix}/keys/{quote(key, safe='')}/image"
    return [address if position == 0 else f"{address}?position={position}" for position in range(num_images)]
