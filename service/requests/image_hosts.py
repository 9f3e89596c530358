"""Which hosts images are fetched from, and which addresses are public."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from anykey.service.requests.proxy import Address, Network

PORTS = {"https": 443, "http": 80}
# Addresses that stand for others, which cannot be told from them or are not public: 6to4, Teredo, and NAT64's prefixes.
DISGUISES = [ipaddress.ip_network(one) for one in ("2002::/16", "2001::/32", "64:ff9b::/96", "64:ff9b:1::/48")]
_HOST = re.compile(r"(?:(https?)://)?(\*|(?:\*\.)?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


@dataclass(frozen=True)
class AllowedHost:
    """A host that images are fetched from.

    Attributes:
        scheme: `https`, or `http`.
        name: In lower case; `*.NAME` stands for all below it, `*` for every host.
        port: Its port.
    """

    scheme: str
    name: str
    port: int

    @classmethod
    def read(cls, value: str) -> "AllowedHost":
        """Reads `images.example`, `*.images.example:8443` or `http://images.example`.

        Raises:
            ValueError: something else came.
        """
        found = _HOST.fullmatch(value.strip())
        if found is None:
            raise ValueError(
                f"expected a host such as images.example, *.cdn.example or http://host:8080, got '{value}'"
            )
        scheme = found[1] or "https"
        return cls(scheme, found[2].strip("[]").lower().rstrip("."), int(found[3] or PORTS[scheme]))

    def takes(self, scheme: str, host: str, port: int) -> bool:
        """Whether an address is on it."""
        is_named = self.name in ("*", host) or (self.name.startswith("*.") and host.endswith(self.name[1:]))
        return is_named and (scheme, port) == (self.scheme, self.port)


def is_public(address: Address, networks: Sequence[Network] = ()) -> bool:
    """Whether everybody on the internet can reach an address, or it is in one of some networks all the same.

    >>> is_public(ipaddress.ip_address("::ffff:169.254.169.254")), is_public(ipaddress.ip_address("9.9.9.9"))
    (False, True)
    """
    address = getattr(address, "ipv4_mapped", None) or address
    if any(address in network for network in networks):
        return True
    is_other = address.is_multicast or any(address in network for network in DISGUISES)
    return address.is_global and not is_other
