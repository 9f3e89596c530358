"""Which network a Hugging Face directory holds, by its `config.json`.

transformers leaves out of that file what equals its defaults, so they are repeated here; the tests compare them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import timm

from anykey.encoder.errors import CheckpointCorruptError, MissingPartError
from anykey.encoder.hugging_face import TOKENIZER_FILES
from anykey.encoder.towers.architecture import Architecture
from anykey.encoder.towers.layouts.preprocessing import read_preprocessing

CONFIG_NAME = "config.json"
CLIPS_OWN = "clip"  # a user's word for CLIP's tokenizer, which is built in
_TOKENIZERS = (
    *TOKENIZER_FILES,
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_CLIP_TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_CLIP_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_SIGLIP_TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "vocab_size": 32000,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_SIGLIP_VISION = {
    **_CLIP_VISION,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
    "num_patches": 256,
}
_BERT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "vocab_size": 30522,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
DEFAULTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clip": (_CLIP_TEXT, _CLIP_VISION),
    "metaclip_2": (_CLIP_TEXT, _CLIP_VISION),
    "chinese_clip": (_BERT, _CLIP_VISION),
    "siglip": (_SIGLIP_TEXT, _SIGLIP_VISION),
    "siglip2": (_SIGLIP_TEXT, _SIGLIP_VISION),
}
# What of open_clip's and timm's words say each activation.
_TANH = {"gelu_pytorch_tanh", "gelu_new", "gelu_fast"}
_ACTIVATIONS = {"gelu", "quick_gelu", *_TANH}
_TIMM_ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", **dict.fromkeys(_TANH, "gelu_tanh")}
# timm's names for SigLIP's image towers, by layers, width, heads and neurons of an MLP.
_SIGLIP_NAMES = {
    (12, 768, 12, 3072): "base",
    (24, 1024, 16, 4096): "large",
    (27, 1152, 16, 4304): "so400m",
    (40, 1536, 16, 6144): "giantopt",
}


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a directory; empty where it has none.

    Raises:
        CheckpointCorruptError: it is no JSON object.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CheckpointCorruptError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointCorruptError(f"{path} must be an object")
    return config


def read_hugging_face(folder: Path, config: Mapping[str, Any], width: int, tokenizer: str | None) -> Architecture:
    """The network of a Hugging Face directory, with its preprocessing and tokenizer.

    Args:
        folder: The directory.
        config: Its `config.json`.
        width: D, as the weights say.
        tokenizer: A folder with the tokenizer, or `clip`; the directory itself where absent.

    Raises:
        CheckpointCorruptError: the network is of a kind that cannot be built here.
        MissingPartError: no tokenizer is there, or nothing says how images are prepared.
    """
    kind = str(config["model_type"])
    try:
        model_cfg = network_of(config, width)
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise CheckpointCorruptError(f"{folder / CONFIG_NAME}: {error}") from error
    preprocess_cfg = read_preprocessing(folder, model_cfg["vision_cfg"]["image_size"])
    name = folder.resolve().name
    return with_tokenizer(Architecture(name, model_cfg, preprocess_cfg), folder, tokenizer, kind)


def network_of(config: Mapping[str, Any], width: int) -> dict[str, Any]:
    """open_clip's configuration of the network that a `config.json` describes.

    Raises:
        TypeError, ValueError, LookupError, ArithmeticError: it describes none that can be built.
    """
    kind = config["model_type"]
    text, vision = (_settings(config, part, DEFAULTS[kind][i]) for i, part in enumerate(("text", "vision")))
    return _CONFIGURATIONS[kind](text, vision, width)


def with_tokenizer(
    architecture: Architecture, folder: Path | None, tokenizer: str | None, kind: str = ""
) -> Architecture:
    """The architecture with CLIP's own tokenizer where that is the folder's, else with the folder's.

    Args:
        architecture: The network.
        folder: Where the tokenizer's files are, unless a user names another place.
        tokenizer: What a user names: a folder, or `clip`.
        kind: The `model_type` of the network.

    Raises:
        MissingPartError: there is no tokenizer; says what to do.
    """
    place = Path(tokenizer) if tokenizer not in (None, CLIPS_OWN) else folder
    if tokenizer == CLIPS_OWN or (place is not None and _is_clips_own(place)):
        return architecture
    if place is None:
        return architecture
    if not any((place / name).is_file() for name in _TOKENIZERS):
        raise MissingPartError(
            f"{place} has no tokenizer ({', '.join(_TOKENIZERS[:4])}, ...), and texts in another one's tokens would "
            f"get wrong vectors; name its folder with --tokenizer DIR, or CLIP's own with --tokenizer {CLIPS_OWN}"
        )
    text_cfg = {**architecture.model_cfg["text_cfg"], "hf_tokenizer_name": place.resolve().name}
    if (clean := _cleaning(place, kind)) is not None:
        text_cfg["tokenizer_kwargs"] = {"clean": clean}
    if "hf_config" in text_cfg:
        text_cfg["context_length"] = min(text_cfg["context_length"], _longest(place))
    model_cfg = {**architecture.model_cfg, "text_cfg": text_cfg}
    return Architecture(
        architecture.name, model_cfg, architecture.preprocess_cfg, architecture.padding, tokenizer_dir=place
    )


def _settings(config: Mapping[str, Any], part: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one tower; older files repeat them under another name, which counts more."""
    own, repeated = (config.get(f"{part}_config{suffix}") or {} for suffix in ("", "_dict"))
    given = {name: value for found in (own, repeated) for name, value in found.items() if value is not None}
    return {**defaults, **given}


