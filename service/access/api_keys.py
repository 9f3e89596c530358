"""API keys, and the file that holds them: of each key its hash, its name, and what it lets its holder do.

A key is 256 random bits behind `anykey_`. Nobody can guess one, so that a plain SHA-256 of it hides it as well as a
slow hash would, and is found in a table in the time of one look-up (ADR 63).
"""

import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

PREFIX = "anykey_"  # by which programs that look for leaked secrets know one
NUM_BYTES = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
MAX_FILE_BYTES = 64 * 2**20


class AccessScope(StrEnum):
    """What a key lets its holder do; `ADMIN` all of it, and what only operators do."""

    SEARCH = "search"
    EMBED = "embed"
    WRITE = "write"
    ADMIN = "admin"


ScopeName = Literal["search", "embed", "write", "admin"]  # the same, as settings list what they take


class ApiKeysError(Exception):
    """A file of API keys is missing, unreadable or damaged, or has another key of that name; says where."""


class ApiKey(BaseModel):
    """What is known of one key: everything but the key itself.

    Attributes:
        name: What it is called in logs and commands.
        sha256: Of the key, in hexadecimal digits.
        scopes: What it lets its holder do.
        indexes: Those it is limited to; `None`: it is not.
        created: When it was made.
        expires: From when on it is refused; `None`: it never is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=f"^{NAME.pattern}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: tuple[AccessScope, ...] = Field(min_length=1)
    indexes: tuple[str, ...] | None = Field(None, min_length=1)
    created: datetime
    expires: datetime | None = None

    @field_validator("created", "expires")
    @classmethod
    def check_zone(cls, value: datetime | None) -> datetime | None:
        """Takes a time that names no zone for one of UTC."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[ApiKey, ...]


@dataclass(frozen=True)
class NewKey:
    """A key that was just made.

    Attributes:
        token: What its holder sends; it is kept nowhere.
        key: What is kept of it.
    """

    token: str
    key: ApiKey


def make_key(
    name: str, scopes: Sequence[AccessScope], indexes: Sequence[str] | None = None, expires: datetime | None = None
) -> NewKey:
    """A new key; see `ApiKey` for the arguments."""
    token = PREFIX + secrets.token_urlsafe(NUM_BYTES)
    key = ApiKey(
        name=name,
        sha256=hashlib.sha256(token.encode()).hexdigest(),
        scopes=tuple(dict.fromkeys(scopes)),
        indexes=None if indexes is None else tuple(dict.fromkeys(indexes)),
        created=datetime.now(UTC).replace(microsecond=0),
        expires=expires,
    )
    return NewKey(token, key)


def read_file(path: Path) -> bytes:
    """The bytes of a file of keys.

    Raises:
        ApiKeysError: it cannot be read, or is far too long to be one.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ApiKeysError(f"{path}: {error.strerror or error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ApiKeysError(f"{path}: expected API keys, at most {MAX_FILE_BYTES} bytes of them, got more")
    return content


def keys_in(content: bytes, path: Path) -> tuple[ApiKey, ...]:
    """The keys that a file holds.

    Args:
        content: Its bytes.
        path: Where it is, for the message.

    Raises:
        ApiKeysError: it is damaged; says where, and nothing of what it holds.
    """
    try:
        keys = _File.model_validate_json(content).keys
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{where}: {first['msg']}" if where else "it is no JSON object of API keys"
        raise ApiKeysError(f"{path}: {reason}") from error
    for what, values in (("name", [key.name for key in keys]), ("sha256", [key.sha256 for key in keys])):
        if twice := _first_twice(values):
            shown = f" '{twice}'" if what == "name" else ""
            raise ApiKeysError(f"{path}: expected each {what} once, found one{shown} twice")
    return keys


def written(keys: Iterable[ApiKey]) -> bytes:
    """The bytes of a file that holds these keys."""
    return _File(keys=tuple(keys)).model_dump_json(indent=2).encode() + b"\n"


def _first_twice(values: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
