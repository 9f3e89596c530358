"""A checkpoint directory is whole or absent; what does not belong together is refused with the reason."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.fusion import Fusion
from anykey.encoder.padding import Padding
from anykey.encoder.towers.architecture import Architecture
from anykey.encoder.towers.checkpoint import fingerprint, read_checkpoint, save_checkpoint
from anykey.encoder.towers.encoder import load_checkpoint
from anykey.encoder.towers.weights import load_weights
from tests.full_disk import no_file_beyond
from tests.networks import TIMM_VISION, VISION, build_seeded, small_architecture

WEIGHTS = "open_clip_model.safetensors"
PROVENANCE = {"made_by": "tests", "step": 7, "held_out": {"local": 0.5}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint directory of the small architecture."""
    save(tmp_path / "best")
    return tmp_path / "best"


def save(path: Path, seed: int = 0, architecture: Architecture | None = None, fusion: Fusion = Fusion.RAW) -> str:
    architecture = architecture or small_architecture()
    return save_checkpoint(path, architecture, build_seeded(architecture, seed).state_dict(), fusion, PROVENANCE)


def edit_manifest(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "encoder.json").read_text())
    (path / "encoder.json").write_text(json.dumps({**manifest, **changes}))


def refused(path: Path, reason: str) -> None:
    with pytest.raises(CheckpointCorruptError, match=reason):
        read_checkpoint(path)


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    architecture = small_architecture(preprocess={"mean": (0.5, 0.5, 0.5), "resize_mode": "squash"})
    identity = save(tmp_path / "new" / "best", architecture=architecture, fusion=Fusion.UNIT)
    checkpoint = read_checkpoint(tmp_path / "new" / "best")
    assert checkpoint.fingerprint == identity
    assert checkpoint.fusion is Fusion.UNIT
    assert checkpoint.provenance == PROVENANCE
    assert checkpoint.architecture.name == "small"
    expected = build_seeded(architecture).state_dict()
    found = checkpoint.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("named", [{}, {"timm_model_pretrained": True}, {"timm_model_pretrained": False}])
def test_a_timm_tower_is_read_back_whatever_its_configuration_says_of_pretraining(
    tmp_path: Path, named: dict[str, bool]
) -> None:
    identity = save(tmp_path / "best", architecture=small_architecture(vision={**TIMM_VISION, **named}))
    assert read_checkpoint(tmp_path / "best").fingerprint == identity


def test_same_padding_survives(tmp_path: Path) -> None:
    architecture = small_architecture(vision=TIMM_VISION, padding=Padding.SAME)
    save(tmp_path / "best", architecture=architecture)
    checkpoint = read_checkpoint(tmp_path / "best")
    assert checkpoint.architecture.padding is Padding.SAME
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(
            checkpoint.model.eval().encode_image(pixels), build_seeded(architecture).encode_image(pixels)
        )


def change_a_weight(architecture: Architecture, weights: dict[str, torch.Tensor], fusion: Fusion) -> tuple[Any, ...]:
    name = sorted(weights)[3]
    changed = weights[name].clone()
    changed.view(-1)[-1] += 1e-3
    return architecture, {**weights, name: changed}, fusion


