"""Signed tokens of an identity provider: whose signature and claims are right may call, and nobody else."""

import base64
import hmac
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from pydantic import ValidationError

from anykey.index.faiss_index import FaissIndex
from anykey.service.access import signed_tokens
from anykey.service.access.api_keys import AccessScope, make_key, written
from anykey.service.access.signed_tokens import SignedTokens, TokenKeysError, TokenRules
from anykey.service.app import create_app
from anykey.service.errors import NotReadyError, StartupError, UnauthorizedError
from tests.fakes import FakeEncoder
from tests.serving import make_settings, serving, until
from tests.site import Site

ISSUER, AUDIENCE = "https://login.example/realm", "anykey"
RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig", "alg": "RS256"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa"})
SCOPES = {"anykey:search": AccessScope.SEARCH, "anykey:write": AccessScope.WRITE}


def published(*keys: Key) -> bytes:
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


def token(key: Key = RSA, alg: str = "RS256", header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token as the provider signs it; a claim that is `None` is left out, and times are in seconds from now."""
    given = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": 60, "iat": 0, "scope": "anykey:search mail"}
    claims = {name: value for name, value in (given | claims).items() if value is not None}
    now = int(time.time())
    claims |= {name: now + claims[name] for name in ("exp", "nbf", "iat") if isinstance(claims.get(name), int)}
    named = {"alg": alg, "kid": key.kid} if header is None else header
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for who signs with EdDSA, as many providers do
        return jwt.encode(named, claims, key, algorithms=[alg])


def rules(keys: str, **changed: Any) -> TokenRules:
    return TokenRules(**{"issuer": ISSUER, "audiences": [AUDIENCE], "keys": keys, "scopes": SCOPES, **changed})


def tokens(path: Path, *keys: Key, **changed: Any) -> SignedTokens:
    path.write_bytes(published(*keys))
    return SignedTokens(rules(str(path), **changed))


@pytest.fixture
def known(tmp_path: Path) -> SignedTokens:
    return tokens(tmp_path / "jwks.json", RSA, EC, ED)


@pytest.mark.parametrize(("key", "alg"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA"), (ED, "Ed25519")])
def test_a_sound_token_is_taken(known: SignedTokens, key: Key, alg: str) -> None:
    for _ in range(2):  # again from what was checked
        caller = known.find(token(key, alg).encode())
        assert (caller.name, caller.scopes, caller.indexes) == ("token:ada", {AccessScope.SEARCH}, None)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": -31}, "it has expired"),
        ({"exp": None}, "it has no exp"),
        ({"exp": "tomorrow"}, "its exp"),
        ({"nbf": 300}, "its nbf"),
        ({"iat": 300}, "its iat"),
        ({"iss": "https://login.example"}, "its iss"),
        ({"iss": None}, "it has no iss"),
        ({"aud": "another"}, "its aud"),
        ({"aud": ["another", "third"]}, "its aud"),
        ({"aud": None}, "it has no aud"),
        ({"sub": None}, "it has no sub"),
        ({"sub": "a\nb"}, "its sub"),
        ({"sub": "x" * 300}, "its sub"),
    ],
)
def test_a_token_with_other_claims_is_refused(known: SignedTokens, claims: dict[str, Any], words: str) -> None:
    with pytest.raises(UnauthorizedError, match=f"the token is not taken: {words}") as refused:
        known.find(token(**claims).encode())
    assert refused.value.headers["www-authenticate"] == 'Bearer realm="anykey", error="invalid_token"'


def test_clocks_may_differ_a_little(known: SignedTokens) -> None:
    assert known.find(token(exp=-1, nbf=5, iat=5).encode()).name == "token:ada"
    assert known.find(token(aud=["other", AUDIENCE]).encode()).name == "token:ada"


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def with_header(signature: Callable[[bytes], bytes], **header: Any) -> str:
    """Sound claims behind any header, whether a library would write it or not."""
    head = f"{encoded(json.dumps(header).encode())}.{token().split('.')[1]}"
    return f"{head}.{encoded(signature(head.encode()))}"


def by(key: RSAKey) -> Callable[[bytes], bytes]:
    """Signs as RS256 does."""
    return lambda signed: key.private_key.sign(signed, padding.PKCS1v15(), hashes.SHA256())


def by_secret(secret: bytes) -> Callable[[bytes], bytes]:
    """Signs as HS256 does."""
    return lambda signed: hmac.digest(secret, signed, "sha256")


def hostile_tokens() -> dict[str, str]:
    sound = token()
    head, claims, signature = sound.split(".")
    public = RSA.as_pem(private=False)
    rs256 = {"alg": "RS256", "kid": "rsa"}
    of_any = RSAKey.import_key({name: part for name, part in RSA.as_dict(private=True).items() if name != "alg"})
    strange = STRANGER.as_dict(private=False)
    return {
        "no algorithm": with_header(lambda _: b"", alg="none", kid="rsa"),
        "no algorithm, and a signature": with_header(by(RSA), alg="None", kid="rsa"),
        "the public key as a secret": with_header(by_secret(public), alg="HS256", kid="rsa"),
        "an algorithm that its key does not name": token(of_any, "RS512"),
        "another type of key": with_header(by(RSA), alg="ES256", kid="rsa"),
        "a stranger's key of that name": token(STRANGER),
        "a key of its own": with_header(by(STRANGER), **rs256, jwk=strange),
        "a key of its own, of another name": with_header(by(STRANGER), alg="RS256", kid="x", jwk=strange),
        "an address of a key": with_header(by(STRANGER), **rs256, jku="https://evil.example/"),
        "a name that is no text": with_header(by(RSA), alg="RS256", kid=["rsa"]),
        "no name of a key": with_header(by(RSA), alg="RS256"),
        "what must be understood": with_header(by(RSA), **rs256, crit=["b64"], b64=False),
        "other claims": f"{head}.{token(sub='eve').split('.')[1]}.{signature}",
        "a cut signature": sound[:-4],
        "no signature": f"{head}.{claims}.",
        "nothing": "..",
        "no JSON": "a.b.c",
        "a list": "W10.e30.",
        "deep JSON": f"{encoded(b'[' * 9000)}.e30.",
        "a huge number": f"{encoded(b'[' + b'9' * 9000 + b']')}.e30.",
        "no base64": "\u00e4.\u00e4.\u00e4",
        "too long": token(note="x" * 20_000),
    }


HOSTILE = hostile_tokens()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_is_refused(known: SignedTokens, name: str) -> None:
    known.find(token().encode())  # so that a sound one is among those that were checked
    with pytest.raises(UnauthorizedError, match="the token is not taken: "):
        known.find(HOSTILE[name].encode())


def test_scopes_and_indexes_come_from_the_claims_that_are_named(tmp_path: Path) -> None:
    taken = tokens(
        tmp_path / "jwks.json",
        RSA,
        scopes={"reader": AccessScope.SEARCH, "boss": AccessScope.ADMIN},
        scopes_claim="realm_access.roles",
        indexes_claim="https://anykey.example/indexes",
    )

    def caller(**claims: Any) -> Any:
        return taken.find(token(header={"alg": "RS256"}, **claims).encode())

    own = caller(realm_access={"roles": ["reader", 7, "other"]}, **{"https://anykey.example/indexes": ["photos"]})
    assert (own.scopes, own.indexes) == ({AccessScope.SEARCH}, {"photos"})
    boss = caller(realm_access={"roles": ["boss"]}, **{"https://anykey.example/indexes": "photos papers"})
    assert (boss.scopes, boss.indexes) == (set(AccessScope), {"photos", "papers"})
    for nothing in ({}, {"realm_access": "boss"}, {"realm_access": {"roles": "x"}}, {"realm_access": [{"roles": 1}]}):
        assert (caller(**nothing).scopes, caller(**nothing).indexes) == (set(), set())


def test_keys_of_a_file_are_exchanged(known: SignedTokens, tmp_path: Path) -> None:
    sound, path = token().encode(), tmp_path / "jwks.json"
    assert known.find(sound)
    path.write_bytes(published(EC))
    known.refresh()
    with pytest.raises(UnauthorizedError, match="has not published"):
        known.find(sound)
    path.write_bytes(b'{"keys": []}')
    known.refresh()
    assert known.find(token(EC, "ES256").encode()), "what cannot be read takes no key away"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"keys": 1}', b'{"keys": [{"kty": "oct", "k": "AAAA"}, 7, {}]}'])
def test_a_file_without_keys_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(content)
    with pytest.raises(TokenKeysError, match=f"{path}: expected"):
        SignedTokens(rules(str(path)))
    with pytest.raises(TokenKeysError, match="No such file"):
        SignedTokens(rules(str(tmp_path / "absent")))


def test_keys_at_an_address_are_asked_for_again(site: Site) -> None:
    now_s = [1000.0]
    taken = SignedTokens(rules(site.url("/jwks")), clock=lambda: now_s[0])

    def refreshed(later_s: float) -> int:
        now_s[0] += later_s
        before = len(site.requests)
        taken.refresh()
        return len(site.requests) - before

    with pytest.raises(NotReadyError, match="have not been reached yet"):
        taken.find(token().encode())
    assert refreshed(0) == 1, "there is nothing at the address yet"
    site.pages["/jwks"] = published(RSA)
    assert [refreshed(9), refreshed(1), refreshed(1)] == [0, 1, 0]
    assert taken.find(token().encode()).name == "token:ada"

    site.pages["/jwks"] = published(RSA, EC)
    assert refreshed(60) == 0
    with pytest.raises(UnauthorizedError, match="has not published"):
        taken.find(token(EC, "ES256").encode())
    assert refreshed(0) == 1, "somebody brought a token of another key"
    assert taken.find(token(EC, "ES256").encode()).name == "token:ada"
    for _ in range(3):
        with pytest.raises(UnauthorizedError):
            taken.find(token(ED, "EdDSA").encode())
        assert refreshed(1) == 0, "and nobody makes the provider be asked more often than that"

    site.pages["/jwks"] = published(EC)
    assert refreshed(300) == 1
    with pytest.raises(UnauthorizedError, match="has not published"):
        taken.find(token().encode())
    for broken in (b"<html>", b"x" * (signed_tokens.MAX_KEYS_BYTES + 1)):
        site.pages["/jwks"] = broken
        assert refreshed(300) == 1
        assert taken.find(token(EC, "ES256").encode()), "what cannot be read takes no key away"


def test_a_service_takes_tokens_beside_keys(
    site: Site, wire_encoder: FakeEncoder, wire_index: FaissIndex, tmp_path: Path
) -> None:
    site.pages["/jwks"] = published(RSA)
    made = make_key("shop", [AccessScope.EMBED])
    (tmp_path / "keys.json").write_bytes(written([made.key]))
    oidc = {"oidc_issuer": ISSUER, "oidc_audience": [AUDIENCE], "oidc_keys": site.url("/jwks")}
    with serving(wire_encoder, wire_index, api_keys=tmp_path / "keys.json", **oidc) as client:

        def asked(sent: str, path: str = "/search") -> httpx.Response:
            return client.post(path, json={"text": "a"}, headers={"authorization": f"Bearer {sent}"})

        until(lambda: asked(token()).status_code == 200, "the keys are fetched")
        assert asked(token(exp=-60)).json()["error"]["message"] == "the token is not taken: it has expired"
        lacking = asked(token(scope="anykey:write"))
        assert lacking.status_code == 403
        assert "the token of 'ada' lacks the scope search; it has write" in lacking.json()["error"]["message"]
        nothing = {"authorization": f"Bearer {token(scope='mail')}"}
        assert client.get("/info", headers=nothing).status_code == 403
        assert client.get("/access", headers={"api-key": token()}).json() == {
            "keys_required": True, "name": "token:ada", "scopes": ["search"], "indexes": None,
        }  # fmt: skip
        assert asked(made.token).status_code == 403
        assert asked("x").status_code == 401
        assert client.post("/search", json={"text": "a"}).status_code == 401


def test_a_service_does_not_start_with_half_of_a_provider(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="oidc_issuer, oidc_audience and oidc_keys together, got no oidc_keys"):
        make_settings(oidc_issuer=ISSUER, oidc_audience=[AUDIENCE])
    with pytest.raises(ValidationError, match="expected VALUE=SCOPE with search, embed, write, admin"):
        make_settings(oidc_scopes=["reader=all"])
    settings = make_settings(oidc_issuer=ISSUER, oidc_audience=[AUDIENCE], oidc_keys=str(tmp_path / "absent"))
    with pytest.raises(StartupError, match=r"oidc_keys: .*absent: No such file"):
        create_app(settings)
