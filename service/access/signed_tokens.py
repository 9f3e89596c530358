"""Tokens that an identity provider signs (JWT, RFC 7519): whose they are, and what they let their holder do.

Nothing of a token is believed before its signature is that of a key which the provider publishes (ADR 67).
"""

import base64
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from joserfc import jwt
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError, MissingClaimError, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key
from joserfc.jws import JWSRegistry

from anykey.service.access.api_keys import AccessScope
from anykey.service.access.callers import Caller, all_of
from anykey.service.errors import NotReadyError, UnauthorizedError
from anykey.service.logs import LogEvent

MAX_TOKEN_BYTES = 16_384
MAX_KEYS_BYTES = 2**20
FETCH_TIMEOUT_S = 5.0
FETCH_AGAIN_S = 300.0  # what is published
FETCH_SOONER_S = 10.0  # after a failure, or for a key that is not known
MAX_KEPT = 4096  # tokens whose signature was checked
SUBJECT = re.compile(r"[!-~]{1,255}")  # as OpenID Connect has it
# By the type of key. None in which both sides have one secret: a public key must never be taken for such.
KEY_TYPES = ("RSA", "EC", "OKP")
ALGORITHMS: Mapping[type, tuple[str, ...]] = {
    RSAKey: ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ECKey: ("ES256", "ES384", "ES512"),
    OKPKey: ("EdDSA", "Ed25519"),
}

logger = logging.getLogger(__name__)


class TokenKeysError(Exception):
    """The keys of an identity provider cannot be read, or there are none; says where."""


@dataclass(frozen=True)
class TokenRules:
    """Which tokens are taken, and what they are taken for.

    Attributes:
        issuer: What `iss` must be.
        audiences: One of which `aud` must name.
        keys: Where the provider's keys are (JWKS, RFC 7517): an address, or a file.
        scopes: What each value of the claim of scopes lets its holder do.
        scopes_claim: Name of that claim, of nested ones with dots between.
        indexes_claim: Name of the claim that names the indexes it is limited to; `None`: it is for all.
        leeway_s: By how much clocks may differ.
    """

    issuer: str
    audiences: Sequence[str]
    keys: str
    scopes: Mapping[str, AccessScope]
    scopes_claim: str = "scope"
    indexes_claim: str | None = None
    leeway_s: int = 30

    @property
    def is_fetched(self) -> bool:
        """Whether the keys have an address."""
        return self.keys.startswith(("http://", "https://"))


@dataclass(frozen=True)
class _Published:
    """Keys by their names, and what was checked by them: both go together when others are published."""

    content: bytes = b""
    keys: Mapping[str | None, Key] = field(default_factory=dict)
    checked: dict[bytes, tuple[Caller, float]] = field(default_factory=dict)


class _Algorithms(JWSRegistry):
    """The algorithms that a key may have signed with, and no others."""

    max_header_length = MAX_TOKEN_BYTES

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(algorithms=names, strict_check_header=False)
        self._names = names

    def get_alg(self, name: str) -> Any:
        if name not in self._names:
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]  # the library warns of EdDSA, which is a former name of Ed25519