CHANGES: dict[str, Callable[..., tuple[Any, ...]]] = {
    "one weight": change_a_weight,
    "a weight's name": lambda a, w, f: (a, {name + "2" if name == "logit_scale" else name: w[name] for name in w}, f),
    "fusion": lambda a, w, f: (a, w, Fusion.UNIT),
    "mean": lambda a, w, f: (replace(a, preprocess_cfg={"mean": (0.5, 0.5, 0.5)}), w, f),
    "resize mode": lambda a, w, f: (replace(a, preprocess_cfg={"resize_mode": "squash"}), w, f),
    "padding": lambda a, w, f: (replace(a, padding=Padding.SAME), w, f),
    "configuration": lambda a, w, f: (replace(a, model_cfg={**a.model_cfg, "quick_gelu": True}), w, f),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_changes_with_whatever_changes_a_vector(change: str) -> None:
    facts = (small_architecture(), build_seeded(small_architecture()).state_dict(), Fusion.RAW)
    assert fingerprint(*CHANGES[change](*facts)) != fingerprint(*facts)


def test_the_fingerprint_does_not_change_with_the_name_or_the_order() -> None:
    architecture, weights = small_architecture(), build_seeded(small_architecture()).state_dict()
    renamed, reordered = replace(architecture, name="other"), dict(reversed(weights.items()))
    assert fingerprint(renamed, reordered, Fusion.RAW) == fingerprint(architecture, weights, Fusion.RAW)
    assert fingerprint(architecture, weights, Fusion.RAW).startswith("sha256:")


def test_truncated_weights_are_refused(saved: Path) -> None:
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(data[: len(data) // 2])
    refused(saved, "is damaged or no weights file")


@pytest.mark.parametrize("data", [b"", b"not weights at all"])
def test_weights_that_are_none_are_refused(saved: Path, data: bytes) -> None:
    (saved / WEIGHTS).write_bytes(data)
    refused(saved, "is damaged or no weights file")


def test_a_flipped_byte_is_found(saved: Path) -> None:
    data = bytearray((saved / WEIGHTS).read_bytes())
    data[-1000] ^= 1
    (saved / WEIGHTS).write_bytes(bytes(data))
    refused(saved, "changed since training: encoder.json says fingerprint sha256:")


def test_missing_weights_are_refused(saved: Path) -> None:
    (saved / WEIGHTS).unlink()
    refused(saved, f"has no weights: expected {WEIGHTS}")


def test_weights_of_another_architecture_are_refused_with_what_differs(saved: Path, tmp_path: Path) -> None:
    other = small_architecture(vision={**VISION, "layers": 2})
    save(tmp_path / "other", architecture=other)
    shutil.copy(tmp_path / "other" / WEIGHTS, saved / WEIGHTS)
    refused(saved, r"does not fit the architecture: .*visual\.transformer\.resblocks\.1")


def test_weights_of_another_width_are_refused(saved: Path, tmp_path: Path) -> None:
    save(tmp_path / "other", architecture=small_architecture(embed_dim=24))
    shutil.copy(tmp_path / "other" / WEIGHTS, saved / WEIGHTS)
    refused(saved, "does not fit the architecture: .*size mismatch")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 512}, "encoder.json says width 512, open_clip_config.json says 16"),
        ({"fusion": "product"}, "'product' is not a valid Fusion"),
        ({"padding": "zero"}, "'zero' is not a valid Padding"),
        ({"fusion": "unit"}, "fingerprint"),
        ({"format": 2}, "expected an object with format 1"),
    ],
)
def test_a_manifest_that_contradicts_the_files_is_refused(saved: Path, changes: dict[str, Any], reason: str) -> None:
    edit_manifest(saved, **changes)
    refused(saved, reason)


@pytest.mark.parametrize("content", [b"{", b"[]", b"3", b"\xff\xfe"])
def test_a_manifest_that_is_no_json_object_is_refused(saved: Path, content: bytes) -> None:
    (saved / "encoder.json").write_bytes(content)
    refused(saved, "encoder.json")


def test_a_changed_configuration_is_found(saved: Path) -> None:
    path = saved / "open_clip_config.json"
    path.write_text(path.read_text().replace('"bicubic"', '"bilinear"'))
    refused(saved, "weights or configuration changed since training")


def test_a_missing_directory_or_configuration_is_not_found(saved: Path, tmp_path: Path) -> None:
    (saved / "open_clip_config.json").unlink()
    for path in (saved, tmp_path / "nowhere"):
        with pytest.raises(CheckpointNotFoundError, match=r"expected open_clip_config\.json in it"):
            read_checkpoint(path)


def test_a_directory_of_open_clip_without_our_manifest_is_read_with_raw_fusion(saved: Path) -> None:
    identity = read_checkpoint(saved).fingerprint
    (saved / "encoder.json").unlink()
    checkpoint = read_checkpoint(saved)
    assert (checkpoint.fusion, checkpoint.fingerprint) == (Fusion.RAW, identity)


def test_every_file_may_be_read_by_the_same_users(saved: Path) -> None:
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1


def test_saving_again_replaces_the_checkpoint_and_leaves_nothing_behind(saved: Path) -> None:
    second = save(saved, seed=1)
    assert read_checkpoint(saved).fingerprint == second
    assert [path.name for path in saved.parent.iterdir()] == ["best"]


def test_a_full_disk_leaves_the_old_checkpoint_usable(saved: Path) -> None:
    before = read_checkpoint(saved).fingerprint
    with no_file_beyond(100_000), pytest.raises(OSError, match="cannot write"):
        save(saved, seed=1)
    assert read_checkpoint(saved).fingerprint == before
    assert [path.name for path in saved.parent.iterdir()] == ["best"]


