"""Cursors: what a page of a list gives, so that the next one can be asked for."""

import base64
import binascii

from anykey.service.errors import InvalidRequestError


def cursor_of(name: str) -> str:
    """The cursor of a list that goes on after something."""
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def name_in(cursor: str) -> str:
    """What a cursor goes on after.

    Raises:
        InvalidRequestError: it is none.
    """
    try:
        if not cursor:
            raise ValueError("it is empty")  # as where a script forgot to fill it in, and would go on for ever
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError("cursor must be one that an earlier page gave") from error
