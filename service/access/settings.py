"""Settings of `anykey-serve keys`: the file of API keys, and what is done to it."""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from anykey.program.settings import ProgramSettings
from anykey.service.access.api_keys import NAME, ScopeName

_DURATION = re.compile(r"([0-9]{1,5})([hd])")


class _KeysSettings(ProgramSettings):
    model_config = SettingsConfigDict(env_prefix="ANYKEY_KEYS_")

    api_keys: Path = Field(
        default_factory=lambda: Path(os.environ.get("ANYKEY_API_KEYS") or "api-keys.json"),
        description="file of API keys; default: the variable ANYKEY_API_KEYS, as the service reads it, else "
        "api-keys.json",
    )


def _checked_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("expected at most 64 letters, digits and any of . _ @ -, a letter or digit first")
    return value


class AddKeySettings(_KeysSettings):
    """Makes an API key and writes it to standard output, once; the file keeps its hash."""

    name: str = Field(description="what the key is called in logs and when it is revoked, such as who holds it")
    scopes: list[ScopeName] = Field(
        min_length=1, description="what it lets its holder do: search, embed, write, or admin for everything"
    )
    indexes: list[str] | None = Field(
        None, description="indexes it is limited to, by their names in the service; default: none, it is for all"
    )
    expires: datetime | None = Field(
        None, description="from when on it is refused: a date or time (UTC), or from now on 12h or 90d; default: never"
    )

    @field_validator("name")
    @classmethod
    def check_name(cls, value: str) -> str:
        """Refuses what would not be told apart in a log."""
        return _checked_name(value)

    @field_validator("indexes")
    @classmethod
    def check_indexes(cls, value: list[str] | None) -> list[str] | None:
        """Refuses an empty list, which would be a key for nothing."""
        if value is not None and not value:
            raise ValueError("expected names of indexes; leave it out for a key that is for all")
        return value

    @field_validator("expires", mode="before")
    @classmethod
    def read_duration(cls, value: object) -> object:
        """Reads `12h` and `90d`."""
        found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            return value
        hours = int(found[1]) * (24 if found[2] == "d" else 1)
        return datetime.now(UTC).replace(microsecond=0) + timedelta(hours=hours)

    @field_validator("expires")
    @classmethod
    def check_expires(cls, value: datetime | None) -> datetime | None:
        """Refuses a time that is past, for a key that could never be used."""
        if value is None:
            return None
        value = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        if value <= datetime.now(UTC):
            raise ValueError("expected a time to come")
        return value


class ListKeysSettings(_KeysSettings):
    """Lists the API keys of a file: names, scopes, indexes, when they were made and until when they are taken."""


class RevokeKeySettings(_KeysSettings):
    """Revokes an API key: it is taken out of the file, and refused within a second."""

    name: str = Field(description="what the key is called")

    @field_validator("name")
    @classmethod
    def check_name(cls, value: str) -> str:
        """Refuses what no key is called."""
        return _checked_name(value)
