"""Fetches images by their addresses: from hosts that are named, at public addresses, within limits.

A name is looked up once for each connection, and the connection is made to the very address that was checked, so that
no second look-up can lead elsewhere. Redirects are followed by hand, and each is checked like the first address.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore

from anykey.service.errors import (
    ImageNotReachedError,
    InvalidRequestError,
    ItemTooLargeError,
    ServiceError,
    UndecodableImageError,
)
from anykey.service.queries.image_addresses import NamedImages
from anykey.service.requests.body import Take
from anykey.service.requests.image_hosts import PORTS, AllowedHost, is_public
from anykey.service.requests.proxy import Network

T = TypeVar("T")
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Run = Callable[[Callable[[], T]], Awaitable[T]]
MAX_URL_CHARS = 2048
MAX_REDIRECTS = 3
MAX_FETCHES = 16  # under way at a time, of all requests
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = [("Accept", "image/*"), ("Accept-Encoding", "identity"), ("User-Agent", "anykey")]
BINARY = ("application/octet-stream", "binary/octet-stream", "")  # what stores of files call everything


class ImageFetcher:
    """Fetches what requests name; belongs to one event loop, and keeps no connections."""

    def __init__(
        self,
        hosts: Sequence[str],
        networks: Sequence[str] = (),
        *,
        max_images: int,
        max_bytes: int,
        timeout_s: float,
        resolve: Resolve | None = None,
    ) -> None:
        """Fetches nothing yet.

        Args:
            hosts: Those that images are fetched from, as `AllowedHost.read` reads them.
            networks: Networks whose addresses are taken although they are not public.
            max_images: Most addresses in a request.
            max_bytes: Largest image.
            timeout_s: Longest time for one image, its redirects included.
            resolve: Gives the addresses of a host; absent: the system is asked.
        """
        self._hosts = [AllowedHost.read(host) for host in hosts]
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]
        self._max_images, self._max_bytes, self._timeout_s = max_images, max_bytes, timeout_s
        self._backend = _CheckedConnections(self._networks, resolve or _resolve)
        self._places = asyncio.Semaphore(MAX_FETCHES)

    async def read(self, read: Callable[[], T], run: Run[T], take: Take) -> T:
        """What a body says, with the images that it names.

        Args:
            read: Reads the body; called twice if it names any.
            run: Runs that where it belongs, which may be a thread.
            take: Called before more bytes are kept.

        Raises:
            ServiceError: as `read`, or `take`.
        """
        said, images = await self.read_once(read, run)
        return said if images is None else await self.read_again(images, read, run, take)

    async def read_once(self, read: Callable[[], T], run: Run[T]) -> tuple[T, NamedImages | None]:
        """What a body says, before the images that it names are fetched; and these, if there are any.

        Raises:
            ServiceError: as `read`.
        """
        if not self._hosts:
            return await run(read), None
        images = NamedImages(self._max_images)
        said = await run(lambda: images.used_by(read))
        return said, images if images.missing else None

    async def read_again(self, images: NamedImages, read: Callable[[], T], run: Run[T], take: Take) -> T:
        """Fetches the images that a body names, and gives what it says with them.

        Raises:
            ServiceError: as `read`.
        """
        found = await asyncio.gather(*(self._outcome(address, take) for address in images.missing))
        images.found = dict(zip(images.missing, found, strict=True))
        return await run(lambda: images.used_by(read))

    async def _outcome(self, address: str, take: Take) -> bytes | ServiceError:
        try:
            async with asyncio.timeout(self._timeout_s), self._places:
                return await self._fetched(address, take)
        except ServiceError as error:
            return error.as_result()
        except TimeoutError:
            return ImageNotReachedError(f"the image was not there within {self._timeout_s:g} s")
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            return ImageNotReachedError(f"the image's host cannot be reached, or fails ({type(error).__name__})")

    async def _fetched(self, address: str, take: Take) -> bytes:
        async with httpcore.AsyncConnectionPool(network_backend=self._backend, http2=False, retries=0) as pool:
            for _ in range(1 + MAX_REDIRECTS):
                url = self._checked(address)
                async with pool.stream("GET", url, headers=HEADERS) as response:
                    headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
                    if response.status not in REDIRECTS:
                        self._check(response.status, headers)
                        return await self._body(response, take)
                    address = urljoin(address, headers.get(b"location", ""))
        raise ImageNotReachedError(f"the image's host led to other addresses more than {MAX_REDIRECTS} times")

    def _checked(self, address: str) -> httpcore.URL:
        """The address, if images may be fetched from its host."""
        parts = _parts(address)
        scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
        port = parts.port or PORTS.get(scheme, 0)
        if not any(allowed.takes(scheme, host, port) for allowed in self._hosts):
            raise InvalidRequestError("images are not fetched from this scheme, host and port; image_urls names those")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return httpcore.URL(scheme=scheme, host=host, port=port, target=target)

    def _check(self, status: int, headers: dict[bytes, str]) -> None:
        if status != 200:
            raise ImageNotReachedError(f"the image's host answered {status}")
        media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if not media_type.startswith("image/") and media_type not in BINARY:
            raise UndecodableImageError("what is at the address is no image, by its Content-Type")
        if headers.get(b"content-encoding", "identity").strip().lower() not in ("identity", ""):
            raise ImageNotReachedError("the image's host compresses it, though it was asked not to")
        length = headers.get(b"content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise ItemTooLargeError(f"the image has {int(length)} bytes, at most {self._max_bytes} are accepted")

    async def _body(self, response: httpcore.Response, take: Take) -> bytes:
        body = bytearray()
        async for piece in response.aiter_stream():
            if len(body) + len(piece) > self._max_bytes:
                raise ItemTooLargeError(f"the image has more than {self._max_bytes} bytes, the most accepted")
            take(len(piece))
            body += piece
        if not body:
            raise UndecodableImageError("what is at the address is empty")
        return bytes(body)


class _CheckedConnections(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to none that a host has beside one that is refused."""

    def __init__(self, networks: Sequence[Network], resolve: Resolve) -> None:
        self._networks = networks
        self._resolve = resolve
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connects to a host."""
        addresses = await self._resolve(host, port)
        if not addresses or not all(is_public(ipaddress.ip_address(one), self._networks) for one in addresses):
            raise InvalidRequestError("the image's host has an address that is not public")
        for address in addresses[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError:
                continue
        return await self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)


def _parts(address: str) -> SplitResult:
    if len(address) > MAX_URL_CHARS or not address.isascii() or not address.isprintable() or " " in address:
        raise InvalidRequestError(f"expected an address of at most {MAX_URL_CHARS} ASCII characters without blanks")
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as error:
        raise InvalidRequestError("expected an address such as https://images.example/cat.jpg") from error
    if parts.username is not None or parts.password is not None or "\\" in address:
        raise InvalidRequestError("expected an address without user, password and backslashes")
    return parts


async def _resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, as the system knows them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
