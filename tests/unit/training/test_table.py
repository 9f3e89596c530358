"""What the table holds is what the source holds, less its bad rows, which are listed with their reasons."""

from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform_v2
from PIL import Image

from encoder.architecture import preprocessing
from encoder.images import ImageLimits
from encoder.tokens import Tokenizer
from tests.drawn_pairs import drawn_pairs
from tests.networks import small_architecture
from tests.pictures import encoded, photo
from tests.training_runs import ARCHITECTURE, make_table
from training.errors import InvalidRowError, NoPairsError, TooManyBadRowsError
from training.pairs import Pair
from training.table import ImageReader

PAIRS = [Pair(pair.name, pair.image, pair.captions) for pair in drawn_pairs(6)]
NO_CAPTION = InvalidRowError("shard.tar: sample 'x'", "no caption")
NO_IMAGE = Pair("broken", b"no image", ("a caption",))


def test_captions_are_tokenised_in_order() -> None:
    table = make_table(PAIRS)
    tokenizer = Tokenizer(ARCHITECTURE)
    assert table.caption_start_P.tolist() == [0, 2, 4, 6, 8, 10, 12]
    expected = tokenizer([caption for pair in PAIRS for caption in pair.captions])
    assert torch.equal(table.tokens_ST.long(), expected)


def test_cached_pixels_are_those_decoded_anew() -> None:
    cached, uncached = make_table(PAIRS), make_table(PAIRS, cache_images_bytes=0)
    assert cached.pixels_PCHW is not None
    assert uncached.pixels_PCHW is None
    for row in range(6):
        assert torch.equal(cached.pixels(row), uncached.pixels(row))
        assert cached.pixels(row).shape == (3, 32, 32)
        assert cached.pixels(row).dtype is torch.uint8


def test_pixels_are_cached_exactly_when_all_fit() -> None:
    fits = 6 * 3 * 32 * 32
    assert make_table(PAIRS, cache_images_bytes=fits).pixels_PCHW is not None
    assert make_table(PAIRS, cache_images_bytes=fits - 1).pixels_PCHW is None


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
    assert table.image_id_P.tolist() == [0, 1, 0]
    assert table.text_id_S.tolist() == [0, 1, 0, 2, 1]


def test_files_have_equal_numbers_when_they_are_one_file(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(PAIRS[0].image)
    rows = [Pair(name, tmp_path / f"{name}.png", (name,)) for name in ("one", "two", "one")]
    ids = make_table(rows).image_id_P.tolist()
    assert ids[0] == ids[2]


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_pixels_once_normalised_are_the_encoders_own(resize_mode: str) -> None:
    config = preprocessing(small_architecture(preprocess={"resize_mode": resize_mode}))
    image = photo(90, 60)
    pixels_CHW = ImageReader(config, ImageLimits())(encoded(image, "PNG"))
    assert (pixels_CHW.shape, pixels_CHW.dtype) == ((3, 32, 32), np.uint8)
    expected = image_transform_v2(config, is_train=False)(image)
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    torch.testing.assert_close((torch.from_numpy(pixels_CHW) / 255.0 - mean) / std, expected, atol=1e-6, rtol=0)


def test_grey_images_have_three_channels() -> None:
    reader = ImageReader(preprocessing(ARCHITECTURE), ImageLimits())
    assert reader(encoded(Image.new("L", (40, 40), 9), "PNG")).shape == (3, 32, 32)
    assert reader.num_bytes == 3 * 32 * 32


def test_images_that_are_not_kept_are_checked_where_asked() -> None:
    rows = [*PAIRS[:3], Pair("broken", b"no image", ("one",))]
    unchecked = make_table(rows, cache_images_bytes=0)
    checked = make_table(rows, cache_images_bytes=0, check_images=True)
    assert (len(unchecked), unchecked.bad_rows) == (4, [])
    assert [row.where for row in checked.bad_rows] == ["broken"]
    assert len(checked) == 3
    assert checked.pixels_PCHW is None


def test_a_photo_under_two_names_is_one_image_and_a_missing_one_is_a_bad_row(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(PAIRS[0].image)
    (tmp_path / "three.png").write_bytes(PAIRS[1].image)
    names = ("one.png", "two.png", "three.png", "gone.png")
    rows = [Pair(name, tmp_path / name, ("a photo",), f"pairs.jsonl:{n}") for n, name in enumerate(names, 1)]
    table = make_table(rows, cache_images_bytes=0)
    assert table.image_id_P.tolist() == [0, 0, 1]
    assert [row.where for row in table.bad_rows] == ["pairs.jsonl:4"]
