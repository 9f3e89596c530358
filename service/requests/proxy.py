"""The prefix under which a reverse proxy shows the service, whether the proxy cuts it off or not."""

import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from anykey.service.errors import InvalidRequestError
from anykey.service.requests.context import error_response

OWN_ADDRESSES = (
    *("search", "info", "keys", "embed", "indexes", "livez", "readyz", "docs", "openapi.json", "static-offline-docs"),
    *("access", "page"),
    # other people's
    *("v1", "v2", "embeddings", "models", "rerank", "predict", "ping", "health", "collections", "knn-service"),
)
EVERYBODY = "*"
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]*[A-Za-z0-9_~-])+")  # no `//host`, no `..`, nothing that needs encoding

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_prefix(value: str) -> str:
    """A prefix as addresses begin with it: `/anykey`, or nothing for the root.

    Raises:
        ValueError: it is no path of letters, digits, dots, dashes, underscores and tildes.

    >>> parse_prefix("/shop/anykey/"), parse_prefix("/")
    ('/shop/anykey', '')
    """
    prefix = value.strip().rstrip("/")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ValueError("expected a path such as /anykey, of letters, digits and any of . _ ~ -")
    return prefix


def told_from_own(prefix: str) -> str:
    """The prefix, if a path that begins with it cannot be one of the service's own that came without it.

    Raises:
        ValueError: it begins like an address of the service.
    """
    if prefix.split("/")[1:2] in ([name] for name in OWN_ADDRESSES):
        raise ValueError(f"expected a path that begins with none of {', '.join(OWN_ADDRESSES)}")
    return prefix


def parse_proxies(values: Sequence[str]) -> list[Network] | None:
    """Networks of proxies, each given as an address or a network; `None` for everybody.

    Raises:
        ValueError: one is neither.
    """
    if EVERYBODY in values:
        return None
    return [ipaddress.ip_network(value, strict=False) for value in values]


class ProxyPrefix:
    """ASGI layer: makes the prefix part of each path, and tells it as `root_path`, from which addresses are made.

    The prefix is what a trusted proxy says in `X-Forwarded-Prefix`, else the setting. A path that begins with it came
    through a proxy that leaves it there; any other through one that cuts it off, or past the proxy.
    """

    def __init__(self, app: ASGIApp, root_path: str, proxies: Sequence[str], retry_after_s: int) -> None:
        self._app = app
        self._root_path = parse_prefix(root_path)
        self._proxies = parse_proxies(proxies)
        self._retry_after_s = retry_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        app = self._app
        if scope["type"] == "http":
            try:
                _add_prefix(scope, self._prefix_of(scope))
            except ValueError as error:
                refusal = InvalidRequestError(f"header X-Forwarded-Prefix: {error}")
                app = error_response(scope, refusal, self._retry_after_s)
        await app(scope, receive, send)

    def _prefix_of(self, scope: Scope) -> str:
        """Several proxies in a row each add theirs, the outermost first."""
        sent = ",".join(Headers(scope=scope).getlist("x-forwarded-prefix"))
        if not sent or not self._is_trusted(scope):
            return self._root_path
        return told_from_own("".join(parse_prefix(part) for part in sent.split(",")))

    def _is_trusted(self, scope: Scope) -> bool:
        if self._proxies is None:
            return True
        try:
            address = ipaddress.ip_address((scope.get("client") or ("",))[0])
        except ValueError:  # a socket of this machine has no address
            return False
        mapped = getattr(address, "ipv4_mapped", None)  # how a socket for both families shows an IPv4 address
        return any((mapped or address) in network for network in self._proxies)


def _add_prefix(scope: Scope, prefix: str) -> None:
    scope["root_path"] = prefix
    if prefix and scope["path"] == prefix:  # the page's address without its slash
        scope["path"] += "/"
        if scope.get("raw_path"):
            scope["raw_path"] += b"/"
    if prefix and not f"{scope['path']}/".startswith(f"{prefix}/"):
        scope["path"] = prefix + scope["path"]
        if scope.get("raw_path"):
            scope["raw_path"] = prefix.encode("ascii") + scope["raw_path"]
