"""The type of an image is what its decoder says, and whatever can be decoded has one."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykey.encoder.containers import MEDIA_TYPES
from anykey.encoder.errors import InvalidItemError
from anykey.encoder.images import ImageLimits, decode_image, image_type
from tests.unit.encoder.test_image_fuzz import SAMPLES

TYPES = {"BigTIFF": "image/tiff", "JPEG TIFF": "image/tiff", "16-bit PNG": "image/png", "AVIF": "image/avif"}
changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4)


def decodes(data: bytes) -> bool:
    try:
        decode_image(data, ImageLimits(max_pixels=1_000_000))
    except InvalidItemError:
        return False
    return True


@pytest.mark.parametrize("name", SAMPLES)
def test_every_kind_of_image_has_its_type(name: str) -> None:
    found = image_type(SAMPLES[name])
    assert found in MEDIA_TYPES.values()
    assert found == TYPES.get(name, found)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow remarks on what it skips
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.sampled_from(list(SAMPLES.values())), changed=changes, cut=st.floats(0, 1))
def test_what_can_be_decoded_has_a_type_and_nothing_trips_it_over(
    data: bytes, changed: list[tuple[float, int]], cut: float
) -> None:
    damaged = bytearray(data)
    for place, byte in changed:
        damaged[int(place * len(damaged))] = byte
    for each in (bytes(damaged), bytes(damaged[: int(cut * len(damaged))])):
        assert image_type(each) is not None or not decodes(each)


NO_IMAGES = [
    b"",
    b"BM",
    b"BM and more, as a text may begin",
    b"GIF89a",
    b"\xff\xd8\xff",
    b"<svg></svg>",
    b"RIFF1234WEBP",
]


@pytest.mark.parametrize("data", NO_IMAGES)
def test_first_bytes_alone_make_no_image(data: bytes) -> None:
    assert image_type(data) is None
