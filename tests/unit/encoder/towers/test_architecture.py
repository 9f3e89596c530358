"""Networks are built as configured, or refused with the reason."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.towers.architecture import (
    build,
    open_clip_cfg,
    preprocessing,
    read_architecture,
)
from anykey.encoder.towers.tokens import Tokenizer
from tests.networks import TEXT, TIMM_VISION, VISION, small_architecture


def test_anykey_tiny_is_built_in() -> None:
    architecture = read_architecture("anykey-tiny")
    assert architecture.width == 128
    assert preprocessing(architecture).size == 64


def test_open_clip_names_are_known() -> None:
    assert read_architecture("ViT-B-32").width == 512


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_json_file_is_an_architecture(tmp_path: Path, wrapped: bool, encoding: str) -> None:
    model_cfg = small_architecture().model_cfg
    config = {"model_cfg": model_cfg, "preprocess_cfg": {"mean": [0.5] * 3}} if wrapped else model_cfg
    (tmp_path / "mine.json").write_text(json.dumps(config), encoding=encoding)
    architecture = read_architecture(tmp_path / "mine.json")
    assert (architecture.name, architecture.width) == ("mine", 16)
    assert tuple(preprocessing(architecture).mean) == (
        (0.5,) * 3 if wrapped else preprocessing(small_architecture()).mean
    )


@pytest.mark.parametrize("source", ["nosuch-tower", "", "hf-hub:someone/model", "/nowhere/mine.json"])
def test_an_unknown_architecture_is_not_found(source: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"no open_clip architecture|does not exist"):
        read_architecture(source)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not a JSON file"),
        ("\xff\xfe", "no open_clip configuration|not a JSON file"),
        ("[1, 2]", "needs embed_dim"),
        ("null", "needs embed_dim"),
        ("{}", "needs embed_dim"),
        ('{"model_cfg": {"embed_dim": 16}}', "needs embed_dim"),
        ('{"embed_dim": "x", "vision_cfg": {}, "text_cfg": {}}', "needs embed_dim .a number."),
        ('{"embed_dim": 16, "vision_cfg": 3, "text_cfg": {}}', "vision_cfg and text_cfg .objects."),
        ('{"model_cfg": {"embed_dim": 16, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": [1]}', "preprocess_cfg"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_with_the_reason(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointCorruptError, match=reason):
        read_architecture(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"bogus": 1},
        {"embed_dim": -1},
        {"vision": {"timm_model_name": "no_such_tower"}},
        {"vision": {**VISION, "layers": "many"}},
        {"text": {"bogus": 1}},
        {"vision": {**VISION, "patch_size": 0}},
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointCorruptError, match="cannot build architecture small"):
        build(small_architecture(**changes))


def test_unknown_preprocessing_keys_are_named() -> None:
    with pytest.raises(CheckpointCorruptError, match="'colour'"):
        preprocessing(small_architecture(preprocess={"colour": 1}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 0),
        ("size", "224"),
        ("size", [224]),
        ("mode", "BGR"),
        ("mean", [0.5, 0.5]),
        ("mean", "grey"),
        ("std", [0.2, 0.0, 0.2]),
        ("std", [0.2, float("nan"), 0.2]),
        ("interpolation", "lanczos"),
        ("resize_mode", "crop"),
        ("fill_color", 256),
    ],
)
def test_preprocessing_that_would_fail_at_the_first_image_is_refused(key: str, value: object) -> None:
    with pytest.raises(CheckpointCorruptError, match=f"small: preprocessing key '{key}': .*, got"):
        build(small_architecture(preprocess={key: value}))


def test_a_tokenizer_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(CheckpointCorruptError, match=r"small: its text_cfg makes no tokenizer: .*bogus"):
        Tokenizer(small_architecture(text={**TEXT, "tokenizer_kwargs": {"bogus": 1}}))
    with pytest.raises(CheckpointCorruptError, match="context_length must be at least 3, got 2"):
        Tokenizer(small_architecture(text={**TEXT, "context_length": 2}))


def test_preprocessing_overrides_reach_the_model() -> None:
    overrides = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "resize_mode": "squash"}
    model: Any = build(small_architecture(preprocess=overrides))
    assert tuple(model.visual.preprocess_cfg["mean"]) == (0.1, 0.2, 0.3)
    assert model.visual.preprocess_cfg["resize_mode"] == "squash"
    assert model.visual.preprocess_cfg["size"] in (32, (32, 32), [32, 32])


def test_no_tower_asks_for_weights_of_its_own() -> None:
    architecture = small_architecture(vision={**TIMM_VISION, "timm_model_pretrained": True})
    assert open_clip_cfg(architecture)["vision_cfg"]["timm_model_pretrained"] is False
    assert architecture.model_cfg["vision_cfg"]["timm_model_pretrained"] is True  # the original is not touched
    build(architecture)  # the network is blocked in tests


def test_building_leaves_the_root_logger_as_it_was() -> None:
    root = logging.getLogger()
    level = root.level
    with pytest.raises(CheckpointCorruptError):
        build(small_architecture(bogus=1))
    build(small_architecture())
    assert root.level == level
