"""A whole run in miniature: it learns, it writes what it promises, it repeats itself exactly, it fails in the open."""

import io
import json
import os
import platform
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from rich.console import Console
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.models._efficientnet_blocks import DepthwiseSeparableConv
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from anykey.encoder.item import Item
from anykey.encoder.model import Encoder
from anykey.encoder.towers.architecture import write_open_clip_config
from anykey.sources.errors import NoPairsError
from anykey.training.claim import Claim
from anykey.training.errors import DivergedError, InvalidRecipeError, TooManyBadRowsError
from anykey.training.families.towers import Towers, open_start
from anykey.training.family import Family
from anykey.training.settings import TrainSettings
from anykey.training.trainer import TrainResult, train
from anykey.training.validation import SELECTION_METRIC
from tests.drawn_pairs import DrawnPair, drawn_pairs, write_manifest, write_shard
from tests.networks import TEXT, TIMM_VISION, small_architecture
from tests.training_runs import make_settings

WEIGHTS = "open_clip_model.safetensors"
PAIRS = drawn_pairs(32)
TORCHS_OWN = "ignore:The .grad attribute of a Tensor"  # a warning while it traces
COMPILED = (pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings(TORCHS_OWN))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training shard, a held-out shard and two small architectures."""
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder / "train.tar", PAIRS)
    write_shard(folder / "val.tar", PAIRS[::2])
    for name, vision in (("plain", None), ("timm", {**TIMM_VISION})):
        architecture = small_architecture(**({"vision": vision} if vision else {}), text={**TEXT, "layers": 1})
        (folder / name).mkdir()
        write_open_clip_config(architecture, folder / name)
        (folder / name / "open_clip_config.json").rename(folder / f"{name}.json")
    return folder


def settings_of(shards: Path, output: Path, **changes: Any) -> TrainSettings:
    """A run of two epochs of four steps on a network of a few thousand weights beside its vocabulary."""
    small = {"architecture": str(shards / "plain.json"), "val_data": [str(shards / "val.tar")], "report": False}
    return make_settings(shards / "train.tar", output, **{**small, **changes})


def run(settings: TrainSettings) -> TrainResult:
    return train(settings, Console(quiet=True))


def log_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of anykey-tiny after some steps; read only."""
    output = tmp_path_factory.mktemp("runs") / "tiny"
    settings = settings_of(shards, output, architecture="anykey-tiny", num_epochs=8.0, val_every_epochs=4.0)
    run(settings)
    return output


