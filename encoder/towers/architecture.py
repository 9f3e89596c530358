"""Which network an encoder is, and how it is built with open_clip."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg
from torch import nn

from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError, MissingPartError
from anykey.encoder.hugging_face import require_transformers, without_network
from anykey.encoder.padding import Padding, use_same_padding
from anykey.encoder.preprocessing import preprocess_cfg
from anykey.encoder.towers.extensions import is_extended, put_extensions, without_extensions

BUILT_IN = Path(__file__).with_name("anykey-tiny.json")
# TinyCLIP's published networks of ordinary shape: image tower (layers, width, patch side), text tower (layers, width),
# and D. All have heads of 64, contexts of 77, images of 224, and GELU.
TINYCLIP: dict[str, tuple[Any, int, int | None, int, int, int]] = {
    "TinyCLIP-ViT-8M-16-Text-3M": (10, 256, 16, 3, 256, 512),
    "TinyCLIP-ViT-39M-16-Text-19M": (12, 512, 16, 6, 512, 512),
    "TinyCLIP-ViT-40M-32-Text-19M": (12, 512, 32, 6, 512, 512),
    "TinyCLIP-ViT-61M-32-Text-29M": (12, 640, 32, 9, 512, 512),
    "TinyCLIP-ResNet-19M-Text-19M": ([3, 4, 6, 3], 44, None, 6, 512, 1024),
    "TinyCLIP-ResNet-30M-Text-29M": ([3, 4, 6, 3], 56, None, 9, 512, 1024),
}
_OF_TINYCLIP = ("mask_image", "mask_text", "sparsity_warmup", "start_sparsity", "target_sparsity")  # of its trainer


@dataclass(frozen=True)
class Architecture:
    """A network without its weights.

    Attributes:
        name: For people; an open_clip name or a file's stem.
        model_cfg: open_clip's model configuration.
        preprocess_cfg: Overrides of open_clip's `PreprocessCfg`: `mean`, `std`, `resize_mode`, ...
        padding: How the image tower pads.
        tokenizer_dir: Holds the files of its Hugging Face tokenizer; `None`: they are in Hugging Face's cache.
    """

    name: str
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any] = field(default_factory=dict)
    padding: Padding = Padding.SYMMETRIC
    tokenizer_dir: Path | None = None

    @property
    def width(self) -> int:
        """D, the vectors' width."""
        return int(self.model_cfg["embed_dim"])

    @property
    def hf_tokenizer_name(self) -> str:
        """The Hugging Face tokenizer of the texts; empty for CLIP's own."""
        return str(self.model_cfg["text_cfg"].get("hf_tokenizer_name") or "")

    @property
    def is_extended(self) -> bool:
        """Whether it has parts that open_clip alone cannot build."""
        return is_extended(self.model_cfg)

    @property
    def uses_timm(self) -> bool:
        """Whether the image tower comes from timm."""
        return "timm_model_name" in self.model_cfg.get("vision_cfg", {})


def register_built_in() -> None:
    """Makes `anykey-tiny` known to open_clip under that name."""
    if BUILT_IN.stem not in open_clip.list_models():
        open_clip.add_model_config(BUILT_IN)


def read_architecture(source: str | Path) -> Architecture:
    """Finds an architecture by open_clip name or reads it from a JSON file.

    Args:
        source: `ViT-B-32`, `anykey-tiny`, ..., or a path to an open_clip model configuration, either bare
            or as `{"model_cfg": ..., "preprocess_cfg": ...}`.

    Raises:
        CheckpointNotFoundError: neither a known name nor a file.
        CheckpointCorruptError: the file is no open_clip configuration.
    """
    register_built_in()
    path = Path(source)
    if path.suffix == ".json":
        return _read_json(path)
    name = str(source).replace("/", "-")
    if name in TINYCLIP:
        return Architecture(name, tinyclip_cfg(name))
    model_cfg = open_clip.get_model_config(name) if name in open_clip.list_models() else None  # never `hf-hub:`
    if model_cfg is None:
        raise CheckpointNotFoundError(
            f"'{source}' is no open_clip architecture and no .json file (anykey-tiny, ViT-B-32, ... are known)"
        )
    return Architecture(str(source), model_cfg)


