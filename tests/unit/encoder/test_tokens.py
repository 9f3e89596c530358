"""Tokens are open_clip's own; no text takes long, and what is remembered is bounded."""

import random
import string
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import open_clip
import pytest
import torch

from encoder import tokens
from encoder.tokens import Tokenizer
from tests.networks import TEXT, small_architecture

TEXTS = ["a red circle", "  Über-Größe &amp; 漢字 🙂\n", "x" * 2400, "don't stop " * 300, "<start_of_text> 1234"]


def letters(count: int) -> str:
    return "".join(random.Random(count).choices(string.ascii_lowercase, k=count))


def test_tokens_are_those_of_open_clip() -> None:
    assert torch.equal(Tokenizer(small_architecture())(TEXTS), open_clip.get_tokenizer("ViT-B-32")(TEXTS))


def test_the_context_length_is_the_architectures() -> None:
    architecture = small_architecture(text={**TEXT, "context_length": 16})
    rows = Tokenizer(architecture)(["word " * 30, "short"])
    assert rows.shape == (2, 16)
    assert rows[0, -1] == 49407  # the end token closes a text that was cut


def test_a_long_text_has_the_tokens_of_its_head() -> None:
    words = " ".join(letters(n % 7 + 1) for n in range(5000))
    assert torch.equal(Tokenizer(small_architecture())([words]), open_clip.get_tokenizer("ViT-B-32")([words]))


def test_white_space_does_not_push_words_out_of_the_head() -> None:
    spaced = "a red circle" + " " * 50_000 + "on blue"
    tokenizer = Tokenizer(small_architecture())
    assert torch.equal(tokenizer([spaced]), tokenizer(["a red circle on blue"]))


def test_one_enormous_word_takes_no_longer_than_the_head_of_it() -> None:
    tokenizer = Tokenizer(small_architecture())
    began = perf_counter()
    tokenizer([letters(tokens.MAX_HEAD_CHARS)])
    head_s = perf_counter() - began
    began = perf_counter()
    tokenizer([letters(99_999)])
    assert perf_counter() - began < 5 * head_s + 0.5  # without a bound: 600 times as long


def test_words_seen_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_CACHED_WORDS", 50)
    tokenizer = Tokenizer(small_architecture())
    expected = tokenizer(["a red circle"])
    for n in range(40):
        tokenizer([f"{letters(5 + n)} {letters(50 + n)} {letters(100 + n)}"])
        assert len(tokenizer._tokenize.cache) <= 50
    assert torch.equal(tokenizer(["a red circle"]), expected)
    assert tokenizer(["<end_of_text>"])[0, 1] == 49407  # special tokens stay known


def test_many_threads_get_the_same_tokens() -> None:
    tokenizer = Tokenizer(small_architecture())
    texts = [f"{letters(n)} and {letters(n + 30)}" for n in range(1, 60)]
    expected = [tokenizer([text]) for text in texts]
    fresh = Tokenizer(small_architecture())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: fresh([text]), texts * 3))
    assert all(torch.equal(a, b) for a, b in zip(found, expected * 3, strict=True))