def test_training_lowers_the_loss_and_finds_the_right_picture(trained: Path) -> None:
    losses = [row["train/loss"] for row in log_of(trained) if "train/loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    measured = [row for row in log_of(trained) if f"val/{SELECTION_METRIC}" in row]
    assert measured[-1]["val/local/t>i/success@1"] > measured[0]["val/local/t>i/success@1"]


def test_every_promised_file_is_written(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"best", "last", "metrics.jsonl", "settings.json", "finished.json"} <= names
    assert not [name for name in names if name.startswith(".")]
    assert {path.name for path in (trained / "best").iterdir()} == {
        "encoder.json",
        "open_clip_config.json",
        WEIGHTS,
    }


def test_no_file_of_a_run_holds_the_secrets_of_its_data(shards: Path, tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    for name in ("train", "val"):
        files.pipe(f"/user:SECRET@host/{name}.tar?signature=HIDDEN", (shards / f"{name}.tar").read_bytes())
    names = {name: f"memory://user:SECRET@host/{name}.tar?signature=HIDDEN" for name in ("train", "val")}
    command = f"pipe:cat {shards}/train.tar # https://user:SECRET@host/?signature=HIDDEN"
    options = {"data": [names["train"], command], "val_data": [names["val"]], "data_cache": tmp_path / "cache"}
    settings = settings_of(shards, tmp_path / "run", **options, num_epochs=0.1)
    run(settings)
    for path in tmp_path.joinpath("run").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [secret for secret in (b"SECRET", b"HIDDEN") if secret in content], path
    told = json.loads((tmp_path / "run" / "best" / "encoder.json").read_text())["provenance"]["data"]
    assert told == ["memory://host/train.tar", f"pipe:cat {shards}/train.tar # https://host/"]
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["settings"]["data"] == told
    assert not run(settings).is_new


def test_a_run_ends_with_what_follows_from_it(shards: Path, trained: Path, tmp_path: Path) -> None:
    changes = {"start": str(trained / "best"), "num_epochs": 0.25, "val_data": [], "overwrite": True}
    harm = {"learning_rate": 0.1, "val_data": [str(shards / "val.tar")]}
    expected = ("Nothing was measured", "Do not use what was trained here")
    for words, more in zip(expected, ({}, harm), strict=True):
        console = Console(file=io.StringIO(), width=1000)
        train(settings_of(shards, tmp_path / "run", **{**changes, **more}), console)
        *_, checkpoint, told = console.file.getvalue().splitlines()
        assert checkpoint.startswith("checkpoint: ")
        assert told.startswith(words)


def test_the_log_holds_steps_rates_and_measurements(trained: Path) -> None:
    rows = log_of(trained)
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps)
    assert steps[-1] == 32
    assert [row["step"] for row in rows if f"val/{SELECTION_METRIC}" in row] == [0, 16, 32]
    last = [row for row in rows if "train/loss" in row][-1]
    assert last["pairs"] == 256
    assert {"train/temperature", "train/gradient_norm", "train/learning_rate", "train/pairs_per_s"} <= last.keys()


def test_tensorboard_reads_the_same_numbers(trained: Path) -> None:
    events = EventAccumulator(str(trained))
    events.Reload()
    logged = {row["step"]: row["train/loss"] for row in log_of(trained) if "train/loss" in row}
    shown = {event.step: event.value for event in events.Scalars("train/loss")}
    assert shown == pytest.approx(logged)
    assert f"val/{SELECTION_METRIC}" in events.Tags()["scalars"]


def test_the_best_checkpoint_is_an_encoder_and_tells_what_made_it(trained: Path) -> None:
    encoder = Encoder.load(trained / "best")
    pictures = encoder.encode([Item(images=(pair.image,)) for pair in PAIRS])
    captions = encoder.encode([Item(text=pair.captions[0]) for pair in PAIRS])
    ranks = (captions @ pictures.T).argsort(axis=1)[:, ::-1]
    found = sum(row in ranks[row, :5] for row in range(32))
    assert found > 12  # by chance: 5
    assert encoder.provenance["made_by"].startswith("anykey ")
    assert encoder.provenance["step"] == json.loads((trained / "finished.json").read_text())["step"]
    assert encoder.provenance["loss"] == "gcl"


def test_the_best_is_the_best_measured(trained: Path) -> None:
    measured = {
        row["step"]: row[f"val/{SELECTION_METRIC}"] for row in log_of(trained) if f"val/{SELECTION_METRIC}" in row
    }
    report = json.loads((trained / "finished.json").read_text())
    assert report[SELECTION_METRIC] == pytest.approx(max(measured.values()))
    assert measured[report["step"]] == pytest.approx(max(measured.values()))


def test_a_machine_that_tells_little_of_itself_trains_and_reports(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As macOS, and a checkout that is not installed."""
    find = metadata.Distribution.from_name

    def from_name(name: str) -> metadata.Distribution:
        if name == "anykey":
            raise metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(metadata.Distribution, "from_name", from_name)
    run(settings_of(shards, tmp_path / "run", num_epochs=1.0, report=True))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "anykey unknown, torch" in page
    assert f"{os.cpu_count()} cores" in page


def test_facts_that_cannot_be_had_keep_no_checkpoint_from_its_place(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_answer(**options: object) -> str:
        raise OSError("the machine does not say what it is")

    with monkeypatch.context() as patches:
        patches.setattr(platform, "platform", no_answer)
        with pytest.raises(OSError, match="does not say"):
            run(settings_of(shards, tmp_path / "run", num_epochs=1.0))
    for name in ("best", "last"):
        Encoder.load(tmp_path / "run" / name)
    assert run(settings_of(shards, tmp_path / "run", num_epochs=1.0)).is_new  # goes on, with nothing left but to report
    assert (tmp_path / "run" / "finished.json").is_file()


def test_a_finished_run_is_not_repeated_until_something_changes(shards: Path, tmp_path: Path) -> None:
    settings = settings_of(shards, tmp_path / "run", num_epochs=1.0)
    assert run(settings).is_new
    before = (tmp_path / "run" / "best" / WEIGHTS).stat().st_mtime_ns
    again = run(settings)
    assert not again.is_new
    assert again.best["step"] == 4
    assert (tmp_path / "run" / "best" / WEIGHTS).stat().st_mtime_ns == before
    other = {"num_epochs": 1.0, "seed": 1, "loss": "clip", "cache_images_bytes": 0}
    with pytest.raises(
        InvalidRecipeError, match=r"holds a finished run with other settings \(loss, seed\).*--overwrite"
    ):
        run(settings_of(shards, tmp_path / "run", **other))
    assert not run(settings).is_new
    assert run(settings_of(shards, tmp_path / "run", **other, overwrite=True)).is_new


def test_a_finished_run_whose_data_changed_is_not_dropped_unasked(shards: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "train.tar", PAIRS)
    data = {"data": [str(tmp_path / "train.tar")], "val_data": []}
    settings = settings_of(shards, tmp_path / "run", num_epochs=0.25, **data)
    run(settings)
    write_shard(tmp_path / "train.tar", PAIRS[:16])
    with pytest.raises(InvalidRecipeError, match="holds a finished run whose data or start have changed since"):
        run(settings)


def test_a_run_folder_among_the_pairs_is_refused(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    settings = settings_of(shards, tmp_path / "photos" / "runs" / "one", data=[str(tmp_path / "photos")])
    with pytest.raises(InvalidRecipeError, match=r"one lies inside the data .*photos: choose another place"):
        run(settings)
    assert not list((tmp_path / "photos").iterdir())


def test_a_folder_that_a_run_is_writing_to_is_refused(shards: Path, tmp_path: Path) -> None:
    claim = Claim(tmp_path / "run")
    settings = settings_of(shards, tmp_path / "run", num_epochs=0.25, val_data=[])
    with pytest.raises(InvalidRecipeError, match=rf"another run is writing to .*run \(process {os.getpid()}\)"):
        run(settings)
    claim.release()
    assert run(settings).is_new


def weights_after(settings: TrainSettings) -> dict[str, torch.Tensor]:
    """The last weights of a run that measures nothing: held-out pairs do not touch them, and take most of its time."""
    run(settings.model_copy(update={"val_data": []}))
    return load_file(settings.output / "last" / WEIGHTS)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_gives_identical_weights_whatever_the_caches(shards: Path, tmp_path: Path) -> None:
    options = {"mirror_images": True, "drop_tokens": 0.2, "num_epochs": 1.0}
    first = weights_after(settings_of(shards, tmp_path / "a", **options))
    torch.manual_seed(99)
    assert equal(weights_after(settings_of(shards, tmp_path / "b", **options, cache_images_bytes=0)), first)
    assert not equal(weights_after(settings_of(shards, tmp_path / "c", **options, seed=1)), first)


@pytest.fixture(scope="module")
def plain(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights after one epoch of the default recipe."""
    return weights_after(settings_of(shards, tmp_path_factory.mktemp("runs") / "plain", num_epochs=1.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "clip"},
        {"loss": "pairwise"},
        {"loss": "alignclip"},
        {"loss": "sigmoid"},
        {"loss": "normalized"},
        {"reading": "R4"},
        {"fusion": "unit"},
        {"pair_weights": ["t>i=3"]},
        {"temperature_per_pair": True},
        {"ema_decay": 0.9},
        {"layer_decay": 0.5},
        {"min_crop": 0.5, "color_jitter": 0.3, "gray_share": 0.2},
        {"caption_sampling": "all"},
        {"data_weights": [0.5]},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_options_train_and_differ(
    shards: Path, tmp_path: Path, changes: dict[str, Any], plain: dict[str, torch.Tensor]
) -> None:
    weights = weights_after(settings_of(shards, tmp_path / "run", num_epochs=1.0, **changes))
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not equal(weights, plain)


@pytest.mark.parametrize(
    "changes",
    [
        {"checkpoint_activations": True},
        {"micro_batch_size": 3},
        pytest.param({"compile": True}, marks=COMPILED),
    ],
    ids=lambda changes: "-".join(changes),
)
def test_ways_to_save_memory_or_time_train_the_same(
    shards: Path, tmp_path: Path, changes: dict[str, Any], plain: dict[str, torch.Tensor]
) -> None:
    weights = weights_after(settings_of(shards, tmp_path / "run", num_epochs=1.0, **changes))
    for name, weight in plain.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-2, atol=1e-4, msg=name)


def one_step(shards: Path, output: Path, **changes: Any) -> None:
    run(settings_of(shards, output, num_epochs=0.25, val_data=[], **changes))


@pytest.mark.parametrize("network", ["plain", "timm"])
def test_checkpointed_blocks_are_computed_again_in_the_backward_pass(
    shards: Path, tmp_path: Path, network: str
) -> None:
    """Entries to each block in one step: of both towers once, and twice when activations are not kept."""
    kinds = (ResidualAttentionBlock, DepthwiseSeparableConv)
    for is_checkpointed in (False, True):
        entries: Counter[nn.Module] = Counter()
        with register_module_forward_pre_hook(lambda module, _, seen=entries: seen.update([module])):
            changes = {"architecture": str(shards / f"{network}.json"), "batch_norm": "eval"}
            one_step(shards, tmp_path / str(is_checkpointed), **changes, checkpoint_activations=is_checkpointed)
        blocks = {module: count for module, count in entries.items() if isinstance(module, kinds)}
        assert len(blocks) == {"plain": 1 + 1, "timm": 13 + 1}[network]
        assert set(blocks.values()) == {2 if is_checkpointed else 1}


@pytest.mark.slow
@pytest.mark.filterwarnings(TORCHS_OWN)
def test_compile_compiles_the_blocks_of_both_towers(shards: Path, tmp_path: Path) -> None:
    """Torch traces as always; what it traced is counted and run as it is, which takes seconds and not minutes."""
    torch.compiler.reset()
    traced: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        traced.append(graph)
        return graph.forward

    class Counted(Towers):
        def compile(self, **options: Any) -> None:
            super().compile(backend=count)

    def open_counted(settings: TrainSettings, device: torch.device, dtype: torch.dtype | None) -> Family:
        return Counted(open_start(settings), device, dtype)

    for wanted, num_traced in ((False, 0), (True, 2)):
        settings = settings_of(shards, tmp_path / str(wanted), num_epochs=0.25, val_data=[], compile=wanted)
        train(settings, Console(quiet=True), open_counted)
        assert len(traced) == num_traced


def test_locked_towers_and_groups_keep_their_weights(shards: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    start = load_file(tiny_checkpoint / WEIGHTS)
    options = {"lock_image": True, "unlocked_image_groups": 1, "lock_text": True, "start": str(tiny_checkpoint)}
    settings = make_settings(shards / "train.tar", tmp_path / "run", num_epochs=0.5, report=False, **options)
    weights = weights_after(settings)
    moved = {name for name in weights if not torch.equal(weights[name], start[name])}
    assert moved
    assert all(name.startswith("visual.") or name == "logit_scale" for name in moved)
    assert any(name.startswith("visual.trunk.") for name in weights.keys() - moved)


def test_a_batch_larger_than_the_data_is_said_to_be_and_keeps_its_micro_batches(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"batch_size": 4096, "micro_batch_size": 16, "val_data": []}
    train(settings_of(shards, tmp_path / "run", **sizes, num_epochs=1.0), Console())
    assert "--batch-size 4096: a pass has 32 pairs, one batch" in capsys.readouterr().out


@pytest.mark.parametrize("saving", [{"micro_batch_size": 4}, {"checkpoint_activations": True}])
def test_batch_statistics_forbid_parts_and_second_passes(shards: Path, tmp_path: Path, saving: dict[str, Any]) -> None:
    settings = settings_of(shards, tmp_path / "run", architecture="anykey-tiny", **saving)
    with pytest.raises(InvalidRecipeError, match="set --batch-norm eval"):
        run(settings)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("gcl", "no pair has two sides that belong together: of 4 pairs 0 have no text and 4 have no image"),
        ("clip", "loss clip needs pairs with an image and a text: of 4 pairs 0 have no text and 4 have no image"),
    ],
)
def test_data_that_teaches_nothing_is_refused(shards: Path, tmp_path: Path, loss: str, message: str) -> None:
    rows = [json.dumps({"caption": f"photo {n}"}) for n in range(4)]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    with pytest.raises(InvalidRecipeError, match=message):
        run(settings_of(shards, tmp_path / "run", data=[str(tmp_path / "texts.jsonl")], loss=loss))


def test_a_model_of_which_nothing_trains_is_refused(shards: Path, tmp_path: Path) -> None:
    run(settings_of(shards, tmp_path / "start", num_epochs=0.25, val_data=[]))
    locks = {"lock_image": True, "lock_text": True, "learn_temperature": False}
    settings = settings_of(shards, tmp_path / "run", start=str(tmp_path / "start" / "last"), **locks)
    with pytest.raises(InvalidRecipeError, match="nothing learns"):
        run(settings)


def test_a_fixed_temperature_stays_where_it_is(shards: Path, tmp_path: Path) -> None:
    warm = {"temperature": 0.05, "num_epochs": 0.5}
    settings = settings_of(shards, tmp_path / "run", **warm, learn_temperature=False)
    assert weights_after(settings)["logit_scale"].exp().item() == pytest.approx(20.0)
    learned = settings_of(shards, tmp_path / "learned", **warm)
    assert weights_after(learned)["logit_scale"].exp().item() != pytest.approx(20.0, abs=1e-4)


def test_a_temperature_below_a_hundredth_is_where_a_learned_one_starts_and_a_fixed_one_stays(
    shards: Path, tmp_path: Path
) -> None:
    cold = {"temperature": 0.002, "num_epochs": 1.0}
    learned = weights_after(settings_of(shards, tmp_path / "learned", **cold))
    assert 490 < learned["logit_scale"].exp().item() <= 500.001
    fixed = weights_after(settings_of(shards, tmp_path / "fixed", **cold, learn_temperature=False))
    assert fixed["logit_scale"].exp().item() == pytest.approx(500.0, rel=1e-3)


@pytest.mark.parametrize("batch_norm", ["auto", pytest.param("train", marks=pytest.mark.slow)])
def test_a_locked_trunk_trains_on_cached_features(shards: Path, tmp_path: Path, batch_norm: str) -> None:
    short = {"architecture": str(shards / "timm.json"), "num_epochs": 0.25}
    start = weights_after(settings_of(shards, tmp_path / "start", **short))
    options = {"start": str(tmp_path / "start" / "last"), "lock_image": True, "mirror_images": True, "num_epochs": 0.5}
    run(settings_of(shards, tmp_path / "run", **options, batch_norm=batch_norm))
    weights = load_file(tmp_path / "run" / "last" / WEIGHTS)
    trunk = [name for name in weights if name.startswith("visual.trunk")]
    assert len(trunk) > 100
    assert all(torch.equal(weights[name], start[name]) for name in trunk)
    assert not torch.equal(weights["visual.head.proj.weight"], start["visual.head.proj.weight"])
    assert len(list((tmp_path / "run" / "features").glob("*.safetensors"))) == 2


@pytest.mark.slow
def test_a_locked_trunk_learns_the_same_without_the_pixel_cache(shards: Path, tmp_path: Path) -> None:
    run(settings_of(shards, tmp_path / "start", architecture=str(shards / "timm.json"), val_data=[]))
    start = str(tmp_path / "start" / "last")
    options = {"start": start, "lock_image": True, "feature_cache": tmp_path / "features"}
    first = weights_after(settings_of(shards, tmp_path / "a", **options))
    assert equal(weights_after(settings_of(shards, tmp_path / "b", **options, cache_images_bytes=0)), first)
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_a_run_needs_no_held_out_pairs(shards: Path, tmp_path: Path) -> None:
    result = run(settings_of(shards, tmp_path / "run", val_data=[]))
    assert result.best == {"step": 8}
    assert Encoder.load(tmp_path / "run" / "best").provenance["step"] == 8


def test_a_manifest_trains_like_a_shard(shards: Path, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "pairs.jsonl", PAIRS)
    from_shard = weights_after(settings_of(shards, tmp_path / "a", num_epochs=0.5))
    assert equal(weights_after(settings_of(shards, tmp_path / "b", num_epochs=0.5, data=[str(manifest)])), from_shard)


def test_fine_tuning_starts_where_the_checkpoint_ended(shards: Path, trained: Path, tmp_path: Path) -> None:
    changes = {"architecture": "anykey-tiny", "start": str(trained / "last"), "num_epochs": 0.25}
    run(settings_of(shards, tmp_path / "run", **changes))
    first = log_of(tmp_path / "run")[0]
    end = [row for row in log_of(trained) if f"val/{SELECTION_METRIC}" in row][-1]
    assert first["step"] == 0
    assert {name: first[name] for name in first if "local" in name} == pytest.approx(
        {name: end[name] for name in first if "local" in name}, abs=0.07
    )
    assert Encoder.load(tmp_path / "run" / "best").provenance["start"] == str(trained / "last")


def test_a_run_that_diverges_stops_and_leaves_the_last_good_weights(shards: Path, tmp_path: Path) -> None:
    explosive = {"learning_rate": 1.0, "weight_decay": 10.0, "num_epochs": 40.0, "warmup_share": 0.0}
    with pytest.raises(
        DivergedError, match=r"at step \d+: lower the learning rate \(1\).*unfinished/last holds the last good"
    ):
        run(settings_of(shards, tmp_path / "run", **explosive, val_every_epochs=0.25))
    weights = load_file(tmp_path / "run" / "unfinished" / "last" / WEIGHTS)
    assert all(tensor.isfinite().all() for tensor in weights.values())
    Encoder.load(tmp_path / "run" / "unfinished" / "last")
    assert not (tmp_path / "run" / "finished.json").exists()


def damaged(pairs: list[DrawnPair], count: int) -> list[DrawnPair]:
    return [DrawnPair(f"broken-{n}", b"no image", pair.captions) for n, pair in enumerate(pairs[:count])] + pairs[
        count:
    ]


@pytest.mark.parametrize("cache_images_bytes", [10**9, 0])
def test_bad_images_are_skipped_and_listed_once(shards: Path, tmp_path: Path, cache_images_bytes: int) -> None:
    write_shard(tmp_path / "train.tar", damaged(PAIRS, 3))
    options = {"data": [str(tmp_path / "train.tar")], "cache_images_bytes": cache_images_bytes, "max_bad_share": 0.1}
    run(settings_of(shards, tmp_path / "run", **options, num_epochs=2.0, batch_size=4, val_data=[]))
    rows = [json.loads(line) for line in (tmp_path / "run" / "bad_rows.jsonl").read_text().splitlines()]
    assert sorted(row["where"].partition("sample ")[2] for row in rows) == ["'broken-0'", "'broken-1'", "'broken-2'"]
    assert all(row["where"].startswith(str(tmp_path / "train.tar")) for row in rows)


@pytest.mark.parametrize("cache_images_bytes", [10**9, 0])
def test_too_many_bad_images_stop_the_run(shards: Path, tmp_path: Path, cache_images_bytes: int) -> None:
    write_shard(tmp_path / "train.tar", damaged(PAIRS, 8))
    options = {"data": [str(tmp_path / "train.tar")], "cache_images_bytes": cache_images_bytes, "max_bad_share": 0.2}
    with pytest.raises(TooManyBadRowsError, match=r"of 32 rows are bad, more than the share of 0\.2 allowed"):
        run(settings_of(shards, tmp_path / "run", **options, num_epochs=5.0, batch_size=4))


def test_data_without_a_readable_image_do_not_loop_for_ever(shards: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "train.tar", damaged(PAIRS, 32))
    options = {"data": [str(tmp_path / "train.tar")], "cache_images_bytes": 0, "max_bad_share": 1.0}
    with pytest.raises(NoPairsError, match="no batch has two readable images"):
        run(settings_of(shards, tmp_path / "run", **options))


def test_a_single_pair_is_not_enough(shards: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "one.tar", PAIRS[:1])
    with pytest.raises(InvalidRecipeError, match="at least 2 pairs, found 1"):
        run(settings_of(shards, tmp_path / "run", data=[str(tmp_path / "one.tar")]))


def test_identical_captions_train(shards: Path, tmp_path: Path) -> None:
    same = [DrawnPair(pair.name, pair.image, ("the same", "The  same")) for pair in PAIRS]
    write_shard(tmp_path / "same.tar", same)
    weights = weights_after(settings_of(shards, tmp_path / "run", data=[str(tmp_path / "same.tar")]))
    assert all(tensor.isfinite().all() for tensor in weights.values())