def test_a_failed_last_rename_puts_the_old_checkpoint_back(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = read_checkpoint(saved).fingerprint, Path.rename

    def refuse_the_new(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise PermissionError("the file system says no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new)
    with pytest.raises(PermissionError, match="the file system says no"):
        save(saved, seed=1)
    assert read_checkpoint(saved).fingerprint == before
    assert [path.name for path in saved.parent.iterdir()] == ["best"]


def test_provenance_that_is_no_json_leaves_the_old_checkpoint_usable(saved: Path) -> None:
    architecture = small_architecture()
    with pytest.raises(TypeError):
        save_checkpoint(saved, architecture, build_seeded(architecture, 1).state_dict(), Fusion.RAW, {"path": object()})
    assert read_checkpoint(saved).provenance == PROVENANCE
    assert [path.name for path in saved.parent.iterdir()] == ["best"]


def test_a_name_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "best").write_text("mine")
    with pytest.raises(OSError, match="best"):
        save(tmp_path / "best" / "inner")
    assert (tmp_path / "best").read_text() == "mine"


class TestArchitectureAtFile:
    """Sources of the form `ARCHITECTURE@FILE`."""

    @pytest.fixture
    def architecture_file(self, tmp_path: Path) -> Path:
        path = tmp_path / "small.json"
        path.write_text(json.dumps(small_architecture().model_cfg))
        return path

    def test_a_configuration_and_weights_make_a_checkpoint(self, saved: Path, architecture_file: Path) -> None:
        checkpoint = load_checkpoint(f"{architecture_file}@{saved / WEIGHTS}")
        assert checkpoint.fingerprint == read_checkpoint(saved).fingerprint
        assert checkpoint.fusion is Fusion.RAW

    def test_weights_in_torchs_own_format_are_read(self, saved: Path, architecture_file: Path) -> None:
        torch.save(load_file(saved / WEIGHTS), saved / "weights.pt")
        checkpoint = load_checkpoint(f"{architecture_file}@{saved / 'weights.pt'}")
        assert checkpoint.fingerprint == read_checkpoint(saved).fingerprint

    def test_half_precision_weights_are_widened(self, saved: Path, architecture_file: Path) -> None:
        halves = {name: tensor.half() for name, tensor in load_file(saved / WEIGHTS).items()}
        save_file(halves, saved / "half.safetensors")
        model = load_checkpoint(f"{architecture_file}@{saved / 'half.safetensors'}").model
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}

    def test_a_missing_file_is_not_found(self, architecture_file: Path) -> None:
        with pytest.raises(CheckpointNotFoundError, match=r"weights file /nowhere\.pt does not exist"):
            load_checkpoint(f"{architecture_file}@/nowhere.pt")

    @pytest.mark.parametrize("suffix", [".pt", ".bin", ".npz", ".safetensors"])
    @pytest.mark.parametrize("data", [b"", b"garbage", b"garbage" * 1000])
    def test_rubbish_is_refused(self, architecture_file: Path, tmp_path: Path, suffix: str, data: bytes) -> None:
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(data)
        with pytest.raises(CheckpointCorruptError, match="is damaged or no weights file") as caught:
            load_checkpoint(f"{architecture_file}@{path}")
        assert "\n" not in str(caught.value)

    def test_a_pickle_of_something_else_is_refused(self, architecture_file: Path, tmp_path: Path) -> None:
        torch.save([1, 2, 3], tmp_path / "list.pt")
        with pytest.raises(CheckpointCorruptError, match="is damaged or no weights file"):
            load_checkpoint(f"{architecture_file}@{tmp_path / 'list.pt'}")


@pytest.mark.parametrize("source", ["ViT-B-32/no-such-tag", "hf-hub:someone/model", "anykey-tiny", "nowhere", ""])
def test_a_source_that_is_no_known_tag_is_refused_without_the_network(source: str) -> None:
    with pytest.raises(CheckpointNotFoundError):
        load_checkpoint(source)


def test_a_tag_that_cannot_be_fetched_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointNotFoundError, match="cannot fetch the pretrained weights RN50/yfcc15m"):
        load_checkpoint("RN50/yfcc15m")


def test_loading_weights_is_strict(saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    save_file({**weights, "extra": torch.zeros(1)}, saved / WEIGHTS)
    with pytest.raises(CheckpointCorruptError, match="extra"):
        load_weights(build_seeded(small_architecture()), saved / WEIGHTS)
