"""What is no encoder of two towers is refused in one line that says what it is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from anykey.encoder import Encoder
from anykey.encoder.errors import CheckpointError


def tensors(*names: str) -> dict[str, Tensor]:
    return {name: torch.ones(50) for name in names}


def of_torch(*names: str) -> Callable[[Path], None]:
    return lambda path: torch.save(tensors(*names), path)


def of_safetensors(*names: str) -> Callable[[Path], None]:
    return lambda path: save_file(tensors(*names), path)


def of_bytes(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def cut_torch(path: Path) -> None:
    torch.save(tensors("a"), path)
    path.write_bytes(path.read_bytes()[:-200])


def folder_of(**files: object) -> Callable[[Path], None]:
    """A folder with these JSON files, whose names have `__` for a dot."""

    def write(path: Path) -> None:
        path.mkdir()
        for name, content in files.items():
            (path / name.replace("__", ".")).write_text(json.dumps(content))

    return write


def cache(path: Path) -> None:
    (path / "refs").mkdir(parents=True)
    (path / "snapshots" / "abc").mkdir(parents=True)


WHOLE = save(tensors("a"))
STRANGERS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "VISTA": ("v.pth", of_torch("bge_encoder.layer.0.w", "visual_proj.weight"), "it is VISTA"),
    "BERT": ("model.safetensors", of_safetensors("bert.encoder.layer.0.w"), "it is a BERT for texts alone"),
    "a BERT's directory": ("bert", folder_of(config__json={"model_type": "bert"}), "config.json is of a bert model"),
    "diffusers": ("sd", folder_of(model_index__json={}), "it is a pipeline of diffusers"),
    "a diffusion model": ("unet.safetensors", of_safetensors("down_blocks.0.w"), "it is a part of a diffusion model"),
    "ONNX": ("model.onnx", of_bytes(b"\x08\x07\x12\x07pytorch"), "it is an ONNX file"),
    "a folder of ONNX": ("onnx", folder_of(model__onnx={}), "it is a folder of which model.onnx is an ONNX file"),
    "half of safetensors": ("m.safetensors", of_bytes(WHOLE[:-9]), f"{len(WHOLE) - 9} of {len(WHOLE)} bytes: fetch it"),
    "a part of its header": ("m.safetensors", of_bytes(WHOLE[:20]), "it is the beginning of a safetensors file"),
    "half of torch.save": ("m.pt", cut_torch, "it is the beginning of a file of torch.save, .* end is missing"),
    "Git LFS": ("m.pt", of_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "it is a pointer of Git LFS"),
    "a page": ("m.pt", of_bytes(b"<!doctype html><p>404"), "it is a page of a web site"),
    "empty": ("m.pt", of_bytes(b""), "it is empty"),
    "an empty folder": ("f", folder_of(), "it is empty"),
    "LoRA": ("lora", folder_of(adapter_config__json={"base_model_name_or_path": "a/b"}), "is a LoRA adapter of a/b"),
    "LoRA's weights": ("l.safetensors", of_safetensors("visual.lora_A.weight"), "is a LoRA adapter"),
    "a cache": ("models--a--b", cache, "name the one within it, .*/snapshots/abc$"),
    "a folder of a file": ("f", folder_of(weights__pt={}), r"name the file itself \(weights\.pt\)"),
    "a file of a directory": (
        "model.safetensors",
        of_safetensors("vision_model.embeddings.patch_embedding.weight", "text_model.embeddings.w"),
        "name the directory that it belongs to",
    ),
    "one tower": ("m.pt", of_torch("visual.conv1.weight"), "it is the image tower of a model without its text tower"),
    "nothing known": ("m.pt", of_torch("a.b", "c.d"), r"names that no known layout has \(a\.b, c\.d, \.\.\.\)"),
    "a text": ("notes.txt", of_bytes(b"hello"), "is damaged or no weights file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_stranger_is_refused_by_what_it_is(kind: str, tmp_path: Path) -> None:
    name, write, said = STRANGERS[kind]
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=said) as caught:
        Encoder.load(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_a_stranger_are_told_where_the_architecture_is_named(tmp_path: Path) -> None:
    torch.save(tensors("bge_encoder.layer.0.w"), tmp_path / "v.pth")
    with pytest.raises(CheckpointError, match="does not fit the architecture: it is VISTA"):
        Encoder.load(f"anykey-tiny@{tmp_path / 'v.pth'}")
