"""What the table holds is what the source holds, less its bad rows, which are listed with their reasons."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform_v2
from PIL import Image

from anykey.encoder.images import ImageLimits
from anykey.encoder.towers.architecture import preprocessing
from anykey.encoder.towers.tokens import Tokenizer
from anykey.sources.errors import InvalidRowError, NoPairsError
from anykey.sources.pairs.pair import Pair, Side
from anykey.training.errors import TooManyBadRowsError
from anykey.training.families.images import image_input
from anykey.training.table import ImageReader
from tests.drawn_pairs import drawn_pairs
from tests.networks import small_architecture
from tests.pictures import encoded, photo
from tests.training_runs import ARCHITECTURE, make_table

PAIRS = [Pair(pair.name, pair.image, pair.captions) for pair in drawn_pairs(6)]
NO_CAPTION = InvalidRowError("shard.tar: sample 'x'", "no caption")
NO_IMAGE = Pair("broken", b"no image", ("a caption",))


def test_captions_are_tokenised_in_order() -> None:
    table = make_table(PAIRS)
    tokenizer = Tokenizer(ARCHITECTURE)
    assert table.item_text_J.tolist() == [0, 2, 4, 6, 8, 10, 12]
    expected = tokenizer([caption for pair in PAIRS for caption in pair.captions])
    assert torch.equal(table.tokens_ST.long(), expected)


def test_cached_pixels_are_those_decoded_anew() -> None:
    cached, uncached = make_table(PAIRS), make_table(PAIRS, cache_images_bytes=0)
    assert cached.pixels_ICHW is not None
    assert uncached.pixels_ICHW is None
    for row in range(6):
        assert torch.equal(cached.pixels(row), uncached.pixels(row))
        assert cached.pixels(row).shape == (3, 32, 32)
        assert cached.pixels(row).dtype is torch.uint8


def test_pixels_are_cached_exactly_when_all_fit() -> None:
    fits = 6 * 3 * 32 * 32
    assert make_table(PAIRS, cache_images_bytes=fits).pixels_ICHW is not None
    assert make_table(PAIRS, cache_images_bytes=fits - 1).pixels_ICHW is None


def test_bad_rows_are_left_out_and_listed_with_place_and_reason() -> None:
    steps: list[int] = []
    table = make_table([PAIRS[0], NO_CAPTION, PAIRS[1], NO_IMAGE, PAIRS[2]], advance=steps.append)
    assert table.position_P.tolist() == [0, 2, 4]
    assert [row.where for row in table.bad_rows] == ["shard.tar: sample 'x'", "broken"]
    assert table.bad_rows[0].reason == "no caption"
    assert "cannot decode 8 bytes" in table.bad_rows[1].reason
    assert sum(steps) == 5
    assert len(table) == 3


def test_uncached_images_are_found_bad_when_they_are_needed() -> None:
    table = make_table([PAIRS[0], NO_IMAGE], cache_images_bytes=0)
    assert len(table) == 2
    with pytest.raises(InvalidRowError, match=r"^broken: cannot decode 8 bytes"):
        table.pixels(1)


def test_a_missing_file_is_a_bad_row(tmp_path: Path) -> None:
    table = make_table([PAIRS[0], Pair("gone", tmp_path / "gone.jpg", ("a caption",))])
    assert [row.where for row in table.bad_rows] == ["gone"]
    assert "No such file" in table.bad_rows[0].reason


def test_too_many_bad_rows_stop_the_run_and_the_first_is_shown() -> None:
    rows = [PAIRS[0], NO_IMAGE, PAIRS[1], PAIRS[2]]
    assert len(make_table(rows, max_bad_share=0.25)) == 3
    with pytest.raises(TooManyBadRowsError, match=r"1 of 4 rows are bad, more than the share of 0\.24 .*first: broken"):
        make_table(rows, max_bad_share=0.24)


def test_only_bad_rows_are_refused() -> None:
    with pytest.raises(NoPairsError, match="every row of the data is bad"):
        make_table([NO_CAPTION, NO_IMAGE])


def test_equal_captions_and_images_have_equal_numbers() -> None:
    rows = [
        Pair("a", PAIRS[0].image, ("A red  circle", "round")),
        Pair("b", PAIRS[1].image, ("a red circle",)),
        Pair("c", PAIRS[0].image, ("square\n", "Round")),
    ]
    table = make_table(rows)
    assert table.image_id_I.tolist() == [0, 1, 0]
    assert table.text_id_S.tolist() == [0, 1, 0, 2, 1]


def test_files_have_equal_numbers_when_they_are_one_file(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(PAIRS[0].image)
    rows = [Pair(name, tmp_path / f"{name}.png", (name,)) for name in ("one", "two", "one")]
    ids = make_table(rows).image_id_I.tolist()
    assert ids[0] == ids[2]


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_pixels_once_normalised_are_the_encoders_own(resize_mode: str) -> None:
    architecture = small_architecture(preprocess={"resize_mode": resize_mode})
    config = preprocessing(architecture)
    image = photo(90, 60)
    pixels_CHW = ImageReader(image_input(preprocessing(architecture)), ImageLimits())(encoded(image, "PNG"))
    assert (pixels_CHW.shape, pixels_CHW.dtype) == ((3, 32, 32), np.uint8)
    expected = image_transform_v2(config, is_train=False)(image)
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    torch.testing.assert_close((torch.from_numpy(pixels_CHW) / 255.0 - mean) / std, expected, atol=1e-6, rtol=0)


def test_grey_images_have_three_channels() -> None:
    reader = ImageReader(image_input(preprocessing(ARCHITECTURE)), ImageLimits())
    assert reader(encoded(Image.new("L", (40, 40), 9), "PNG")).shape == (3, 32, 32)
    assert reader.num_bytes == 3 * 32 * 32


def test_images_that_are_not_kept_are_checked_where_asked() -> None:
    rows = [*PAIRS[:3], Pair("broken", b"no image", ("one",))]
    unchecked = make_table(rows, cache_images_bytes=0)
    checked = make_table(rows, cache_images_bytes=0, check_images=True)
    assert (len(unchecked), unchecked.bad_rows) == (4, [])
    assert [row.where for row in checked.bad_rows] == ["broken"]
    assert len(checked) == 3
    assert checked.pixels_ICHW is None


def test_a_photo_under_two_names_is_one_image_and_a_missing_one_is_a_bad_row(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(PAIRS[0].image)
    (tmp_path / "three.png").write_bytes(PAIRS[1].image)
    names = ("one.png", "two.png", "three.png", "gone.png")
    rows = [Pair(name, tmp_path / name, ("a photo",), f"pairs.jsonl:{n}") for n, name in enumerate(names, 1)]
    table = make_table(rows, cache_images_bytes=0)
    assert table.image_id_I.tolist() == [0, 0, 1]
    assert [row.where for row in table.bad_rows] == ["pairs.jsonl:4"]


QUERY = Side(texts=("find it", "where is it?"))
ASKED = Pair("asked", PAIRS[0].image, (), "file:1", QUERY, (Side(PAIRS[1].image, ("no",)), Side(texts=("never",))))


def test_queries_and_negatives_are_items_after_the_pairs_own() -> None:
    table = make_table([PAIRS[2], ASKED, Pair("words", None, ("only words",))])
    assert table.item_start_P.tolist() == [0, 1, 5, 6]
    assert table.has_query_P.tolist() == [False, True, False]
    assert table.item_image_J.tolist() == [0, 1, -1, 2, -1, -1]
    assert table.item_text_J.tolist() == [0, 2, 2, 4, 5, 6, 7]
    assert (table.image_pair_I.tolist(), table.image_part_I.tolist()) == ([0, 1, 1], [0, 0, 2])


@pytest.mark.parametrize("cache_images_bytes", [10**9, 0])
def test_each_image_has_its_own_pixels(cache_images_bytes: int) -> None:
    table = make_table([PAIRS[2], ASKED], cache_images_bytes=cache_images_bytes)
    expected = make_table([PAIRS[2], PAIRS[0], PAIRS[1]])
    assert table.num_images == 3
    assert all(torch.equal(table.pixels(image), expected.pixels(image)) for image in range(3))


def test_more_images_than_pairs_are_not_kept_beyond_the_limit() -> None:
    table = make_table([PAIRS[2], ASKED], cache_images_bytes=2 * 3 * 32 * 32)
    assert table.pixels_ICHW is None
    assert table.pixels(2).shape == (3, 32, 32)


def test_a_file_too_large_or_without_end_is_a_bad_row_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "film.jpg").open("wb") as file:
        file.truncate(2**42)  # it takes no room on the disk, and all memory if it is read
    os.mkfifo(tmp_path / "pipe.jpg")
    rows = [Pair(name, tmp_path / name, ("a photo",)) for name in ("film.jpg", "pipe.jpg")]
    table = make_table([*rows, PAIRS[0]])
    assert len(table) == 1
    reasons = [row.reason for row in table.bad_rows]
    assert "has 4398046511104 bytes, at most" in reasons[0]
    assert "not a regular file" in reasons[1]


def test_equal_items_have_equal_numbers() -> None:
    same = Side(PAIRS[0].image, ("A  photo",))
    table = make_table([Pair("a", PAIRS[0].image, ("a photo",), "", same), Pair("b", PAIRS[0].image, ())])
    assert table.item_id_J.tolist() == [0, 0, 1]


def test_only_pairs_with_both_halves_are_captioned() -> None:
    rows = [
        Pair("image", PAIRS[0].image, ()),
        PAIRS[1],
        Pair("text", None, ("a", "b")),
        Pair("x", PAIRS[2].image, ("c",)),
    ]
    table = make_table(rows)
    images, firsts, seconds, pairs = table.captioned()
    assert (images.tolist(), firsts.tolist(), seconds.tolist()) == ([1, 2], [0, 4], [1, 4])
    assert [table.pair(number).name for number in pairs.tolist()] == [PAIRS[1].name, "x"]


def test_named_groups_and_sources_are_numbered() -> None:
    rows = [replace(PAIRS[0], group="x"), PAIRS[1], replace(PAIRS[2], group="x"), replace(PAIRS[3], group="y")]
    table = make_table(rows, entry_lengths=[1, 0, 3])
    assert table.group_P.tolist() == [0, -1, 0, 1]
    assert table.entry_P.tolist() == [0, 2, 2, 2]


def test_a_bad_negative_makes_its_row_bad() -> None:
    table = make_table([PAIRS[0], replace(PAIRS[1], negatives=(Side(b"no image"),))])
    assert len(table) == 1
    assert "cannot decode" in table.bad_rows[0].reason
