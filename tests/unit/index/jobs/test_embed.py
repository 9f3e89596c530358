"""The embedding loop: batches in order, bad neighbours kept apart, threads never too far ahead."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import Role
from anykey.index.jobs.embed import embed
from anykey.index.jobs.plan import PlannedEntry
from anykey.index.store.store_records import Known
from anykey.sources.errors import UnreachableImageError
from anykey.sources.files.images import ImageStamp
from tests.factories import build_settings, image_bytes
from tests.fakes import FakeEncoder, FakeEncoderSource, FakePrepared

WAIT_S = 20.0
DIGEST = "ab" * 32


def text_entries(count: int) -> Iterator[tuple[PlannedEntry, Known | None]]:
    for number in range(count):
        yield PlannedEntry(number, f"k{number}", f"c.jsonl:{number}", "w" * (number + 1), "{}", (), (), DIGEST), None


def image_entry(path: Path) -> PlannedEntry:
    return PlannedEntry(0, "image", "c.jsonl:1", None, "{}", (), (ImageStamp(str(path), 1, "1"),), DIGEST)


def test_batches_keep_the_order_and_the_size(tmp_path: Path) -> None:
    source = FakeEncoderSource()
    settings = build_settings(tmp_path, tmp_path, batch_size=3)

    batches = list(embed(text_entries(8), source, settings))

    assert source.encoder.batches == [3, 3, 2]
    assert [record.key for batch in batches for record in batch.records] == [f"k{number}" for number in range(8)]
    assert [batch.num_embedded for batch in batches] == [3, 3, 2]


@pytest.mark.parametrize(
    ("nums_images", "batches"),
    [
        ([2, 2, 2], [2, 1]),
        ([0, 3, 0, 1, 4], [2, 2, 1]),
        ([9, 0, 0, 9], [1, 2, 1]),  # more than fits is a batch of its own
        ([0] * 4 + [1], [4, 1]),
    ],
)
def test_a_key_of_several_images_counts_as_many(tmp_path: Path, nums_images: list[int], batches: list[int]) -> None:
    (tmp_path / "i.png").write_bytes(image_bytes())
    stamp = ImageStamp(str(tmp_path / "i.png"), 1, "1")
    entries = [
        PlannedEntry(n, f"k{n}", "c", "t", "{}", (), (stamp,) * count, DIGEST) for n, count in enumerate(nums_images)
    ]
    source = FakeEncoderSource()

    found = list(embed([(entry, None) for entry in entries], source, build_settings(tmp_path, tmp_path, batch_size=4)))

    assert source.encoder.batches == batches
    assert [record.key for batch in found for record in batch.records] == [entry.key for entry in entries]


def test_bad_item_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    entries = [*text_entries(2), (image_entry(tmp_path / "bad.png"), None)]

    (batch,) = embed(entries, FakeEncoderSource(), build_settings(tmp_path, tmp_path))

    assert [record.key for record in batch.records] == ["k0", "k1"]
    assert [refusal.key for refusal in batch.refusals] == ["image"]
    ((_, row),) = batch.bad_rows
    assert (row.where, row.key) == ("c.jsonl:1", "image")
    assert row.reason.startswith("cannot decode 10 bytes as an image")
    assert batch.num_entries == 3


def test_unreadable_image_is_skipped_but_not_remembered(tmp_path: Path) -> None:
    entries = [(image_entry(tmp_path / "gone.png"), None)]

    (batch,) = embed(entries, FakeEncoderSource(), build_settings(tmp_path, tmp_path))

    assert (batch.records, batch.refusals) == ([], [])
    ((_, row),) = batch.bad_rows
    assert isinstance(row, UnreachableImageError)
    assert row.reason == f"cannot read image {tmp_path}/gone.png: No such file or directory"


def test_known_content_is_not_embedded_and_needs_no_encoder(tmp_path: Path) -> None:
    source = FakeEncoderSource()
    settings = build_settings(tmp_path, tmp_path)
    (tmp_path / "i.png").write_bytes(image_bytes())
    entry = image_entry(tmp_path / "i.png")
    ((first,),) = [batch.records for batch in embed([(entry, None)], FakeEncoderSource(), settings)]
    assert first.built is not None

    (batch,) = embed([(entry, Known(b"", (), content_sha256=first.built.content_sha256))], source, settings)

    assert (batch.num_embedded, batch.records[0].vector_D, source.num_loads) == (0, None, 0)
    assert batch.records[0].images[0].data == image_bytes()
    assert batch.records[0].built == first.built


def test_reference_mode_keeps_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "i.jpg").write_bytes(image_bytes(image_format="JPEG"))
    entries = [(image_entry(tmp_path / "i.jpg"), None)]

    (batch,) = embed(entries, FakeEncoderSource(), build_settings(tmp_path, tmp_path, images="reference"))

    (image,) = batch.records[0].images
    assert (image.data, image.media_type) == (None, "image/jpeg")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
def test_media_type_is_told_from_the_bytes(tmp_path: Path, image_format: str) -> None:
    (tmp_path / "i").write_bytes(image_bytes(image_format=image_format))

    (batch,) = embed([(image_entry(tmp_path / "i"), None)], FakeEncoderSource(), build_settings(tmp_path, tmp_path))

    assert batch.records[0].images[0].media_type == f"image/{image_format.lower()}"


class _CountingEncoder(FakeEncoder):
    """Counts what has been prepared and not yet encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.num_prepared = 0

    def prepare(self, item: Item, role: Role, *asked: Any) -> FakePrepared:
        with self.lock:
            self.num_prepared += 1
        return super().prepare(item, role, *asked)


