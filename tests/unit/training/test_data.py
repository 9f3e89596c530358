"""Pairs are read as the settings say, for a run and for whoever measures it afterwards."""

import json
import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from anykey.encoder.item import Item
from anykey.encoder.model import Encoder
from anykey.encoder.towers.architecture import write_open_clip_config
from anykey.program.progress import open_progress
from anykey.sources.errors import SourceError
from anykey.sources.pairs import open_pairs
from anykey.training.data import open_table, read_data
from anykey.training.distributed import Processes
from anykey.training.errors import InvalidRecipeError, TooManyBadRowsError
from anykey.training.run_folder import RunFolder, run_digest
from anykey.training.trainer import train
from tests.drawn_pairs import drawn_pairs, write_shard
from tests.networks import TEXT, TIMM_VISION, small_architecture
from tests.pictures import huge_png
from tests.training_runs import ARCHITECTURE, make_settings, towers_of


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of a run of few steps on a small network, which writes no report."""
    folder = tmp_path_factory.mktemp("networks")
    write_open_clip_config(small_architecture(vision=TIMM_VISION, text={**TEXT, "layers": 1}), folder)
    (folder / "open_clip_config.json").rename(folder / "small.json")
    return {"architecture": str(folder / "small.json"), "num_epochs": 0.25, "report": False}


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """Two shards: three pairs, and two."""
    return [str(write_shard(tmp_path / f"{count}.tar", drawn_pairs(count))) for count in (3, 2)]


def test_a_table_knows_its_sources_and_keeps_to_the_settings(names: list[str], tmp_path: Path) -> None:
    told: list[int] = []
    settings = make_settings(tmp_path, tmp_path / "run", cache_images_bytes=0)
    table = open_table(open_pairs(names), towers_of(ARCHITECTURE), settings, advance=told.append)
    assert (table.entry_P.tolist(), sum(told), table.pixels_ICHW) == ([0, 0, 0, 1, 1], 5, None)
    assert table.pixels(4).shape == (3, 32, 32)


def test_a_separation_takes_meanings_from_another_encoder(
    names: list[str], tmp_path: Path, quick: dict[str, Any], tiny_checkpoint: Path
) -> None:
    """Every text of the training pairs in its place; another encoder's weights make another run."""
    source, console = shutil.copytree(tiny_checkpoint, tmp_path / "encoder"), Console(quiet=True)
    settings = make_settings(
        Path(names[0]), tmp_path / "run", **quick, loss="alignclip", separation_encoder=str(source)
    )
    family = towers_of(ARCHITECTURE)
    before = run_digest(settings)
    with RunFolder(settings.output, settings, before) as folder, open_progress(console) as progress:
        data = read_data(settings, family, progress, folder, Processes())
    captions = [caption for pair in drawn_pairs(3) for caption in pair.captions]
    expected = Encoder.load(source).encode([Item(caption) for caption in captions])
    assert data.train.texts() == captions
    assert data.meanings_SW is not None
    torch.testing.assert_close(data.meanings_SW, torch.from_numpy(expected))
    assert train(settings, console).is_new
    weights = next(source.glob("*.safetensors"))
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 10**9))
    assert run_digest(settings) != before


def test_images_are_checked_unless_told_otherwise(names: list[str], tmp_path: Path) -> None:
    settings = make_settings(tmp_path, tmp_path / "run", cache_images_bytes=0, max_image_pixels=1024)
    pairs = open_pairs(names)
    with pytest.raises(TooManyBadRowsError, match="5 of 5 rows are bad"):
        open_table(pairs, towers_of(ARCHITECTURE), settings)
    assert len(open_table(pairs, towers_of(ARCHITECTURE), settings, check_images=False)) == 5


