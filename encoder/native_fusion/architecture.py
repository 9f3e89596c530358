"""Which network an encoder with native fusion is, and how it is built."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from anykey.encoder.errors import CheckpointCorruptError
from anykey.encoder.hugging_face import require_transformers
from anykey.encoder.native_fusion.eva import Eva, EvaSizes
from anykey.encoder.native_fusion.network import TEXT_MODELS, FusionNetwork, first_position
from anykey.encoder.native_fusion.tokens import Tokenizer
from anykey.encoder.padding import Padding, use_same_padding

# What of transformers' configuration a vector depends on, beside the shapes of the weights.
_OF_TEXT = ("model_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "pad_token_id")
_ABSOLUTE = "absolute"
MIN_CONTEXT = 3  # a start, a token and an end


@dataclass(frozen=True)
class Architecture:
    """A network without its weights.

    Attributes:
        name: For people.
        text_config: transformers' configuration of the text encoder.
        trunk: `{"kind": "eva", ...}` with the sizes of `EvaSizes`, or `{"kind": "timm"}` with `name` and `image_size`.
        padding: How a convolutional trunk pads.
        preprocessing: How a picture becomes pixels.
        tokenizer: Splits texts.
        context_length: The most tokens of a text that are read.
    """

    name: str
    text_config: dict[str, Any]
    trunk: dict[str, Any]
    padding: Padding
    preprocessing: PreprocessCfg
    tokenizer: Tokenizer
    context_length: int

    def facts(self) -> dict[str, Any]:
        """Everything but the weights that a vector depends on."""
        return {
            "text": {name: self.text_config.get(name) for name in _OF_TEXT},
            "trunk": self.trunk,
            "padding": self.padding.value,
            "preprocessing": asdict(self.preprocessing),
            "tokenizer": self.tokenizer.digest,
            "context_length": self.context_length,
        }


def longest_text(text_config: Mapping[str, Any]) -> int:
    """The most tokens of a text alone that a text encoder of this configuration has positions for.

    Raises:
        CheckpointCorruptError: it does not say.
    """
    num_positions, padding = text_config.get("max_position_embeddings"), text_config.get("pad_token_id")
    if not isinstance(num_positions, int):
        raise CheckpointCorruptError(f"config.json: max_position_embeddings is {num_positions!r}, expected a number")
    return num_positions - first_position(str(text_config.get("model_type")), padding)


def build(architecture: Architecture) -> FusionNetwork:
    """Builds the network with random weights.

    Raises:
        CheckpointCorruptError: the configuration is none of such a network; says what of it.
    """
    text = build_text(architecture.name, architecture.text_config)
    trunk, width, num_patches = build_trunk(architecture.name, architecture.trunk, architecture.padding)
    try:
        network = FusionNetwork(text, trunk, width, num_patches)
    except ValueError as error:
        raise CheckpointCorruptError(f"{architecture.name}: {error}") from error
    if architecture.tokenizer.num_ids > text.config.vocab_size:
        raise CheckpointCorruptError(
            f"{architecture.name}: the tokenizer has {architecture.tokenizer.num_ids} ids, the text encoder only "
            f"{text.config.vocab_size}: they do not belong together"
        )
    if not MIN_CONTEXT <= architecture.context_length <= network.max_text:
        raise CheckpointCorruptError(
            f"{architecture.name}: context_length {architecture.context_length} is not within {MIN_CONTEXT} and the "
            f"{network.max_text} tokens that the text encoder has positions for"
        )
    return network


def build_text(name: str, config: Mapping[str, Any]) -> Any:
    """A BERT-like encoder of transformers with random weights, without its pooler.

    Raises:
        MissingPartError: transformers is not here.
        CheckpointCorruptError: the configuration is of another kind of network, or damaged.
    """
    require_transformers(name)
    import transformers

    library: Any = transformers
    kind = config.get("model_type")
    if kind not in TEXT_MODELS or config.get("position_embedding_type", _ABSOLUTE) != _ABSOLUTE:
        raise CheckpointCorruptError(
            f"{name}: native fusion needs a BERT-like text encoder ({', '.join(TEXT_MODELS)}) with absolute positions, "
            f"config.json says model_type {kind!r}, position_embedding_type "
            f"{config.get('position_embedding_type', _ABSOLUTE)!r}"
        )
    plain = {key: value for key, value in config.items() if key not in ("model_type", "dtype", "torch_dtype")}
    try:
        config_of_kind = library.AutoConfig.for_model(kind, **plain)
        return library.AutoModel.from_config(config_of_kind, add_pooling_layer=False).float()
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointCorruptError(f"{name}: its text encoder cannot be built of config.json: {reason}") from error


def build_trunk(
    name: str, trunk: Mapping[str, Any], padding: Padding = Padding.SYMMETRIC
) -> tuple[nn.Module, int, int]:
    """A trunk with random weights, the width of its tokens, and how many there are.

    Raises:
        CheckpointCorruptError: the configuration is of no trunk known here.
    """
    options = {key: value for key, value in trunk.items() if key != "kind"}
    try:
        if trunk.get("kind") == "eva":
            sizes = EvaSizes(**options)
            return Eva(sizes), sizes.width, sizes.grid**2
        if trunk.get("kind") == "timm":
            built = TimmTrunk(**options)
            if padding is Padding.SAME:
                use_same_padding(built)
            return built, *_shape_of_output(options)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointCorruptError(f"{name}: its image trunk cannot be built: {reason}") from error
    raise CheckpointCorruptError(f"{name}: the kind of its image trunk is {trunk.get('kind')!r}, expected eva or timm")


class TimmTrunk(nn.Module):
    """Any of timm's image networks, without its head: pixels `[I, C, H, W]` to tokens `[I, N, F]`.

    Of a convolutional network the cells of its last map are the tokens; class tokens and registers are dropped.
    """

    def __init__(self, name: str, image_size: int) -> None:
        import timm

        super().__init__()
        options: dict[str, Any] = {"img_size": image_size} if _takes_size(name) else {}
        self.model: Any = timm.create_model(name, pretrained=False, num_classes=0, **options)
        self.num_prefix_tokens = int(getattr(self.model, "num_prefix_tokens", 0))
        self.is_channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"

    def forward(self, pixels_ICHW: Tensor) -> Tensor:
        """Tokens `[I, N, F]`."""
        output: Tensor = self.model.forward_features(pixels_ICHW)
        if output.ndim == 4:
            output = output.flatten(1, 2) if self.is_channels_last else output.flatten(2).transpose(1, 2)
        return output[:, self.num_prefix_tokens :]

    def recompute_activations(self) -> None:
        """Lets the backward pass compute the blocks' activations again instead of keeping them."""
        self.model.set_grad_checkpointing(True)


