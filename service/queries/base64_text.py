"""Base64 as clients spell it, to bytes."""

import binascii
from urllib.parse import unquote_to_bytes

import pybase64

from anykey.service.errors import InvalidRequestError, ItemTooLargeError

PLAIN_BASE64 = bytes.maketrans(b"-_", b"+/")
BASE64_PIECE = 2**20


def decode_base64(text: str, where: str, max_bytes: int) -> bytes:
    """Bytes of a base64 string or a `data:` URI.

    White space in it is ignored, the URL-safe letters are taken too, and the padding may be absent.

    Args:
        text: What the client sent.
        where: The field, for the message.
        max_bytes: Largest result.

    Raises:
        InvalidRequestError: not base64, or an address to fetch.
        ItemTooLargeError: the result would be larger than `max_bytes`; nothing was decoded.
    """
    is_base64 = True
    scheme = text[:8].lstrip().lower()
    if scheme.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma:
            raise InvalidRequestError(f"{where}: expected a data URI of the form data:image/...;base64,...")
        is_base64 = header.rstrip().lower().endswith(";base64")
    elif scheme.startswith(("http:", "https:", "file:")):
        raise InvalidRequestError(f"{where}: addresses are not fetched; send the image as base64 or as a file part")
    if len(text) * 3 // 4 > 4 * max_bytes:  # white space may be half of it, and percent signs two thirds
        raise ItemTooLargeError(f"{where} has about {len(text) * 3 // 4} bytes, at most {max_bytes} are accepted")
    try:
        if is_base64 and len(text) <= BASE64_PIECE and (contents := _from_plain(text)) is not None:
            return contents
        encoded = unquote_to_bytes(text) if "%" in text else text.encode("ascii")
        return _from_base64(encoded) if is_base64 else encoded
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"{where}: not valid base64 ({len(text)} characters)") from error


def _from_plain(text: str) -> bytes | None:
    """The bytes of base64 as its standard has it, which nearly all clients send; `None` if it is anything else."""
    try:
        return pybase64.b64decode(text, validate=True)  # a hundred times as fast as what takes every spelling
    except (binascii.Error, ValueError):
        return None


def _from_base64(encoded: bytes) -> bytes:
    """Decodes in pieces, between which other threads may run; the last letters, padding perhaps, wait for the end."""
    contents, rest = bytearray(), b""
    for at in range(0, len(encoded), BASE64_PIECE):
        plain = rest + encoded[at : at + BASE64_PIECE].translate(PLAIN_BASE64, b" \t\r\n\v\f")
        whole, rest = plain[: (len(plain) - 1) // 4 * 4], plain[(len(plain) - 1) // 4 * 4 :]
        if b"=" in whole:
            raise ValueError("there is padding before the end")
        contents += pybase64.b64decode(whole, validate=True)
    contents += pybase64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True)
    return bytes(contents)