def tinyclip_cfg(name: str) -> dict[str, Any]:
    """open_clip's configuration of one of `TINYCLIP`."""
    layers, width, patch, text_layers, text_width, embed_dim = TINYCLIP[name]
    text_cfg = {"context_length": 77, "vocab_size": 49408, "width": text_width, "heads": text_width // 64}
    return {
        "embed_dim": embed_dim,
        "vision_cfg": {"image_size": 224, "layers": layers, "width": width, "patch_size": patch},
        "text_cfg": {**text_cfg, "layers": text_layers},
    }


def read_tag(name: str, tag: str) -> Architecture:
    """The architecture of open_clip's pretrained weights, with the activation and preprocessing they were made with.

    Args:
        name: An open_clip name; the plain one and the one that ends in `-quickgelu` are the same with a tag.
        tag: One of its pretrained weights.
    """
    architecture = read_architecture(name)
    said = get_pretrained_cfg(name, tag)
    model_cfg = {**architecture.model_cfg}
    if "quick_gelu" in said:
        model_cfg["quick_gelu"] = said["quick_gelu"]
    known = asdict(PreprocessCfg())
    preprocess_cfg = {key: value for key, value in said.items() if key in known and value is not None}
    return Architecture(name, model_cfg, preprocess_cfg)


def build(architecture: Architecture, may_fetch: bool = False) -> nn.Module:
    """Builds the network with random weights, without network; `model.visual.preprocess_cfg` is its preprocessing.

    Args:
        architecture: The network.
        may_fetch: Let the configuration of a Hugging Face text tower come over the network.

    Raises:
        CheckpointCorruptError: open_clip cannot build this configuration.
        MissingPartError: its text tower comes from Hugging Face, and library or configuration are not here.
    """
    hf_model_name = architecture.model_cfg["text_cfg"].get("hf_model_name")
    if hf_model_name:
        require_transformers(architecture.name)
    with TemporaryDirectory() as folder, _quiet(), nullcontext() if may_fetch else without_network():
        write_open_clip_config(architecture, Path(folder), without_extensions(open_clip_cfg(architecture)))
        try:
            model: nn.Module = open_clip.create_model(
                f"local-dir:{folder}", load_weights=False, pretrained_text=False, device=torch.get_default_device()
            )
            put_extensions(model, architecture.model_cfg)
        except OSError as error:
            raise MissingPartError(
                f"{architecture.name} needs Hugging Face's configuration of {hf_model_name}, which is not on this "
                f"machine; fetch it once with `hf download {hf_model_name} config.json`"
            ) from error
        except (
            RuntimeError,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            AssertionError,
            ArithmeticError,
        ) as error:
            raise CheckpointCorruptError(f"open_clip cannot build architecture {architecture.name}: {error}") from error
    if architecture.padding is Padding.SAME:
        use_same_padding(model.visual)  # type: ignore[arg-type]
    return model


def write_open_clip_config(architecture: Architecture, folder: Path, model_cfg: dict[str, Any] | None = None) -> None:
    """Writes `open_clip_config.json`, from which open_clip's `local-dir:` builds the same network.

    Args:
        architecture: The network.
        folder: Where the file goes.
        model_cfg: To be written in the place of the architecture's own.
    """
    preprocess_cfg = preprocessing(architecture)
    config = {
        "model_cfg": model_cfg or open_clip_cfg(architecture),
        "preprocess_cfg": {**asdict(preprocess_cfg), "size": preprocess_cfg.size},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def open_clip_cfg(architecture: Architecture) -> dict[str, Any]:
    """open_clip's model configuration, a copy; no tower fetches weights of its own."""
    model_cfg = deepcopy(architecture.model_cfg)
    if architecture.uses_timm:
        model_cfg["vision_cfg"]["timm_model_pretrained"] = False
    return model_cfg


def preprocessing(architecture: Architecture) -> PreprocessCfg:
    """open_clip's preprocessing for this architecture: its defaults, then the overrides, then the tower's size.

    Raises:
        CheckpointCorruptError: a value is none that open_clip prepares images by; names it.
    """
    overrides = {"size": architecture.model_cfg["vision_cfg"].get("image_size", 224), **architecture.preprocess_cfg}
    return preprocess_cfg(architecture.name, overrides)


def _read_json(path: Path) -> Architecture:
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(f"architecture file {path} does not exist") from error
    except (OSError, ValueError) as error:
        raise CheckpointCorruptError(f"{path} is not a JSON file: {error}") from error
    model_cfg = config.get("model_cfg", config) if isinstance(config, dict) else None
    kinds = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
    if not isinstance(model_cfg, dict) or not all(isinstance(model_cfg.get(name), kinds[name]) for name in kinds):
        raise CheckpointCorruptError(
            f"{path} is no open_clip configuration: needs embed_dim (a number), vision_cfg and text_cfg (objects)"
        )
    model_cfg = {name: value for name, value in model_cfg.items() if name not in _OF_TINYCLIP}
    preprocess_cfg = config.get("preprocess_cfg", {})
    if not isinstance(preprocess_cfg, dict):
        raise CheckpointCorruptError(f"{path}: preprocess_cfg must be an object")
    return Architecture(path.stem, model_cfg, preprocess_cfg)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences open_clip's remarks on the root logger, such as that weights are random before we load them."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
