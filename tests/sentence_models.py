"""Models of toy size with random weights, saved by sentence-transformers itself: one of texts and images, one of texts.

Only the functions load that library and transformers, which takes seconds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROMPTS = {"query": "Find what fits.", "document": "Represent it."}
WIDTH = 32
CONTEXT = 128
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>")  # fmt: skip
LEARNT_FROM = ["a red circle on a blue table", "the quick brown fox jumps over the lazy dog"]
# What Qwen's template does, without its tools: roles, parts in their order, and the place of each image.
TEMPLATE = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{%- for part in message.content %}"
    "{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{%- else %}{{ part.text }}{%- endif %}"
    "{%- endfor %}<|im_end|>\n{%- endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{%- endif %}<|endoftext|>"
)


def save_qwen(directory: Path) -> Path:
    """A Qwen3-VL of 96,000 weights with its own kind of tokenizer, processor and template: texts, images, and both."""
    import transformers
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    network = directory.with_name("network")
    tokenizer = _byte_pairs()
    _processor(tokenizer).save_pretrained(network)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1],
                            "mrope_interleaved": True},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": WIDTH, "intermediate_size": 48, "num_heads": 2, "patch_size": 8,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": WIDTH, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0], "initializer_range": 0.2,
    }  # fmt: skip
    places = ("vision_start", "vision_end", "image", "video")
    ids = dict(zip([f"{name}_token_id" for name in places], tokenizer.convert_tokens_to_ids(CONTROL[3:]), strict=True))
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
    _seeded(lambda: transformers.Qwen3VLModel(config)).save_pretrained(network)
    options = {"chat_template": {"add_generation_prompt": True}}
    return _save(
        directory,
        [Transformer(str(network), processing_kwargs=options), Pooling(WIDTH, "lasttoken"), Normalize()],
        PROMPTS,
    )


def save_bert(directory: Path, prompts: Mapping[str, str] | None = None) -> Path:
    """A BERT of texts alone, which knows letters and no words, with the mean of its tokens as vector."""
    import transformers
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    network = directory.with_name("network")
    tokenizer = _letters(64)
    tokenizer.save_pretrained(network)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    _seeded(lambda: transformers.BertModel(config)).save_pretrained(network)
    return _save(directory, [Transformer(str(network)), Pooling(WIDTH, "mean")], prompts or {})


def save_clip(directory: Path) -> Path:
    """A CLIP, which takes texts and images, and not both in one item."""
    import transformers
    from sentence_transformers.base.modules import Transformer

    network, tokenizer = directory.with_name("network"), _letters(16)
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(network)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": WIDTH}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    text = {**sizes, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    _seeded(lambda: transformers.CLIPModel(config)).save_pretrained(network)
    return _save(directory, [Transformer(str(network))], {})


def save_router(directory: Path, bert: Path) -> Path:
    """A model of texts whose queries go through a table of tokens, and whose keys go through a BERT."""
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding

    table = _seeded(lambda: StaticEmbedding(_letters(64).backend_tokenizer, embedding_dim=WIDTH))
    network = str(bert.with_name("network"))
    routes = Router.for_query_document([table], [Transformer(network), Pooling(WIDTH, "mean")])
    return _save(directory, [routes], {})


def of_library(directory: Path, **options: Any) -> Any:
    """The library's own model of a directory, which the encoder must agree with."""
    from sentence_transformers import SentenceTransformer

    from anykey.encoder.hugging_face import loading_quietly

    with loading_quietly():
        return SentenceTransformer(str(directory), device="cpu", local_files_only=True, model_kwargs=options)


def _save(directory: Path, modules: Sequence[Any], prompts: Mapping[str, str]) -> Path:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=list(modules), prompts=dict(prompts), device="cpu").save(str(directory))
    return directory


def _seeded(make: Any) -> Any:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def _letters(max_tokens: int) -> Any:
    """A tokenizer that knows letters and no words."""
    import transformers

    letters = [chr(97 + number) for number in range(26)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ":", *letters, *(f"##{letter}" for letter in letters)]
    return transformers.BertTokenizerFast(
        vocab={token: number for number, token in enumerate(vocabulary)}, eos_token="[SEP]", model_max_length=max_tokens
    )


def _byte_pairs() -> Any:
    """A tokenizer of bytes and a few pairs of them, as Qwen's is, with its control tokens."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(CONTROL), initial_alphabet=alphabet, show_progress=False
    )
    learnt.train_from_iterator(LEARNT_FROM, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=learnt,
        pad_token=CONTROL[0],
        eos_token=CONTROL[2],
        additional_special_tokens=list(CONTROL[1:]),
        padding_side="left",
        model_max_length=CONTEXT,
    )


def _processor(tokenizer: Any) -> Any:
    import transformers

    sizes = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    return transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes, min_pixels=16 * 16, max_pixels=64 * 64),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor(**sizes),
        chat_template=TEMPLATE,
    )
