"""Cutting padding changes no vector and no gradient, happens only where that is so, and really cuts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anykey.encoder.towers.architecture import Architecture, build
from anykey.encoder.towers.text import can_trim, encode_text, end_positions, num_read
from anykey.encoder.towers.tokens import Tokenizer
from tests.networks import COCA_TEXT, SIGLIP_TEXT, TEXT, build_seeded, small_architecture

TEXTS = ["a", "a red circle left of a small blue square", "two dogs"]
CAUSAL = {
    "CLIP": small_architecture(),
    "CustomTextCLIP": small_architecture(custom_text=True),
    "CustomTextCLIP reading its own end token": small_architecture(
        custom_text=True, text={**TEXT, "pool_type": "eos", "eos_id": 49407}
    ),
    "CLIP reading its own end token": small_architecture(text={**TEXT, "pool_type": "eos", "eos_id": 49407}),
    "CLIP with a projection that has a bias": small_architecture(text={**TEXT, "proj_bias": True}),
    "CLIP without projection": small_architecture(embed_dim=32, text={**TEXT, "proj_type": "none"}),
}
OTHERS = {
    "SigLIP": small_architecture(custom_text=True, text=SIGLIP_TEXT),
    "CoCa": small_architecture(custom_text=True, text={**COCA_TEXT, "output_tokens": False}),
    "no causal mask": small_architecture(custom_text=True, text={**TEXT, "no_causal_mask": True}),
    "causal, first position": small_architecture(custom_text=True, text={**TEXT, "pool_type": "first"}),
    "causal, last position": small_architecture(custom_text=True, text={**TEXT, "pool_type": "last"}),
}


def tokens_of(texts: list[str]) -> Tensor:
    return Tokenizer(small_architecture())(texts)


@contextmanager
def lengths_seen(model: nn.Module) -> Iterator[list[int]]:
    """Lengths of the sequences that pass the text transformer."""
    lengths: list[int] = []
    tower = model.text if hasattr(model, "text") else model
    block = tower.transformer.resblocks[0]
    handle = block.register_forward_pre_hook(
        lambda module, inputs, named: lengths.append((inputs[0] if inputs else named["q_x"]).shape[1]), with_kwargs=True
    )
    try:
        yield lengths
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", CAUSAL)
def test_trimmed_text_gives_the_vectors_of_the_padded_text(kind: str) -> None:
    model, tokens_BT = build_seeded(CAUSAL[kind]), tokens_of(TEXTS)
    with torch.inference_mode(), lengths_seen(model) as lengths:
        trimmed_BD = encode_text(model, tokens_BT)
        full_BD = model.encode_text(tokens_BT)
    assert lengths == [11, 77]  # nine words, a start and an end
    torch.testing.assert_close(trimmed_BD, full_BD, atol=1e-5, rtol=0)


def test_trimmed_text_gives_the_vectors_of_anykey_tiny(tiny_encoder: object) -> None:
    model, tokens_BT = tiny_encoder.model, tokens_of(TEXTS)
    with torch.inference_mode(), lengths_seen(model) as lengths:
        torch.testing.assert_close(encode_text(model, tokens_BT), model.encode_text(tokens_BT), atol=1e-5, rtol=0)
    assert lengths == [11, 77]


@pytest.mark.parametrize("kind", OTHERS)
def test_towers_that_look_beyond_the_end_keep_their_full_length(kind: str) -> None:
    model, tokens_BT = build_seeded(OTHERS[kind]), tokens_of(TEXTS)
    assert not can_trim(model)
    with torch.inference_mode(), lengths_seen(model) as lengths:
        torch.testing.assert_close(encode_text(model, tokens_BT), model.encode_text(tokens_BT), atol=0, rtol=0)
    assert min(lengths) >= 77


def test_cutting_the_padding_of_a_siglip_tower_would_change_its_vectors() -> None:
    """Shows that the test above can fail: the padding does matter there."""
    model, tokens_BT = build_seeded(OTHERS["SigLIP"]), tokens_of(TEXTS)
    with torch.inference_mode():
        cut_BD = model.text(tokens_BT[:, :11])
        assert (cut_BD - model.encode_text(tokens_BT)).abs().max() > 1e-3


def test_a_tower_that_also_returns_its_tokens_is_not_trimmed() -> None:
    model = build_seeded(small_architecture(custom_text=True, text=COCA_TEXT))
    assert not can_trim(model)


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_gradients_are_those_of_the_padded_text(kind: str) -> None:
    tokens_BT = tokens_of(TEXTS)
    models = [build_seeded(CAUSAL[kind]).double() for _ in range(2)]
    encode_text(models[0], tokens_BT).square().sum().backward()
    models[1].encode_text(tokens_BT).square().sum().backward()
    trimmed, full = (dict(model.named_parameters()) for model in models)
    touched = [name for name in full if full[name].grad is not None]
    assert len(touched) > 10
    for name in touched:
        torch.testing.assert_close(trimmed[name].grad, full[name].grad, atol=1e-12, rtol=1e-9, msg=name)


def test_a_text_as_long_as_the_context_is_not_cut() -> None:
    model, tokens_BT = build_seeded(CAUSAL["CLIP"]), tokens_of(["word " * 100])
    with torch.inference_mode(), lengths_seen(model) as lengths:
        encode_text(model, tokens_BT)
    assert lengths == [77]


@pytest.mark.parametrize("kind", ["CLIP", "CLIP reading its own end token"])
def test_the_end_is_where_the_end_token_stands(kind: str) -> None:
    tokens_BT = tokens_of(TEXTS)
    expected = [row.index(49407) for row in tokens_BT.tolist()]
    assert end_positions(build_seeded(CAUSAL[kind]), tokens_BT).tolist() == expected == [2, 10, 3]


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
T5_SIZES = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2}
M2M_SIZES = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2}
OF_HUGGING_FACE = {
    "Bert": ("cls_last_hidden_state_pooler", SIZES),
    "Roberta": ("mean_pooler", SIZES),
    "XLMRoberta": ("mean_pooler", SIZES),
    "MT5": ("mean_pooler", {**T5_SIZES, "vocab_size": 50}),
    "M2M100": ("cls_pooler", {**M2M_SIZES, "vocab_size": 50}),
}


@pytest.mark.parametrize("kind", OF_HUGGING_FACE)
def test_towers_of_hugging_face_are_spared_the_padding(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'anykey[hf]'")
    pooler, sizes = OF_HUGGING_FACE[kind]
    config = getattr(transformers, f"{kind}Config")(**sizes)
    config.save_pretrained(tmp_path)
    text_cfg = {"hf_model_name": str(tmp_path), "hf_tokenizer_name": "x", "hf_pooler_type": pooler}
    model: Any = build(Architecture("x", {**small_architecture().model_cfg, "text_cfg": text_cfg})).eval()
    pad = config.pad_token_id
    words = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14]]
    tokens_BT = torch.tensor([[*row, *[pad] * (20 - len(row))] for row in words])
    lengths: list[int] = []
    handle = model.text.transformer.register_forward_pre_hook(
        lambda module, inputs, named: lengths.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    with torch.inference_mode():
        torch.testing.assert_close(encode_text(model, tokens_BT), model.encode_text(tokens_BT), atol=1e-5, rtol=0)
    handle.remove()
    assert lengths == [6, 20]
    assert num_read(model, tokens_BT).tolist() == [3, 6, 1]
    assert int(num_read(model, tokens_BT[0])) == 3