def _clip(text: dict[str, Any], vision: dict[str, Any], width: int) -> dict[str, Any]:
    """A CLIP; the end of a text is its highest token or, with a vocabulary that is not CLIP's, a token with a name."""
    text_cfg = {**_text_tower(text), "context_length": text["max_position_embeddings"]}
    if text["eos_token_id"] not in (2, text["vocab_size"] - 1):
        text_cfg |= {"pool_type": "eos", "eos_id": text["eos_token_id"]}
    is_quick = _same_activation(text, vision) == "quick_gelu"
    return {"embed_dim": width, "quick_gelu": is_quick, "vision_cfg": _image_tower(vision), "text_cfg": text_cfg}


def _metaclip_2(text: dict[str, Any], vision: dict[str, Any], width: int) -> dict[str, Any]:
    """A CLIP whose texts end at the first token of a name, whatever others there are."""
    model_cfg = _clip(text, vision, width)
    model_cfg["text_cfg"] |= {"pool_type": "eos", "eos_id": text["eos_token_id"]}
    return model_cfg


def _chinese_clip(text: dict[str, Any], vision: dict[str, Any], width: int) -> dict[str, Any]:
    """CLIP's image tower, and a BERT that is read at its first token."""
    text_cfg = {
        "hf_config": {"model_type": "bert", **{name: text[name] for name in _BERT}},
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "hf_proj_type": "linear",
        "context_length": text["max_position_embeddings"],
    }
    is_quick = _known_activation(vision) == "quick_gelu"
    return {
        "embed_dim": width,
        "quick_gelu": is_quick,
        "custom_text": True,
        "vision_cfg": _image_tower(vision),
        "text_cfg": text_cfg,
    }


def _siglip(text: dict[str, Any], vision: dict[str, Any], width: int) -> dict[str, Any]:
    """An image tower of timm's, and a text tower in which all positions see each other, read at the last."""
    if not vision["vision_use_head"]:
        raise ValueError("its image tower has no head (vision_use_head), so that it makes no vector")
    text_cfg = {
        **_text_tower(text),
        "context_length": text["max_position_embeddings"],
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    }
    if _known_activation(text) == "quick_gelu":
        raise ValueError("a SigLIP with QuickGELU is not known here")
    return {
        "embed_dim": width,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": _siglip_tower(vision),
        "text_cfg": text_cfg,
    }


def _siglip2(text: dict[str, Any], vision: dict[str, Any], width: int) -> dict[str, Any]:
    """A SigLIP 2 for images of any shape (NaFlex), for the square that has as many patches."""
    side = round(vision["num_patches"] ** 0.5)
    if side**2 != vision["num_patches"]:
        raise ValueError(f"its num_patches, {vision['num_patches']}, are no square")
    return _siglip(text, {**vision, "image_size": side * vision["patch_size"]}, width)


_CONFIGURATIONS = {
    "clip": _clip,
    "metaclip_2": _metaclip_2,
    "chinese_clip": _chinese_clip,
    "siglip": _siglip,
    "siglip2": _siglip2,
}


