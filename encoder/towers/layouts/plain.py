"""Which network a file of open_clip's names holds: read off its tensors, or found among those that open_clip lists.

Tensors say every width and depth, the patches, the context and the image's side. They say neither how many heads there
are nor, but for a TorchScript archive, which activation; so a network that nobody listed needs a configuration.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import open_clip
import torch
from torch import Tensor

from anykey.encoder.errors import CheckpointError
from anykey.encoder.towers.architecture import TINYCLIP, Architecture, build, read_architecture, register_built_in
from anykey.encoder.towers.weights import with_names_of

HEAD_WIDTH = 64  # of OpenAI's networks and TinyCLIP's
_IMAGE_BLOCKS = "visual.transformer.resblocks."
_TEXT_BLOCKS = "transformer.resblocks."
_APPLES_TEXT = "text_encoder.embedding_layer.weight"


class TextFacts(NamedTuple):
    """What tensors say of a text tower, which is enough to look a network up."""

    vocab_size: int
    width: int
    layers: int
    context_length: int


def flat(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with a text tower's names as they are without `text.` before them."""
    return {name.removeprefix("text."): tensor for name, tensor in tensors.items()}


def is_plain(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the two towers of an open_clip model, by their names."""
    names = flat(tensors)
    has_image = any(name.startswith("visual.") for name in names)
    return has_image and ("token_embedding.weight" in names or any(n.startswith("text.transformer.") for n in tensors))


def is_pruned(tensors: Mapping[str, Tensor]) -> bool:
    """Whether layers differ in their heads or neurons."""
    names = flat(tensors)
    return any(_is_uneven(names, prefix) for prefix in (_IMAGE_BLOCKS, _TEXT_BLOCKS))


def derive(
    tensors: Mapping[str, Tensor], is_quick_gelu: bool, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """open_clip's configuration of a ViT or ResNet with a CLIP text tower, by its tensors.

    Args:
        tensors: All of them, by open_clip's names.
        is_quick_gelu: Which of the two activations it was made with.
        given: A configuration that says how wide heads are, and how many there are; else each has `HEAD_WIDTH`.

    Raises:
        ValueError: the heads cannot be told, or this is another kind of network.
    """
    names = flat(tensors)
    facts = _text_facts(names)
    if facts is None or not {"text_projection", "visual.conv1.weight"} <= names.keys():
        raise ValueError("only a ViT or ResNet with CLIP's text tower can be told by its tensors")
    embed_dim = names["text_projection"].shape[1]
    vision_given, text_given = (given or {}).get("vision_cfg", {}), (given or {}).get("text_cfg", {})
    text_head = text_given["width"] // text_given["heads"] if text_given else HEAD_WIDTH
    image_head = vision_given.get("head_width", HEAD_WIDTH)
    text_cfg: dict[str, Any] = dict(facts._asdict())
    if _is_uneven(names, _TEXT_BLOCKS):
        text_cfg |= {"heads": 1, "pruned": _pruned_sizes(names, _TEXT_BLOCKS, text_head)}
    else:
        text_cfg["heads"] = _num_heads("text", facts.width, text_head)
    vision_cfg = _image_tower(names, image_head)
    return {"embed_dim": embed_dim, "quick_gelu": is_quick_gelu, "vision_cfg": vision_cfg, "text_cfg": text_cfg}


def candidates(tensors: dict[str, Tensor]) -> list[Architecture]:
    """The networks of open_clip and TinyCLIP that have exactly these tensors."""
    register_built_in()
    names = flat(tensors)
    is_apples = _APPLES_TEXT in names
    facts = None if is_apples else _text_facts(names)
    found = []
    for name in [*open_clip.list_models(), *TINYCLIP]:
        architecture = read_architecture(name)
        text_cfg = architecture.model_cfg["text_cfg"]
        if "hf_model_name" in text_cfg or (facts is not None and facts != _listed(text_cfg)):
            continue
        if is_apples is not name.startswith("MobileCLIP") and is_apples:
            continue
        if _looks_alike(architecture, names) and _has_these(architecture, tensors):
            found.append(architecture)
    return found


def published_preprocessing(name: str) -> dict[str, Any]:
    """The preprocessing that all of open_clip's published weights of an architecture share; empty where they differ."""
    kinds = []
    for tag in open_clip.pretrained.list_pretrained_tags_by_model(name):
        said = open_clip.pretrained.get_pretrained_cfg(name, tag)
        kinds.append({key: said.get(key) for key in ("mean", "std", "interpolation", "resize_mode")})
    if not kinds or any(kind != kinds[0] for kind in kinds):
        return {}
    return {key: value for key, value in kinds[0].items() if value is not None}


def _looks_alike(architecture: Architecture, names: Mapping[str, Tensor]) -> bool:
    """A quick look at the image tower, before the whole network is built."""
    vision_cfg = architecture.model_cfg["vision_cfg"]
    if architecture.uses_timm:
        return "visual.conv1.weight" not in names
    if "visual.conv1.weight" not in names:
        return False
    is_resnet = isinstance(vision_cfg.get("layers"), list)
    width = vision_cfg.get("width", 768)
    return bool(len(names["visual.conv1.weight"]) == (width // 2 if is_resnet else width))


def _has_these(architecture: Architecture, tensors: dict[str, Tensor]) -> bool:
    """Whether the network has tensors of these names and shapes, and no others."""
    try:
        with torch.device("meta"):
            model = build(architecture)
            own = {name: tensor.shape for name, tensor in model.state_dict().items()}
            renamed = {name: tensor.shape for name, tensor in with_names_of(model, dict(tensors)).items()}
    except (CheckpointError, RuntimeError, ValueError, LookupError, AttributeError, TypeError):
        return False
    return own == renamed


def _listed(text_cfg: Mapping[str, Any]) -> TextFacts:
    plain = open_clip.CLIPTextCfg()
    extra = 1 if text_cfg.get("embed_cls") else 0
    facts = TextFacts(*(text_cfg.get(name, getattr(plain, name)) for name in TextFacts._fields))
    return facts._replace(context_length=facts.context_length + extra)


def _text_facts(names: Mapping[str, Tensor]) -> TextFacts | None:
    """What the tensors say of a text tower with open_clip's names; `None` for one of Hugging Face's."""
    if not {"token_embedding.weight", "positional_embedding"} <= names.keys():
        return None
    vocab_size, width = names["token_embedding.weight"].shape
    return TextFacts(vocab_size, width, _num_layers(names, _TEXT_BLOCKS), len(names["positional_embedding"]))


def _image_tower(names: Mapping[str, Tensor], head_width: int) -> dict[str, Any]:
    if "visual.attnpool.positional_embedding" in names:
        width = len(names["visual.layer1.0.conv1.weight"])
        layers = [_num_layers(names, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)]
        side = 32 * _side(len(names["visual.attnpool.positional_embedding"]) - 1)
        return {"image_size": side, "layers": layers, "width": width, "head_width": head_width, "patch_size": None}
    width, _, patch, _ = names["visual.conv1.weight"].shape
    vision_cfg: dict[str, Any] = {
        "image_size": patch * _side(len(names["visual.positional_embedding"]) - 1),
        "layers": _num_layers(names, _IMAGE_BLOCKS),
        "width": width,
        "head_width": head_width,
        "patch_size": patch,
    }
    if _is_uneven(names, _IMAGE_BLOCKS):
        vision_cfg["pruned"] = _pruned_sizes(names, _IMAGE_BLOCKS, head_width)
    else:
        _num_heads("image", width, head_width)
    return vision_cfg


def _side(num_patches: int) -> int:
    return int(num_patches**0.5 + 0.5)


def _num_heads(tower: str, width: int, head_width: int) -> int:
    if width % head_width:
        raise ValueError(
            f"how many heads its {tower} tower has cannot be told from the tensors, which are {width} wide; name its "
            "configuration with --architecture FILE.json"
        )
    return width // head_width


def _num_layers(names: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.compile(rf"^{re.escape(prefix)}(\d+)\.")
    return 1 + max((int(found[1]) for name in names if (found := pattern.match(name))), default=-1)


def _is_uneven(names: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether layers have other sizes than a whole transformer's, in which all are the same."""
    sizes = set()
    for layer in range(_num_layers(names, prefix)):
        packed = names.get(f"{prefix}{layer}.attn.in_proj_weight")
        neurons = names.get(f"{prefix}{layer}.mlp.c_fc.weight")
        sizes.add((None if packed is None else packed.shape, None if neurons is None else neurons.shape))
    if not sizes:
        return False
    packed_shape = next(iter(sizes))[0]
    return len(sizes) > 1 or packed_shape is None or packed_shape[0] != 3 * packed_shape[1]


def _pruned_sizes(names: Mapping[str, Tensor], prefix: str, head_width: int) -> dict[str, Any]:
    """Heads and neurons of each layer.

    Raises:
        ValueError: the numbers are none of such a network.
    """
    heads, mlp_widths = [], []
    for layer in range(_num_layers(names, prefix)):
        packed = names.get(f"{prefix}{layer}.attn.in_proj_weight")
        rows = 0 if packed is None else len(packed)
        if rows % (3 * head_width):
            raise ValueError(
                f"layer {layer} below {prefix} has {rows} rows of queries, keys and values, which are no heads of "
                f"{head_width}; name its configuration with --architecture FILE.json"
            )
        heads.append(rows // (3 * head_width))
        mlp_widths.append(len(names[f"{prefix}{layer}.mlp.c_fc.weight"]))
    return {"head_width": head_width, "heads": heads, "mlp_widths": mlp_widths}
