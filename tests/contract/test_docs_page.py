"""The page at /docs works without a network: everything it loads comes from the service itself."""

import re

import anyio
import httpx

from anykey.service.app import create_app
from anykey.service.settings import ServiceSettings


def fetch(*addresses: str) -> list[httpx.Response]:
    async def scenario() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(ServiceSettings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return [await client.get(address) for address in addresses]

    return anyio.run(scenario)


def test_everything_the_page_loads_is_served_here() -> None:
    (page,) = fetch("/docs")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert any(address.endswith(".js") for address in loaded)
    assert all(address.startswith("/") and not address.startswith("//") for address in loaded), loaded
    assert [answer.status_code for answer in fetch(*loaded)] == [200] * len(loaded)
    assert "://" not in re.sub(r"<!--.*?-->", "", page.text)