def _text_tower(text: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": text["vocab_size"],
        "width": text["hidden_size"],
        "heads": text["num_attention_heads"],
        "layers": text["num_hidden_layers"],
        **_details(text),
    }


def _image_tower(vision: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "width": vision["hidden_size"],
        "head_width": vision["hidden_size"] // vision["num_attention_heads"],
        "layers": vision["num_hidden_layers"],
        **_details(vision),
    }


def _details(tower: dict[str, Any]) -> dict[str, Any]:
    """What a tower has otherwise than open_clip's."""
    details: dict[str, Any] = {}
    if tower["intermediate_size"] != 4 * tower["hidden_size"]:
        details["mlp_ratio"] = _ratio(tower["intermediate_size"], tower["hidden_size"])
    if tower["layer_norm_eps"] != 1e-5:
        details["norm_kwargs"] = {"eps": tower["layer_norm_eps"]}
    if _known_activation(tower) in _TANH:
        details["act_kwargs"] = {"approximate": "tanh"}
    return details


def _ratio(mlp_width: int, width: int) -> float:
    """A number of which the product with the width, cut to an integer, is the MLP's width."""
    ratio = mlp_width / width
    return ratio if int(width * ratio) == mlp_width else (mlp_width + 0.5) / width


def _siglip_tower(vision: dict[str, Any]) -> dict[str, Any]:
    sizes = tuple(vision[n] for n in ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"))
    patch, side = vision["patch_size"], vision["image_size"]
    activation = _TIMM_ACTIVATIONS[_known_activation(vision)]
    name = f"vit_{_SIGLIP_NAMES.get(sizes)}_patch{patch}_siglip_{side}"
    tower = {"image_size": side, "timm_pool": "map", "timm_proj": "none", "timm_model_pretrained": False}
    if name not in timm.list_models("vit_*_siglip_*"):
        depth, width, heads, mlp_width = sizes
        tower["timm_kwargs"] = {
            "patch_size": patch,
            "depth": depth,
            "embed_dim": width,
            "num_heads": heads,
            "mlp_ratio": _ratio(mlp_width, width),
            "act_layer": activation,
        }
        return {"timm_model_name": "vit_base_patch16_siglip_224", "patch_size": patch, **tower}
    own = "gelu_tanh" if sizes == (40, 1536, 16, 6144) or (sizes[1] == 1152 and patch == 16) else "gelu"
    if activation != own:
        tower["timm_kwargs"] = {"act_layer": activation}
    return {"timm_model_name": name, **tower}


def _same_activation(text: dict[str, Any], vision: dict[str, Any]) -> str:
    if (text["hidden_act"] == "quick_gelu") != (vision["hidden_act"] == "quick_gelu"):
        raise ValueError(
            f"its text tower has the activation {text['hidden_act']} and its image tower {vision['hidden_act']}, which "
            "open_clip cannot build"
        )
    return _known_activation(text)


def _known_activation(tower: dict[str, Any]) -> str:
    activation = str(tower["hidden_act"])
    if activation not in _ACTIVATIONS:
        raise ValueError(f"the activation {activation} is not known here, only {', '.join(sorted(_ACTIVATIONS))}")
    return activation


def _is_clips_own(folder: Path) -> bool:
    """Whether the tokenizer in a folder is CLIP's: its vocabulary is open_clip's but for the control tokens' names."""
    for name in ("vocab.json", "tokenizer.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            vocab = found if name == "vocab.json" else found["model"]["vocab"]
            words = {word: token for word, token in vocab.items() if token < len(vocab) - 2}
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            continue
        own = open_clip.SimpleTokenizer()
        return words == {word: token for word, token in own.encoder.items() if token not in own.all_special_ids}
    return False


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / TOKENIZER_FILES[0]).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _cleaning(folder: Path, kind: str) -> str | None:
    """open_clip's word for what SigLIP does to texts before a tokenizer that does not do it itself."""
    if not kind.startswith("siglip"):
        return None
    name = str(_tokenizer_config(folder).get("tokenizer_class", ""))
    if name.startswith("Gemma"):
        return "lower"
    return "canonicalize" if name.startswith("T5") else None


def _longest(folder: Path) -> int:
    """The most tokens that a tokenizer makes of a text, as it says."""
    longest = _tokenizer_config(folder).get("model_max_length")
    return int(longest) if isinstance(longest, int | float) and 0 < longest < 1e9 else 2**30
