"""The layouts of weights that are read, each told by what is in it, and converted to a network of open_clip's.

A layout says whether a source is its own, which network that is, and what its tensors are called here. The first that
fits is taken; a source that none fits is refused in a sentence that says what it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from anykey.encoder.errors import CheckpointCorruptError, CheckpointNotFoundError
from anykey.encoder.towers.architecture import Architecture
from anykey.encoder.towers.layouts import plain, renaming
from anykey.encoder.towers.layouts.hugging_face import DEFAULTS, read_config, read_hugging_face, with_tokenizer
from anykey.encoder.towers.layouts.strangers import weights_files, what_file_is, what_folder_is, what_tensors_are
from anykey.encoder.towers.tensors import UNREADABLE, TensorFile, read_tensors

HF_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class Source:
    """A file or directory of weights, as far as it is to be looked at.

    Attributes:
        path: What the user named.
        file: What was read of its tensors.
        config: The `config.json` of a Hugging Face directory; empty for a file.
        architecture: The network, where a user names it.
        tokenizer: A folder with the tokenizer, or `clip`, where a user names it.
    """

    path: Path
    file: TensorFile
    config: Mapping[str, Any] = field(default_factory=dict)
    architecture: Architecture | None = None
    tokenizer: str | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return self.file.tensors


@dataclass(frozen=True)
class Recognised:
    """Weights of a known layout.

    Attributes:
        layout: Its name, for people.
        architecture: The network.
        tensors: Its weights by open_clip's names.
        remarks: What a user should know of the conversion, a sentence each.
    """

    layout: str
    architecture: Architecture
    tensors: dict[str, Tensor]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One way in which people hold weights.

    Attributes:
        name: For people.
        is_this: Whether a source has it.
        architecture: The network that the source says, and remarks.
        rename: Its tensors by open_clip's names.
    """

    name: str
    is_this: Callable[[Source], bool]
    architecture: Callable[[Source], tuple[Architecture, tuple[str, ...]]]
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict


def recognise(
    path: Path, architecture: Architecture | None = None, tokenizer: str | None = None, average: bool = False
) -> Recognised:
    """Reads weights of any known layout.

    Args:
        path: A file, or the directory of a Hugging Face model.
        architecture: The network, where the source does not say it.
        tokenizer: A folder with the tokenizer, or `clip`, where the source has none.
        average: Read the average over training that a trainer kept, instead of the last weights.

    Raises:
        CheckpointNotFoundError: no such file.
        CheckpointCorruptError: it is damaged, of no known layout, or does not say enough; the message says what.
        MissingPartError: a tokenizer or a configuration that belongs to it is missing.
    """
    source = _opened(path, architecture, tokenizer, average)
    layout = next((layout for layout in LAYOUTS if layout.is_this(source)), None)
    if layout is None:
        raise CheckpointCorruptError(f"{path} is no encoder of two towers: {_stranger(source)}")
    try:
        tensors = layout.rename(source.tensors)
        found, remarks = layout.architecture(replace(source, file=replace(source.file, tensors=tensors)))
    except UNREADABLE as error:
        missing = f"{error} is missing" if isinstance(error, LookupError) else str(error)
        raise CheckpointCorruptError(f"{path} looks like {layout.name}, but {missing}") from error
    if source.file.has_average:
        remarks = (*remarks, "It also holds an average of the weights over training, which --average takes instead.")
    return Recognised(layout.name, found, tensors, remarks)


def _opened(path: Path, architecture: Architecture | None, tokenizer: str | None, average: bool) -> Source:
    if not path.is_dir():
        return Source(path, read_tensors(path, average), {}, architecture, tokenizer)
    config = read_config(path)
    kind = config.get("model_type")
    if kind not in DEFAULTS:
        for file in weights_files(path):
            if (stranger := what_file_is(file)) is not None:
                raise CheckpointCorruptError(f"{file} is damaged or no weights file: it is {stranger}")
        if kind is None:
            stranger = what_folder_is(path) or "a folder without weights"
            raise CheckpointCorruptError(f"{path} is no encoder of two towers: it is {stranger}")
        raise CheckpointCorruptError(
            f"{path} is no encoder of two towers: its config.json is of a {kind} model, and those of "
            f"{', '.join(DEFAULTS)} are read; a model that sentence-transformers loads is read with its modules.json"
        )
    weights = next((path / name for name in HF_WEIGHTS if (path / name).is_file()), None)
    if weights is None:
        raise CheckpointNotFoundError(f"{path} has no weights: expected one of {', '.join(HF_WEIGHTS)}")
    return Source(path, read_tensors(weights, average), config, architecture, tokenizer)


def _stranger(source: Source) -> str:
    names = source.tensors.keys()
    if source.config:
        what = what_tensors_are(names)
        return f"its weights are {what}" if what else "its weights have other names than its config.json says"
    if "vision_model.embeddings.patch_embedding.weight" in names:
        return "its names are Hugging Face's, so name the directory that it belongs to, with config.json"
    what = what_tensors_are(names)
    shown = ", ".join(sorted(names)[:4])
    return f"it is {what}" if what else f"its tensors have names that no known layout has ({shown}, ...)"