def test_threads_stay_within_two_batches_of_the_encoder(tmp_path: Path) -> None:
    encoder = _CountingEncoder()
    batches = embed(text_entries(40), FakeEncoderSource(encoder), build_settings(tmp_path, tmp_path, batch_size=4))

    for number, _ in enumerate(batches, start=1):
        assert encoder.num_prepared <= 4 * number + 8


def test_images_stay_within_two_batches_of_the_encoder(tmp_path: Path) -> None:
    (tmp_path / "i.png").write_bytes(image_bytes())
    images = (ImageStamp(str(tmp_path / "i.png"), 1, "1"),) * 4
    entries = [(PlannedEntry(n, f"k{n}", "c", None, "{}", (), images, DIGEST), None) for n in range(20)]
    encoder = _CountingEncoder()

    for number, _ in enumerate(
        embed(entries, FakeEncoderSource(encoder), build_settings(tmp_path, tmp_path, batch_size=4)), 1
    ):
        assert encoder.num_prepared <= number + 2


def test_what_the_encoder_cannot_embed_is_a_bad_row_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "i.png").write_bytes(image_bytes())
    images = (ImageStamp(str(tmp_path / "i.png"), 1, "1"),) * 2
    entries = [
        (PlannedEntry(1, "text", "c", "words", "{}", (), (), DIGEST), None),
        (PlannedEntry(2, "fused", "c", "words", "{}", (), images[:1], DIGEST), None),
        (PlannedEntry(3, "images", "c", None, "{}", (), images, DIGEST), None),
    ]
    encoder = FakeEncoder("small", modalities=[Modality.TEXT, Modality.IMAGE], supports=[])

    (batch,) = embed(entries, FakeEncoderSource(encoder), build_settings(tmp_path, tmp_path))

    assert [record.key for record in batch.records] == ["text"]
    reasons = [row.reason.split(": ")[0] for _, row in batch.bad_rows]
    assert reasons == [
        "model small embeds no fused items, but text, image",
        "model small takes one image of an item, got 2",
    ]


def test_keys_are_embedded_as_keys(tmp_path: Path) -> None:
    class Noting(FakeEncoder):
        roles: ClassVar[list[Role]] = []

        def prepare(self, item: Item, role: Role, *asked: Any) -> FakePrepared:
            self.roles.append(role)
            return super().prepare(item, role, *asked)

    encoder = Noting()
    assert list(embed(text_entries(2), FakeEncoderSource(encoder), build_settings(tmp_path, tmp_path)))
    assert encoder.roles == [Role.KEY] * 2


def test_encoder_works_while_items_are_prepared(tmp_path: Path) -> None:
    class Meeting(FakeEncoder):
        """The second batch's items are prepared only once the first batch is being encoded, and the other way."""

        met = threading.Barrier(2)

        def prepare(self, item: Item, role: Role, *asked: Any) -> FakePrepared:
            if item.text == "w" * 4:
                self.met.wait(WAIT_S)
            return super().prepare(item, role, *asked)

        def encode_prepared(self, prepared: Any) -> Any:
            if not self.batches:
                self.met.wait(WAIT_S)
            return super().encode_prepared(prepared)

    batches = embed(text_entries(6), FakeEncoderSource(Meeting()), build_settings(tmp_path, tmp_path, batch_size=3))

    assert sum(batch.num_embedded for batch in batches) == 6
