"""What a file, a folder or a set of tensors is, where it is no weights of two towers; in words that end a sentence."""

import json
import zipfile
from collections.abc import Collection
from pathlib import Path

_WEIGHTS = (".pt", ".pth", ".bin", ".safetensors", ".npz")
_HEAD_BYTES = 512
_MAX_HEADER_BYTES = 100_000_000  # of safetensors, by its own rule
_BEGINNINGS = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, and not the file that it stands for: fetch that with git lfs pull",
    ),
    (b"<!DOCTYPE", "a page of a web site that was saved in the place of the file"),
    (b"<html", "a page of a web site that was saved in the place of the file"),
    (b"GGUF", "a GGUF file of llama.cpp"),
    (b"\x89HDF", "an HDF5 file, as Keras and TensorFlow write them"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"<?xml", "an XML file"),
)
_ENDINGS = {
    ".onnx": "an ONNX file, which holds a program without the network's names for its weights: take the PyTorch "
    "weights that it was made from",
    ".msgpack": "Flax's weights: take the PyTorch ones",
    ".h5": "TensorFlow's weights: take the PyTorch ones",
    ".tflite": "a TensorFlow Lite file: take the PyTorch weights that it was made from",
    ".incomplete": "a download that was not finished",
    ".part": "a download that was not finished",
}
_VISTA = (
    "VISTA (Visualized-BGE), one network for image and text: put it into a directory with its text encoder's "
    "config.json and tokenizer, and name that"
)
# A part of a tensor's name, and what has such tensors; the first that fits counts.
_TENSORS = (
    ("lora_A", "a LoRA adapter, which changes another model: merge it into that one first (merge_and_unload of peft)"),
    ("lora_down", "a LoRA adapter, which changes another model: merge it into that one first"),
    ("bge_encoder.", _VISTA),
    ("bge_embeddings.", _VISTA),
    ("model.diffusion_model.", "Stable Diffusion, which makes images and has no vectors to search with"),
    ("down_blocks.", "a part of a diffusion model, which makes images and has no vectors to search with"),
    ("visual_encoder.", "BLIP or another network of one encoder across both modalities"),
    ("qformer.", "BLIP-2"),
    ("bert.encoder.layer.", "a BERT for texts alone; an encoder needs an image tower too"),
    ("roberta.encoder.layer.", "a RoBERTa for texts alone; an encoder needs an image tower too"),
    ("encoder.layer.0.attention.self.", "a BERT for texts alone; an encoder needs an image tower too"),
    ("model.layers.0.self_attn.", "a language model"),
    ("layers.0.self_attn.", "a language model"),
    ("blocks.0.attn.qkv.", "an image network alone; an encoder needs a text tower too"),
    ("layer1.0.conv1.", "an image network alone; an encoder needs a text tower too"),
    ("vit.encoder.", "an image network alone; an encoder needs a text tower too"),
)
_MAY_BE_TOWERS = ("visual.", "vision_model.", "image_encoder.")  # where names above may stand for parts of a tower


def what_file_is(path: Path) -> str | None:
    """What a file is that holds no weights, by how it begins and ends; `None` where that tells nothing."""
    size = path.stat().st_size
    if size == 0:
        return "empty"
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    for beginning, kind in _BEGINNINGS:
        if head.lstrip()[: len(beginning)].lower() == beginning.lower():
            return kind
    if path.suffix in _ENDINGS:
        return _ENDINGS[path.suffix]
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        return f"the beginning of a file of torch.save, {size:,} bytes, whose end is missing: fetch it again"
    if path.suffix == ".safetensors" and (whole := _whole_size(path)) is not None and size < whole:
        return f"the beginning of a safetensors file, {size:,} of {whole:,} bytes: fetch it again"
    if path.suffix == ".json":
        return "a JSON file and no weights"
    return None


def _whole_size(path: Path) -> int | None:
    """How many bytes a safetensors file has by its own header; `None` where that is no such header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if not 2 <= header_bytes <= _MAX_HEADER_BYTES or file.read(1) != b"{":
            return None
        if header_bytes + 8 > size:
            return header_bytes + 8
        try:
            entries = json.loads(b"{" + file.read(header_bytes - 1))
            ends = [int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"]
            return header_bytes + 8 + max(ends)
        except (ValueError, TypeError, LookupError, AttributeError):
            return None


def what_tensors_are(names: Collection[str]) -> str | None:
    """What a set of tensors belongs to, by their names; `None` where those tell nothing."""
    may_be_towers = any(name.startswith(_MAY_BE_TOWERS) for name in names)
    for part, kind in _TENSORS[:4] if may_be_towers else _TENSORS:
        if any(part in name for name in names):
            return kind
    has_image = any(name.startswith(("vision_model.", "visual.", "image_encoder.")) for name in names)
    has_text = any(name.startswith(("text_model.", "text.", "token_embedding.", "text_encoder.")) for name in names)
    if has_image != has_text:
        own, other = ("image", "text") if has_image else ("text", "image")
        return f"the {own} tower of a model without its {other} tower; an encoder needs both"
    return None


def weights_files(folder: Path) -> list[Path]:
    """The files in a folder that are called as weights are."""
    return sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS and path.is_file())


def what_folder_is(folder: Path) -> str | None:
    """What a folder is that holds no encoder, by the files in it; `None` where those tell nothing."""
    names = {path.name for path in folder.iterdir()}
    if "adapter_config.json" in names:
        base = _named(folder / "adapter_config.json", "base_model_name_or_path")
        return f"a LoRA adapter of {base or 'another model'}: merge it into that one first (merge_and_unload of peft)"
    if "model_index.json" in names:
        return "a pipeline of diffusers, which makes images and has no vectors to search with"
    if {"snapshots", "refs"} <= names:
        inner = sorted((folder / "snapshots").iterdir())
        return f"a folder of Hugging Face's cache: name the one within it, {inner[-1] if inner else 'which is missing'}"
    if weights := weights_files(folder):
        return f"a folder without config.json or open_clip_config.json; name the file itself ({weights[0].name})"
    others = sorted(name for name in names if Path(name).suffix in _ENDINGS)
    if others:
        return f"a folder of which {others[0]} is {_ENDINGS[Path(others[0]).suffix]}"
    return None if names else "empty"


def _named(path: Path, field: str) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8-sig")).get(field) or "")
    except (OSError, ValueError, AttributeError):
        return ""
