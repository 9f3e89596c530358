"""Studies in miniature: drawn pairs, a network of a few thousand weights, runs of a few steps."""

from pathlib import Path
from typing import Any

from anykey.encoder.towers.architecture import write_open_clip_config
from anykey.training.study.settings import StudySettings
from tests.drawn_pairs import drawn_pairs, write_shard
from tests.networks import TEXT, small_architecture

PAIRS = drawn_pairs(32)


def write_study_data(folder: Path) -> Path:
    """Training, validation and test shards, and a small architecture."""
    write_shard(folder / "train.tar", PAIRS[:16])
    write_shard(folder / "val.tar", PAIRS[16:23])
    write_shard(folder / "test.tar", PAIRS[23:])
    write_open_clip_config(small_architecture(text={**TEXT, "layers": 1}), folder)
    return folder


def study_settings(data: Path, output: Path, /, **changes: Any) -> StudySettings:
    """One seed, one fusion, two variants: plain contrastive learning and GCL."""
    small: dict[str, Any] = {
        "data": [str(data / "train.tar")],
        "val_data": [str(data / "val.tar")],
        "test_data": [str(data / "test.tar")],
        "output": output,
        "device": "cpu",
        "seeds": [0],
        "fusions": ["raw"],
        "common": {
            "batch_size": 8,
            "report": False,
            "temperature": 0.01,
            "learn_temperature": False,
            "learning_rate": 1e-3,
        },
        "start": {"architecture": str(data / "open_clip_config.json"), "loss": "clip", "num_epochs": 2},
        "fine_tune": {"num_epochs": 1},
        "variants": [
            {
                "name": "clip",
                "why": "images | texts ---: no more",
                "fusion_matters": False,
                "settings": {"loss": "clip"},
            },
            {"name": "gcl-R2", "settings": {"loss": "gcl", "reading": "R2"}},
        ],
    }
    return StudySettings(**{**small, **changes})
