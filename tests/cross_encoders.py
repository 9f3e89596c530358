"""Cross-encoders of toy size with random weights, saved as people find them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_TOKENS = 48
WORDS = (
    "a", "red", "blue", "round", "mug", "cup", "page", "note", "of", "the", "with", "handle", ".", "/", ":", "http",
    "path", "sky", "png",
)  # fmt: skip
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,  # the scores of usual small weights hardly differ
}
# Content as a list of parts, as models of images and texts have it; a part that is no text leaves its kind behind.
CHAT_TEMPLATE = (
    "{% for m in messages %}{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}[MASK]{% endif %} . {% endfor %}{% endfor %}"
)


def save_bert(
    directory: Path, *, seed: int = 0, num_labels: int = 1, kind: str = "BertForSequenceClassification"
) -> Path:
    """A BERT of width 32 that knows some words, as transformers saves it: a cross-encoder, unless `kind` is another."""
    import torch
    import transformers

    torch.manual_seed(seed)
    vocabulary = [*SPECIAL, *WORDS]
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_TOKENS,
        num_labels=num_labels,
        initializer_range=0.5,
    )
    getattr(transformers, kind)(config).save_pretrained(directory)
    tokenizer = transformers.BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(directory)
    return directory


def save_chat_model(directory: Path) -> Path:
    """A causal model that answers yes or no to a chat whose messages are lists of parts."""
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = word_tokenizer(("yes", "no"))
    tokenizer.chat_template = CHAT_TEMPLATE
    config = transformers.Qwen3Config(**SMALL, head_dim=16, vocab_size=len(tokenizer))
    transformers.Qwen3ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_vision_model(directory: Path) -> Path:
    """A Qwen2-VL of toy size that answers yes or no to a query and a key of texts and images, as a `CrossEncoder`."""
    import torch
    import transformers
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    torch.manual_seed(0)
    tokenizer = word_tokenizer(("yes", "no", *VISION_TOKENS), additional_special_tokens=list(VISION_TOKENS))
    ids = dict(zip(VISION_TOKENS, tokenizer.convert_tokens_to_ids(list(VISION_TOKENS)), strict=True))
    config = transformers.Qwen2VLConfig(
        text_config={
            **SMALL, "vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
        },
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
    )  # fmt: skip
    network = directory.with_name(f"{directory.name}-network")
    transformers.Qwen2VLForConditionalGeneration(config).save_pretrained(network)
    transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=64 * 28 * 28),
        tokenizer,
        transformers.Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE.replace("[MASK]", "<|vision_start|><|image_pad|><|vision_end|>"),
    ).save_pretrained(network)
    answer = LogitScore(*tokenizer.convert_tokens_to_ids(["yes", "no"]))
    modules = [Transformer(str(network), transformer_task="any-to-any"), answer]
    CrossEncoder(modules=modules, device="cpu").save_pretrained(str(directory))
    return directory


def word_tokenizer(more: Sequence[str], **facts: Any) -> Any:
    """A fast tokenizer that knows some words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS, *more])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]", **facts
    )


def predicted(directory: Path, query: Any, keys: Sequence[Any]) -> list[float]:
    """What the library itself says of the query with each of the keys."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(directory), device="cpu", local_files_only=True)
    return [float(score) for score in model.predict([(query, key) for key in keys], show_progress_bar=False)]