def _takes_size(name: str) -> bool:
    """Whether this network of timm is made for one size of image, and can be made for another."""
    import inspect

    import timm

    with torch.device("meta"):
        kind = type(timm.create_model(name, pretrained=False, num_classes=0))
    return "img_size" in inspect.signature(kind.__init__).parameters


def _shape_of_output(options: Mapping[str, Any]) -> tuple[int, int]:
    """Width and number of a timm trunk's tokens, found without computing any."""
    with torch.device("meta"), torch.no_grad():
        trunk = TimmTrunk(**options).eval()
        size = options["image_size"]
        output_1NF = trunk(torch.empty(1, 3, size, size))
    return output_1NF.shape[2], output_1NF.shape[1]


def eva_trunk(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configuration of an EVA trunk, read off its tensors.

    Raises:
        KeyError: one of them is not there.
    """
    width, _, patch_size, _ = tensors["patch_embed.proj.weight"].shape
    num_patches, head_width = tensors["rope.freqs_cos"].shape
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    sizes = EvaSizes(
        image_size=round(num_patches**0.5) * patch_size,
        patch_size=patch_size,
        width=width,
        layers=len(blocks),
        head_width=head_width,
        mlp_width=len(tensors["blocks.0.mlp.w1.weight"]),
    )
    return {"kind": "eva", **{field.name: getattr(sizes, field.name) for field in fields(sizes)}}
