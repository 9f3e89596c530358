"""Thumbnails over HTTP: small, upright, of what the image holds now, and bounded whatever is asked for."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from anykey.encoder.images import decode_image
from anykey.encoder.item import Item
from tests.fakes import FakeEncoder
from tests.pictures import corners, encoded, photo, plain
from tests.service_inputs import png_header
from tests.serving import MemoryIndex, serving, stored

LARGE = encoded(photo(900, 600), "JPEG", quality=95)


def turned() -> bytes:
    """A photo that its EXIF says lies on its side: 300 x 200 in the file, 200 x 300 upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photo(300, 200), "JPEG", exif=exif)


def animation() -> bytes:
    frames = [plain(colour, size_px=(300, 200)) for colour in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)


IMAGES = {
    "large": LARGE,
    "small": encoded(corners(), "PNG"),
    "turned": turned(),
    "animation": animation(),
    "clear": encoded(plain((0, 0, 0, 0), "RGBA", (300, 300)), "PNG"),
    "grey": encoded(plain(40_000, "I;16", (300, 300)), "PNG"),
    "cmyk": encoded(plain((0, 255, 255, 0), "CMYK", (300, 300)), "JPEG"),
    "long": encoded(plain("green", size_px=(40, 4000)), "PNG"),
}


@pytest.fixture(scope="module")
def index() -> MemoryIndex:
    return MemoryIndex(FakeEncoder(), [stored(name, Item(images=(data,))) for name, data in IMAGES.items()])


@pytest.fixture(scope="module")
def client(index: MemoryIndex) -> Iterator[httpx.Client]:
    with serving(FakeEncoder(), index) as client:
        yield client


def shown(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/jpeg"
    picture = Image.open(io.BytesIO(response.content))
    picture.load()
    assert (picture.mode, picture.format) == ("RGB", "JPEG")
    return picture


@pytest.mark.parametrize(
    ("key", "size_px"),
    [
        ("large", (256, 171)),
        ("small", (16, 8)),
        ("turned", (200, 300)),
        ("animation", (256, 171)),
        ("grey", (256, 256)),
        ("cmyk", (256, 256)),
        ("long", (5, 512)),
    ],
)
def test_a_thumbnail_fits_is_upright_and_never_larger(client: httpx.Client, key: str, size_px: tuple[int, int]) -> None:
    picture = shown(client.get(f"/keys/{key}/image?width=256"))
    assert picture.size == size_px
    whole = decode_image(IMAGES[key]).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    small = picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert isinstance(whole, tuple)
    assert isinstance(small, tuple)
    assert all(abs(one - other) < 8 for one, other in zip(whole, small, strict=True))


def test_what_is_clear_is_white_and_an_animation_shows_its_first_frame(client: httpx.Client) -> None:
    assert min(shown(client.get("/keys/clear/image?width=64")).getpixel((9, 9))) > 250  # type: ignore[arg-type]
    red, _, blue = shown(client.get("/keys/animation/image?width=64")).getpixel((9, 9))  # type: ignore[misc]
    assert red > 200
    assert blue < 60


def test_widths_between_are_the_next_one_up(client: httpx.Client) -> None:
    tags = {width: client.get(f"/keys/large/image?width={width}").headers["etag"] for width in (1, 64, 65, 500, 512)}
    assert tags[1] == tags[64] != tags[65]
    assert tags[500] == tags[512] != tags[65]
    for width in ("0", "-1", "1025", "x", "1e2", "64&width=64"):
        answer = client.get(f"/keys/large/image?width={width}")
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request")
        assert "width" in answer.json()["error"]["message"]


def test_a_browser_keeps_it_and_is_not_sent_it_twice(client: httpx.Client) -> None:
    first = client.get("/keys/large/image?width=128")
    assert first.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in first.headers["cache-control"]
    again = client.get("/keys/large/image?width=128", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get("/keys/large/image?width=256", headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 200
    whole = client.get("/keys/large/image", headers={"if-none-match": first.headers["etag"]})
    assert whole.content == LARGE


def test_an_image_that_changed_has_another_thumbnail() -> None:
    encoder = FakeEncoder()
    index = MemoryIndex(encoder, [stored("one", Item(images=(encoded(plain("red"), "PNG"),)))])
    with serving(encoder, index) as client:
        before = client.get("/keys/one/image?width=64")
        index.replace_image("one", encoded(plain("blue"), "PNG"))
        after = client.get("/keys/one/image?width=64")
    assert before.headers["etag"] != after.headers["etag"]
    assert shown(after).getpixel((3, 3))[2] > 200  # type: ignore[index]


@pytest.mark.parametrize("cache_bytes", [0, 100_000])
def test_a_thumbnail_is_the_same_whether_or_not_it_is_kept(index: MemoryIndex, cache_bytes: int) -> None:
    addresses = [f"/keys/{key}/image?width={width}" for key in IMAGES for width in (64, 256)] * 3
    with serving(FakeEncoder(), index, thumbnail_cache_bytes=cache_bytes) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(client.get, addresses))
        held = client.get("/indexes").json()["memory"]
    assert held["thumbnails_bytes"] <= cache_bytes
    assert (held["thumbnails"] > 0) is (cache_bytes > 0)
    by_address: dict[str, set[bytes]] = {}
    for address, answer in zip(addresses, answers, strict=True):
        assert answer.status_code == 200
        by_address.setdefault(address, set()).add(answer.content)
    assert {len(contents) for contents in by_address.values()} == {1}


def test_images_that_cannot_be_made_small_are_refused_with_a_reason() -> None:
    encoder = FakeEncoder()
    index = MemoryIndex(encoder, [stored(name, Item(images=(LARGE,))) for name in ("broken", "bomb", "text")])
    index.replace_image("broken", LARGE[: len(LARGE) // 2])
    index.replace_image("bomb", png_header(9_000, 9_000))
    index.replace_image("text", b"<html>not an image</html>")
    with serving(encoder, index) as client:
        expected = {"broken": (422, "undecodable_image"), "bomb": (413, "item_too_large"), "text": (404, "not_found")}
        for key, (status, kind) in expected.items():
            answer = client.get(f"/keys/{key}/image?width=256")
            assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
            assert answer.json()["error"]["message"]
        assert client.get("/keys/none/image?width=256").status_code == 404