def _is_hf(kind: str, *needed: str) -> Callable[[Source], bool]:
    """Whether a source is a Hugging Face directory of one `model_type` whose weights have the names of both towers."""
    both = ("vision_model.embeddings.patch_embedding.weight", *needed)
    return lambda source: source.config.get("model_type") == kind and all(name in source.tensors for name in both)


def _by_config(source: Source) -> tuple[Architecture, tuple[str, ...]]:
    tensors = source.tensors
    last = "text.text_projection.weight" if "text.text_projection.weight" in tensors else "visual.proj"
    width = tensors[last].shape[0 if last.startswith("text") else 1]
    found = read_hugging_face(source.path, source.config, width, source.tokenizer)
    if source.config["model_type"] != "siglip2":
        return found, ()
    side = found.model_cfg["vision_cfg"]["image_size"]
    remark = f"It takes images of any shape (NaFlex); here each is resized to a square of {side} pixels."
    return found, (remark,)


def _is_tinyclips(source: Source) -> bool:
    if source.config:
        return False
    by_name = any(renaming.is_tinyclips(name) for name in source.tensors)
    return by_name or (source.path.stem.startswith("TinyCLIP") and plain.is_plain(source.tensors))


def _of_tinyclip(source: Source) -> tuple[Architecture, tuple[str, ...]]:
    """By its tensors: GELU, and heads of 64, unless a configuration says how wide they are."""
    given = source.architecture
    model_cfg = plain.derive(source.tensors, False, None if given is None else given.model_cfg)
    preprocess_cfg = {} if given is None else given.preprocess_cfg
    return _named(source, Architecture(source.path.stem, model_cfg, preprocess_cfg)), ()


def _of_openai(source: Source) -> tuple[Architecture, tuple[str, ...]]:
    """By its tensors and its activation, with heads of 64."""
    if source.architecture is not None:
        return _named(source, source.architecture), ()
    model_cfg = plain.derive(source.tensors, bool(source.file.is_quick_gelu))
    return _named(source, Architecture(source.path.stem, model_cfg)), ()


def _of_open_clip(source: Source) -> tuple[Architecture, tuple[str, ...]]:
    """The network that the user names, or the only one listed that has such tensors."""
    given = source.architecture
    if given is not None:
        return _named(source, replace(given, preprocess_cfg=_preparation(given))), ()
    found = plain.candidates(source.tensors)
    networks: list[dict[str, Any]] = []
    for architecture in found:
        if architecture.model_cfg not in networks:
            networks.append(architecture.model_cfg)
    if not found:
        raise ValueError(
            "no network that open_clip lists has these tensors; name its configuration with --architecture"
        )
    if len(networks) > 1:
        names = " and ".join(architecture.name for architecture in found)
        raise ValueError(
            f"{names} have these tensors, and the file does not say which of them it is; name it with --architecture"
        )
    only = found[0]
    remark = f"Its tensors are those of {only.name}; another network of the same shapes is --architecture's to name."
    return _named(source, replace(only, preprocess_cfg=_preparation(only))), (remark,)


def _preparation(architecture: Architecture) -> dict[str, Any]:
    return architecture.preprocess_cfg or plain.published_preprocessing(architecture.name)


def _named(source: Source, architecture: Architecture) -> Architecture:
    """The architecture with the tokenizer that the user names."""
    if source.tokenizer is None:
        return architecture
    return with_tokenizer(architecture, None, source.tokenizer)


def _is_apples(source: Source) -> bool:
    return not source.config and any(name.startswith("image_encoder.model.") for name in source.tensors)


_CLIP_TEXT = "text_model.embeddings.token_embedding.weight"
LAYOUTS = (
    Layout("Hugging Face's CLIP", _is_hf("clip", _CLIP_TEXT), _by_config, renaming.from_hf_clip),
    Layout("Hugging Face's MetaCLIP 2", _is_hf("metaclip_2", _CLIP_TEXT), _by_config, renaming.from_hf_clip),
    Layout(
        "Hugging Face's Chinese-CLIP",
        _is_hf("chinese_clip", "text_model.embeddings.word_embeddings.weight"),
        _by_config,
        renaming.from_hf_chinese_clip,
    ),
    Layout("Hugging Face's SigLIP", _is_hf("siglip", _CLIP_TEXT), _by_config, renaming.from_hf_siglip),
    Layout("Hugging Face's SigLIP 2", _is_hf("siglip2", _CLIP_TEXT), _by_config, renaming.from_hf_siglip),
    Layout("Apple's MobileCLIP", _is_apples, _of_open_clip),
    Layout("TinyCLIP", _is_tinyclips, _of_tinyclip, renaming.from_tinyclip),
    Layout(
        "OpenAI's TorchScript",
        lambda source: source.file.is_quick_gelu is not None and plain.is_plain(source.tensors),
        _of_openai,
    ),
    Layout("open_clip", lambda source: plain.is_plain(source.tensors), _of_open_clip),
)
