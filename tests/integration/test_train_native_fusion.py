"""Native fusion goes through the trainer as open_clip's towers do: no part of it knows the network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from anykey.encoder.native_fusion.checkpoint import WEIGHTS_NAME
from anykey.sources.pairs.pair import Pair
from anykey.training.families.native_fusion import NativeFusion, read_start
from anykey.training.families.opening import load_family, open_family
from anykey.training.family import Family, Features, Items
from anykey.training.settings import TrainSettings
from anykey.training.trainer import TrainResult, train
from anykey.training.validation import SELECTION_METRIC, embed_held_out
from tests.drawn_pairs import drawn_pairs, write_shard
from tests.training_runs import CPU, make_settings, make_table

PAIRS = [Pair(pair.name, pair.image, pair.captions) for pair in drawn_pairs(9)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shard(tmp_path / "train.tar", drawn_pairs(32))
    write_shard(tmp_path / "val.tar", drawn_pairs(24))
    return tmp_path


def run_of(
    folder: Path, start: Path, name: str, opens: Callable[..., Family] = open_family, **changes: Any
) -> TrainResult:
    settings = {"start": str(start), "num_epochs": 5.0, "learning_rate": 3e-3, **changes}
    return train(make_settings(folder / "train.tar", folder / name, **settings), Console(quiet=True), opens)


def weights_of(checkpoint: Path) -> dict[str, Tensor]:
    return load_file(checkpoint / WEIGHTS_NAME)


def test_it_is_measured_and_reported_and_a_finished_run_is_left_alone(folder: Path, fusion_checkpoint: Path) -> None:
    options: dict[str, Any] = {"val_data": [str(folder / "val.tar")], "val_every_epochs": 5.0, "num_epochs": 10.0}
    result = run_of(folder, fusion_checkpoint, "run", **options)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0]
    measured = [row[f"val/{SELECTION_METRIC}"] for row in rows if f"val/{SELECTION_METRIC}" in row]
    assert len(measured) > 2
    assert result.best[SELECTION_METRIC] == pytest.approx(max(measured))
    assert all(0 < row["train/gap"] < 2 for row in rows if "train/loss" in row)
    assert "native fusion" in (folder / "run" / "report.html").read_text()
    provenance = json.loads((folder / "run" / "best" / "encoder.json").read_text())["provenance"]
    assert provenance["num_steps"] == 40
    assert not run_of(folder, fusion_checkpoint, "run", **options).is_new


class Mortal(NativeFusion):
    """Ends with an error, once it has embedded for some time."""

    passes_left = 21

    def features(self, items: Items) -> Features:
        """As its kind does, until then."""
        self.passes_left -= 1
        if self.passes_left < 0:
            raise OSError("the machine goes down")
        return super().features(items)


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(folder: Path, fusion_checkpoint: Path) -> None:
    """With everything that has a state: an average, words that are left out, dropout, a passed epoch, parts."""
    options = {"ema_decay": 0.9, "drop_tokens": 0.2, "micro_batch_size": 4, "temperature_per_pair": True}
    options |= {"save_every_steps": 3, "mirror_images": True, "num_epochs": 3.0}
    run_of(folder, fusion_checkpoint, "whole", **options)

    def open_mortal(settings: TrainSettings, device: torch.device, dtype: torch.dtype | None) -> Family:
        return Mortal(read_start(fusion_checkpoint), device, dtype)

    with pytest.raises(OSError, match="goes down"):
        run_of(folder, fusion_checkpoint, "stopped", open_mortal, **options)
    assert (folder / "stopped" / "unfinished" / "state" / "step-000000003").is_dir()
    run_of(folder, fusion_checkpoint, "stopped", **options)
    whole, stopped = (weights_of(folder / name / "last") for name in ("whole", "stopped"))
    assert all(torch.equal(stopped[name], weight) for name, weight in whole.items())


def test_a_locked_trunk_is_embedded_once_and_stays(folder: Path, fusion_checkpoint: Path) -> None:
    options = {"lock_image": True, "lock_text": True, "unlocked_text_groups": 1, "num_epochs": 1.0}
    run_of(folder, fusion_checkpoint, "run", **options, val_data=[str(folder / "val.tar")])
    start, end = weights_of(fusion_checkpoint), weights_of(folder / "run" / "last")
    last_layer = f"text.encoder.layer.{len(load_family(fusion_checkpoint, CPU).model.text.encoder.layer) - 1}."
    moved = [name for name in end if not torch.equal(end[name], start[name])]
    assert {name.startswith(("projection.", last_layer)) for name in moved} == {True}
    assert any(name.startswith(last_layer) for name in moved)
    assert len(list((folder / "run" / "features").iterdir())) == 2


@pytest.mark.parametrize("loss", ["clip", "alignclip", "sigmoid", "normalized", "pairwise"])
def test_every_loss_trains_it(folder: Path, fusion_checkpoint: Path, loss: str) -> None:
    run_of(folder, fusion_checkpoint, "run", loss=loss, num_epochs=1.0)
    start, end = weights_of(fusion_checkpoint), weights_of(folder / "run" / "last")
    assert all(weight.isfinite().all() for weight in end.values())
    assert not torch.equal(end["projection.weight"], start["projection.weight"])


def test_a_loss_without_fused_rows_computes_none(folder: Path, fusion_checkpoint: Path) -> None:
    sizes = {}
    for loss in ("gcl", "clip"):
        seen: list[int] = []

        def open_counted(settings: TrainSettings, *where: Any, seen: list[int] = seen) -> Family:
            family = open_family(settings, *where)
            family.model.register_forward_hook(lambda *passed: seen.append(len(passed[2])))
            return family

        run_of(folder, fusion_checkpoint, loss, open_counted, loss=loss, num_epochs=0.25)
        sizes[loss] = seen
    assert sizes == {"gcl": [24], "clip": [16]}


def test_held_out_vectors_are_those_of_one_row_at_a_time(fusion_checkpoint: Path) -> None:
    """The trunk goes over each image once for all that is made of it; the twin goes over it for every row."""
    family = load_family(fusion_checkpoint, CPU)
    family.eval()
    table = make_table(PAIRS, family=family)
    held_out = embed_held_out(family, table, None)
    first, second = table.tokens_ST[::2].long(), table.tokens_ST[1::2].long()
    for place in range(len(PAIRS)):
        pixels = table.pixels(place)[None]
        for side, tokens in ((held_out.keys, first), (held_out.queries, second)):
            for name, (image, text) in {"i": (0, -1), "t": (-1, 0), "it": (0, 0)}.items():
                items = Items(pixels, tokens[place][None], torch.tensor([image]), torch.tensor([text]))
                (expected_1D,) = family.features(items)
                torch.testing.assert_close(side[name][place], expected_1D[0], atol=1e-5, rtol=0)
