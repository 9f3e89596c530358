"""Who a request comes from, by the API key it brings."""

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from starlette.types import Scope

from anykey.service.access.api_keys import AccessScope, ApiKey, ApiKeysError, keys_in, read_file
from anykey.service.errors import ForbiddenError, InvalidRequestError, UnauthorizedError
from anykey.service.logs import LogEvent

ALL_SCOPES = frozenset(AccessScope)
CALLER = "anykey.caller"  # in a request's scope
HOW = "Authorization: Bearer KEY, or api-key: KEY"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from, and what it may ask for.

    Attributes:
        name: Of its API key; `token:` and the subject of a signed token; `None` for one without.
        scopes: What it may do; with `ADMIN` all.
        indexes: Those it may see; `None`: all.
    """

    name: str | None
    scopes: frozenset[AccessScope]
    indexes: frozenset[str] | None = None

    @property
    def title(self) -> str:
        """What messages call its credentials."""
        kind, _, subject = (self.name or "").partition(":")
        return f"the token of '{subject}'" if subject else f"API key '{kind}'"

    def may_see(self, index: str) -> bool:
        """Whether it may see an index of this name."""
        return self.indexes is None or index in self.indexes

    def require(self, needed: AccessScope) -> None:
        """Returns if it may do this.

        Raises:
            UnauthorizedError: it has no key.
            ForbiddenError: its key has not this scope; names it.
        """
        if needed in self.scopes:
            return
        if self.name is None:
            raise UnauthorizedError(f"expected an API key with scope {needed}: {HOW}")
        raise ForbiddenError(
            f"{self.title} lacks the scope {needed}; it has {', '.join(sorted(self.scopes)) or 'none'}",
            scope=needed,
        )


EVERYBODY = Caller(None, ALL_SCOPES)  # where no keys are required
NOBODY = Caller(None, frozenset())


@dataclass(frozen=True, slots=True)
class _Known:
    digest: bytes
    caller: Caller
    expires_s: float


class TokenCheck(Protocol):
    """Tells whose a signed token is."""

    def is_one(self, token: bytes) -> bool:
        """Whether credentials have the form of a signed token."""
        ...

    def refresh(self) -> None:
        """Takes other keys to check tokens with; may be called in a thread."""
        ...

    def find(self, token: bytes) -> Caller:
        """Whose it is.

        Raises:
            ServiceError: it is not taken; says why.
        """
        ...


class Callers:
    """Tells who a request comes from, by the keys of a file, of which it takes changes; belongs to one event loop.

    Attributes:
        are_required: Whether a request needs a key.
    """

    def __init__(
        self, path: Path | None, anonymous: Iterable[AccessScope] = (), tokens: TokenCheck | None = None
    ) -> None:
        """Reads the file.

        Args:
            path: File of the keys; `None`: there are none.
            anonymous: What may be done without a key all the same.
            tokens: Takes signed tokens in the place of a key; `None`: there are none, and without keys either
                everybody may do everything.

        Raises:
            ApiKeysError: the file cannot be read, or is damaged; says where.
        """
        self.are_required = path is not None or tokens is not None
        self._tokens = tokens
        self._path = path
        self._anonymous = Caller(None, all_of(anonymous)) if self.are_required else EVERYBODY
        self._content = b""
        self._problem: str | None = None
        self._by_digest: dict[bytes, _Known] = {}
        if path is not None:
            self._take(read_file(path), path)

    @property
    def watched(self) -> list[Callable[[], None]]:
        """What takes changes, to be called twice a second, each in a thread of its own."""
        of_keys = [] if self._path is None else [self.refresh]
        return of_keys if self._tokens is None else [*of_keys, self._tokens.refresh]

    def find(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Who sends a request with these headers.

        Raises:
            UnauthorizedError: it brings a key that is unknown or has expired, or credentials that are no key.
            NotReadyError: it brings a token that cannot be checked yet.
            InvalidRequestError: it brings two different keys.
        """
        if not self.are_required:
            return EVERYBODY
        token = _token_in(headers)
        if token is None:
            return self._anonymous
        if self._tokens is not None and self._tokens.is_one(token):
            return self._tokens.find(token)
        digest = hashlib.sha256(token).digest()
        known = self._by_digest.get(digest)
        if known is None or not hmac.compare_digest(known.digest, digest):
            raise UnauthorizedError("the API key is not known here; it may have been revoked", is_key_wrong=True)
        if known.expires_s <= time.time():
            raise UnauthorizedError(f"API key '{known.caller.name}' has expired", is_key_wrong=True)
        return known.caller

    def refresh(self) -> None:
        """Takes what has changed in the file; may be called in a thread.

        What is damaged or cannot be read takes no key away: those that were known go on, and it is logged once.
        """
        if self._path is None:
            return
        try:
            content = read_file(self._path)
            if content != self._content:
                self._take(content, self._path)
                logger.info(
                    "the API keys have changed",
                    extra={"event": LogEvent.API_KEYS_CHANGED, "num_api_keys": len(self._by_digest)},
                )
            elif self._problem is not None:
                logger.info(
                    "the API keys can be read again",
                    extra={"event": LogEvent.API_KEYS_CHANGED, "num_api_keys": len(self._by_digest)},
                )
        except ApiKeysError as error:
            self._note(str(error))
        else:
            self._problem = None

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            logger.error(
                "the API keys cannot be read, and those known before go on: %s",
                problem,
                extra={"event": LogEvent.API_KEYS_UNREADABLE, "num_api_keys": len(self._by_digest)},
            )
        self._problem = problem

    def _take(self, content: bytes, path: Path) -> None:
        known = [_known(key) for key in keys_in(content, path)]
        self._by_digest = {one.digest: one for one in known}
        self._content = content
        if not known:
            logger.warning(
                "%s holds no API keys, so that nobody gets in", path, extra={"event": LogEvent.API_KEYS_NONE}
            )


def caller_of(scope: Scope) -> Caller:
    """Who sent a request, if its route asked."""
    caller: Caller = scope.get(CALLER, NOBODY)
    return caller


def all_of(scopes: Iterable[AccessScope]) -> frozenset[AccessScope]:
    """The scopes, which are all of them if `ADMIN` is one."""
    given = frozenset(scopes)
    return ALL_SCOPES if AccessScope.ADMIN in given else given


def _known(key: ApiKey) -> _Known:
    indexes = None if key.indexes is None else frozenset(key.indexes)
    caller = Caller(key.name, all_of(key.scopes), indexes)
    return _Known(bytes.fromhex(key.sha256), caller, float("inf") if key.expires is None else key.expires.timestamp())


def _token_in(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key that headers bring.

    Raises:
        UnauthorizedError: there are credentials that are no key.
        InvalidRequestError: there are two different ones.
    """
    sent: set[bytes] = set()
    is_other_sent = False
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.strip().partition(b" ")
            if scheme.lower() == b"bearer" and token.strip():
                sent.add(token.strip())
            else:
                is_other_sent = True  # of a proxy in front, where a key comes beside it
        elif name == b"api-key" and value.strip():
            sent.add(value.strip())
    if len(sent) > 1:
        raise InvalidRequestError("expected one API key, got different ones in Authorization and api-key")
    if sent:
        return sent.pop()
    if is_other_sent:
        raise UnauthorizedError(f"expected an API key: {HOW}; got Authorization of another scheme", is_key_wrong=True)
    return None