class SignedTokens:
    """Tells whose a token is; `find` belongs to one event loop, `refresh` to one thread."""

    def __init__(self, rules: TokenRules, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the keys, if they are in a file.

        Args:
            rules: Which tokens are taken.
            clock: Tells the seconds between two questions for the keys.

        Raises:
            TokenKeysError: the file cannot be read, or holds no keys.
        """
        self._rules = rules
        self._clock = clock
        self._published = _Published()
        self._problem: str | None = None
        self._next_fetch_s = self._last_fetch_s = clock()
        self._is_key_missed = False
        self._claims = jwt.JWTClaimsRegistry(
            leeway=rules.leeway_s,
            iss={"essential": True, "value": rules.issuer},
            aud={"essential": True, "values": list(rules.audiences)},
            exp={"essential": True},
            sub={"essential": True},
        )
        if not rules.is_fetched:
            self._take(_read(Path(rules.keys)))

    @staticmethod
    def is_one(token: bytes) -> bool:
        """Whether credentials have the form of a signed token, which no API key has."""
        return token.count(b".") == 2

    def find(self, token: bytes) -> Caller:
        """Whose a token is.

        Raises:
            UnauthorizedError: it is not taken; says why.
            NotReadyError: no keys are known, as the provider has not been reached yet.
        """
        published = self._published
        if not published.keys:
            raise NotReadyError("the identity provider's keys have not been reached yet")
        digest = hashlib.sha256(token).digest()
        kept = published.checked.get(digest)
        if kept is None or kept[1] <= time.time():
            kept = self._checked(token, published)
            if len(published.checked) >= MAX_KEPT:
                published.checked.clear()
            published.checked[digest] = kept
        return kept[0]

    def refresh(self) -> None:
        """Takes the keys that are published now; may be called in a thread, twice a second.

        A file is read each time. An address is asked every five minutes, and within ten seconds after a token that
        names another key. Where there is none to be had, those that were known go on, and it is logged once.
        """
        if self._rules.is_fetched and not self._is_due():
            return
        try:
            content = self._fetched() if self._rules.is_fetched else _read(Path(self._rules.keys))
            if content != self._published.content:
                self._take(content)
                self._note(LogEvent.TOKEN_KEYS_CHANGED, logging.INFO, "the keys that tokens are signed with are read")
            elif self._problem is not None:
                self._note(LogEvent.TOKEN_KEYS_CHANGED, logging.INFO, "the keys of tokens can be read again")
        except TokenKeysError as error:
            if str(error) != self._problem:
                message = f"the keys that tokens are signed with cannot be read: {error}"
                self._note(LogEvent.TOKEN_KEYS_UNREADABLE, logging.ERROR, message)
            self._problem = str(error)
            self._next_fetch_s = self._clock() + FETCH_SOONER_S
        else:
            self._problem = None
            self._next_fetch_s = self._clock() + FETCH_AGAIN_S

    def _is_due(self) -> bool:
        now_s = self._clock()
        is_missed = self._is_key_missed and now_s >= self._last_fetch_s + FETCH_SOONER_S
        return is_missed or now_s >= self._next_fetch_s

    def _note(self, event: LogEvent, level: int, message: str) -> None:
        logger.log(level, message, extra={"event": event, "num_token_keys": len(self._published.keys)})

    def _fetched(self) -> bytes:
        self._is_key_missed, self._last_fetch_s = False, self._clock()
        address = self._rules.keys
        try:
            with httpx.stream("GET", address, timeout=FETCH_TIMEOUT_S, trust_env=False) as response:
                content = b""
                for part in response.iter_bytes():
                    content += part
                    if len(content) > MAX_KEYS_BYTES:
                        raise TokenKeysError(f"{address}: expected at most {MAX_KEYS_BYTES} bytes, got more")
        except httpx.HTTPError as error:
            raise TokenKeysError(f"{address}: {type(error).__name__}") from error
        if response.status_code != 200:
            raise TokenKeysError(f"{address}: answered with {response.status_code}")
        return content

    def _take(self, content: bytes) -> None:
        self._published = _Published(content, _keys_in(content, self._rules.keys))

    def _checked(self, token: bytes, published: _Published) -> tuple[Caller, float]:
        """Whose a token is, and until when."""
        if len(token) > MAX_TOKEN_BYTES:
            raise _refused(f"it has more than {MAX_TOKEN_BYTES} bytes")
        key = self._key_of(token, published.keys)
        try:
            claims = jwt.decode(token, key, registry=_Algorithms(_algorithms_of(key))).claims
            self._claims.validate(claims)
        except ExpiredTokenError as error:
            raise _refused("it has expired") from error
        except MissingClaimError as error:
            raise _refused(f"it has no {error.claim}") from error
        except ClaimError as error:
            raise _refused(f"its {error.claim} is another than is taken here") from error
        except (JoseError, ValueError, RecursionError) as error:
            raise _refused("its signature is not that of the identity provider") from error
        return self._caller(claims), float(claims["exp"]) + self._rules.leeway_s

    def _key_of(self, token: bytes, keys: Mapping[str | None, Key]) -> Key:
        try:
            name = json.loads(_unpadded(token.partition(b".")[0])).get("kid")
        except (ValueError, AttributeError, RecursionError) as error:
            raise _refused("it is no JSON Web Token") from error
        if name is None and len(keys) == 1:
            return next(iter(keys.values()))
        if not isinstance(name, str) or name not in keys:
            self._is_key_missed = True
            raise _refused("it is signed with a key that the identity provider has not published")
        return keys[name]

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        subject = claims["sub"]
        if not isinstance(subject, str) or not SUBJECT.fullmatch(subject):
            raise _refused("its sub is not at most 255 printable letters of ASCII")
        rules = self._rules
        scopes = {rules.scopes[value] for value in _values_at(rules.scopes_claim, claims) if value in rules.scopes}
        indexes = None
        if rules.indexes_claim is not None:
            indexes = frozenset(_values_at(rules.indexes_claim, claims))
        return Caller(f"token:{subject}", all_of(scopes), indexes)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEYS_BYTES)
    except OSError as error:
        raise TokenKeysError(f"{path}: {error.strerror or error}") from error


def _keys_in(content: bytes, where: str) -> dict[str | None, Key]:
    """The public keys for signatures in a set of keys, by their names; others are left aside.

    Raises:
        TokenKeysError: it is no set of keys, or has none of these.
    """
    try:
        listed = json.loads(content)["keys"]
        assert isinstance(listed, list)
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
        raise TokenKeysError(f"{where}: expected a JSON Web Key Set, an object with 'keys'") from error
    keys: dict[str | None, Key] = {}
    for one in listed:
        if not isinstance(one, dict) or one.get("use", "sig") != "sig" or one.get("kty") not in KEY_TYPES:
            continue
        try:
            key = import_key(one)
        except (JoseError, ValueError, TypeError, KeyError):
            continue  # damaged, or of a curve that is not known here
        if _algorithms_of(key):
            keys[one.get("kid")] = key
    if not keys:
        raise TokenKeysError(f"{where}: expected public keys for signatures (RSA, EC or OKP), found none")
    return keys


def _algorithms_of(key: Key) -> list[str]:
    """With which tokens may be signed by a key: the one that it names, or those of its type."""
    return [name for name in ALGORITHMS[type(key)] if key.alg in (None, name)]


def _values_at(claim: str, claims: Mapping[str, Any]) -> list[str]:
    """What a claim says: a list of strings, or one with spaces between."""
    found: Any = claims.get(claim)
    if found is None:
        found = claims
        for name in claim.split("."):
            found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, str):
        return found.split()
    return [value for value in found if isinstance(value, str)] if isinstance(found, list) else []


def _unpadded(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def _refused(why: str) -> UnauthorizedError:
    return UnauthorizedError(f"the token is not taken: {why}", is_key_wrong=True)