def test_captions_longer_than_the_models_context_are_counted_and_said(
    tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = drawn_pairs(4)
    pairs[2] = replace(pairs[2], captions=("red " * 75, "red " * 76))
    shard = write_shard(tmp_path / "a.tar", pairs)
    assert (
        open_table(open_pairs([str(shard)]), towers_of(ARCHITECTURE), make_settings(tmp_path, tmp_path)).num_cut_texts
        == 1
    )
    out = Console(width=200)
    train(make_settings(shard, tmp_path / "run", **quick), out)
    assert "read pairs: 1 of 8 texts are longer than the model's context of 77 tokens" in capsys.readouterr().out


@pytest.mark.parametrize("check_images", [True, False])
def test_pipes_and_enormous_files_are_bad_rows_that_are_never_read(tmp_path: Path, check_images: bool) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(3_000_000_000)
    for pair in drawn_pairs(2):
        (tmp_path / f"{pair.name}.png").write_bytes(pair.image)
    names = ["pipe.png", "huge.png", *(f"{pair.name}.png" for pair in drawn_pairs(2))]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"image": name, "caption": name}) + "\n" for name in names))
    settings = make_settings(tmp_path, tmp_path / "run", max_bad_share=0.5, cache_images_bytes=0)
    tracemalloc.start()
    try:
        table = open_table(open_pairs([str(rows)]), towers_of(ARCHITECTURE), settings, check_images)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()
    assert table.position_P.tolist() == [2, 3]
    reasons = [row.reason for row in table.bad_rows]
    assert "pipe.png': not a regular file" in reasons[0]
    assert "huge.png' has 3000000000 bytes, at most 20971520 are accepted" in reasons[1]


def test_a_thin_image_is_one_bad_row(tmp_path: Path) -> None:
    pairs = drawn_pairs(4)
    pairs[1] = replace(pairs[1], image=huge_png(80_000, 1))
    settings = make_settings(tmp_path, tmp_path / "run", max_bad_share=0.5)
    table = open_table(open_pairs([str(write_shard(tmp_path / "a.tar", pairs))]), towers_of(ARCHITECTURE), settings)
    assert table.position_P.tolist() == [0, 2, 3]
    assert "80000 x 1 pixels; the longer side may be at most 200 times the shorter" in table.bad_rows[0].reason


def test_a_locked_trunk_without_any_image_is_refused(tmp_path: Path, quick: dict[str, Any]) -> None:
    shard = write_shard(tmp_path / "train.tar", drawn_pairs(8))
    start = train(make_settings(shard, tmp_path / "start", **quick), Console(quiet=True))
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"captions": [f"text {n}", f"number {n}"]}) + "\n" for n in range(8)))
    settings = make_settings(
        texts, tmp_path / "run", start=str(start.output / "last"), lock_image=True, positives="caption"
    )
    with pytest.raises(InvalidRecipeError, match="--data has texts alone"):
        train(settings, Console(quiet=True))


def test_columns_are_called_what_the_settings_say(tmp_path: Path, quick: dict[str, Any]) -> None:
    for pair in drawn_pairs(4):
        (tmp_path / f"{pair.name}.png").write_bytes(pair.image)
    rows = "".join(f"{pair.name}.png,{pair.captions[0]}\n" for pair in drawn_pairs(4))
    (tmp_path / "pairs.csv").write_text(f"photo,words\n{rows}")
    columns = ["image=photo", "text=words"]
    train(make_settings(tmp_path / "pairs.csv", tmp_path / "run", columns=columns, **quick), Console())
    with pytest.raises(SourceError, match="expected a column 'text' or 'image', found photo, words"):
        train(make_settings(tmp_path / "pairs.csv", tmp_path / "other", **quick), Console())
    with pytest.raises(ValueError, match="expected FIELD=COLUMN"):
        make_settings(tmp_path / "pairs.csv", tmp_path / "run", columns=["words"])


def test_rows_that_are_one_half_are_counted_and_said(
    tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = drawn_pairs(4)
    for pair in pairs:
        (tmp_path / f"{pair.name}.png").write_bytes(pair.image)
    rows = [(f"{pair.name}.png", pair.captions[0]) for pair in pairs]
    rows += [(f"{pairs[0].name}.png", " "), ("", "a"), ("", "b")]
    (tmp_path / "pairs.csv").write_text("image,text\n" + "".join(f"{image},{text}\n" for image, text in rows))
    train(make_settings(tmp_path / "pairs.csv", tmp_path / "run", **quick), Console(width=200))
    assert "read pairs: 1 of 7 rows are images without a text, 2 are texts alone" in capsys.readouterr().out
