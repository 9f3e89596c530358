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
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


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


def parse_address(value: str) -> Address | None:
    """An IP address, one of IPv4 also where a socket for both families shows it as one of IPv6; `None` for no address.

    >>> parse_address("::ffff:10.0.0.7"), parse_address("unix:")
    (IPv4Address('10.0.0.7'), None)
    """
    try:
        address = ipaddress.ip_address(value.strip().strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_proxy(address: Address | None, proxies: list[Network] | None) -> bool:
    """Whether what this address says of its own client is believed."""
    if proxies is None:
        return True
    return address is not None and any(address in network for network in proxies)


def client_address(scope: Scope, proxies: list[Network] | None) -> Address | None:
    """Who sent a request: as the last proxy that is believed says in `X-Forwarded-For`, else who is connected.

    Args:
        scope: The request's.
        proxies: As `parse_proxies` gives them.
    """
    address = parse_address((scope.get("client") or ("",))[0])
    if not is_proxy(address, proxies):
        return address
    forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
    for sender in reversed([part for part in forwarded.split(",") if part.strip()]):
        said = parse_address(sender)
        if said is None:  # nobody can be told by it, nor by what stands before it
            break
        address = said
        if not is_proxy(address, proxies):
            break
    return address


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
        return is_proxy(parse_address((scope.get("client") or ("",))[0]), self._proxies)


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
