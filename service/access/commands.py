"""The commands `anykey-serve keys add`, `list` and `revoke`."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from anykey.program.files import replace_file
from anykey.program.locks import holder_of, try_lock
from anykey.program.settings import Command, CommandGroup, UsageError, plain_console
from anykey.service.access.api_keys import AccessScope, ApiKey, ApiKeysError, keys_in, make_key, read_file, written
from anykey.service.access.settings import AddKeySettings, ListKeysSettings, RevokeKeySettings

MODE = 0o600
LOCK_WAIT_S = 10.0
LOCK_POLL_S = 0.05


def _add(settings: AddKeySettings) -> int:
    with _changing(settings.api_keys) as path:
        keys = _kept(path) if os.path.lexists(path) else ()
        if any(key.name == settings.name for key in keys):
            raise UsageError(f"{path}: there is a key '{settings.name}' already; revoke it, or choose another name")
        made = make_key(
            settings.name, [AccessScope(name) for name in settings.scopes], settings.indexes, settings.expires
        )
        replace_file(path, written([*keys, made.key]), mode=MODE)
    plain_console(stderr=True).print(
        f"key '{settings.name}' is in {settings.api_keys}; it is shown this once and kept nowhere:"
    )
    plain_console().print(made.token)
    return 0


def _list(settings: ListKeysSettings) -> int:
    keys = _kept(settings.api_keys)
    table = Table("name", "scopes", "indexes", "created", "expires", box=None, pad_edge=False)
    for key in keys:
        indexes = "all" if key.indexes is None else ",".join(key.indexes)
        table.add_row(key.name, ",".join(key.scopes), indexes, _day(key.created), _expiry(key))
    plain_console().print(table if keys else f"{settings.api_keys} holds no keys")
    return 0


def _revoke(settings: RevokeKeySettings) -> int:
    with _changing(settings.api_keys) as path:
        keys = _kept(path)
        left = [key for key in keys if key.name != settings.name]
        if len(left) == len(keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise UsageError(f"{path}: there is no key '{settings.name}'; known: {names}")
        replace_file(path, written(left), mode=MODE)
    plain_console(stderr=True).print(f"key '{settings.name}' is revoked; {len(left)} are left in {settings.api_keys}")
    return 0


COMMANDS = CommandGroup(
    "Makes, lists and revokes API keys.",
    {
        "add": Command(AddKeySettings, _add),
        "list": Command(ListKeysSettings, _list),
        "revoke": Command(RevokeKeySettings, _revoke),
    },
)


def _kept(path: Path) -> tuple[ApiKey, ...]:
    return keys_in(read_file(path), path)


@contextmanager
def _changing(named: Path) -> Iterator[Path]:
    """The file itself, where a link stands for it, with a lock on its folder that keeps out others who change keys.

    Raises:
        ApiKeysError: the folder is not there, the file cannot be written, or somebody else has the lock for long.
    """
    path = named.resolve()
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ApiKeysError(f"{path.parent}: expected a folder for API keys: {error.strerror}") from error
    try:
        give_up_s = time.monotonic() + LOCK_WAIT_S
        while not try_lock(folder, fcntl.LOCK_EX):
            if time.monotonic() > give_up_s:
                raise ApiKeysError(f"{path.parent}: {holder_of(folder)} has it locked; try again")
            time.sleep(LOCK_POLL_S)
        yield path
    except OSError as error:
        raise ApiKeysError(f"{path}: {error.strerror or error}") from error
    finally:
        os.close(folder)


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _expiry(key: ApiKey) -> str:
    if key.expires is None:
        return "never"
    return f"{_day(key.expires)}{'' if key.expires > datetime.now(UTC) else ' (expired)'}"
