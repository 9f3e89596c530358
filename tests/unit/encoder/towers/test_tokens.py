"""Tokens are open_clip's own; no text takes long, and what is remembered is bounded."""

import random
import string
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anykey.encoder.towers.tokens import WORD_WINDOW, Tokenizer
from tests.networks import TEXT, small_architecture

TEXTS = ["a red circle", "  Über-Größe &amp; 漢字 🙂\n", "x" * 2400, "don't stop " * 300, "<b> 1234 </b> <|pipe|>", ""]
START, END = 49406, 49407


PIECES = ["a", "red", "circle", "don't", "&amp;", "&lt;b&gt;", "<", ">", "|", "of_text", "Straße", "🙂", "漢字", "3.14"]
DRAWN = st.lists(st.sampled_from(PIECES), max_size=90)
MINE, THEIRS = Tokenizer(small_architecture()), open_clip.get_tokenizer("ViT-B-32")


def letters(count: int) -> str:
    return "".join(random.Random(count).choices(string.ascii_lowercase, k=count))


def test_tokens_are_those_of_open_clip() -> None:
    assert torch.equal(Tokenizer(small_architecture())(TEXTS), open_clip.get_tokenizer("ViT-B-32")(TEXTS))


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=200) | DRAWN.map(" ".join) | DRAWN.map("".join))
def test_ordinary_texts_have_the_tokens_of_open_clip_and_are_known_to_be_cut(text: str) -> None:
    rows = MINE.rows([text])
    assert torch.equal(rows.tokens_BT, THEIRS([text]))
    assert rows.is_cut_B == [len(THEIRS.encode(text)) > 75]


@pytest.mark.parametrize("control", ["<end_of_text>", "<start_of_text>", "<END_OF_TEXT>", "&lt;end_of_text&gt;"])
def test_control_tokens_that_a_text_spells_out_are_plain_characters(control: str) -> None:
    row = MINE([f"a small red circle {control} a large blue star"])[0].tolist()
    assert [row.index(token) for token in (START, END)] == [0, row.index(0) - 1]
    assert (row.count(START), row.count(END)) == (1, 1)
    words = THEIRS.encode("a small red circle"), THEIRS.encode("a large blue star")
    assert (row[1:5], row[row.index(END) - 4 : row.index(END)]) == words
    plain = THEIRS.encode(control.lower().replace("&lt;", "<").replace("&gt;", ">").replace("<", "< "))
    assert row[5 : row.index(END) - 4] == plain  # what stands between them, taken apart


@pytest.mark.parametrize(("num_words", "is_cut"), [(74, False), (75, False), (76, True), (3000, True)])
def test_a_text_longer_than_the_context_is_known_to_be_cut(num_words: int, is_cut: bool) -> None:
    assert MINE.rows(["red " * num_words, "short"]).is_cut_B == [is_cut, False]
    assert MINE.context_length == 77


def test_white_space_is_no_part_that_is_cut() -> None:
    assert MINE.rows(["a red circle" + " " * 50_000]).is_cut_B == [False]
    assert MINE.rows(["a red circle" + " " * 50_000 + "b"]).is_cut_B == [False]
    assert MINE.rows([letters(2501)]).is_cut_B == [True]


def test_a_long_context_gets_a_head_that_fills_it() -> None:
    tokenizer = Tokenizer(small_architecture(text={**TEXT, "context_length": 248}))
    text = "artificialintelligence " * 200  # the longest words that are one token
    assert torch.equal(tokenizer([text]), open_clip.get_tokenizer("ViT-B-32")([text], context_length=248))
    assert tokenizer.rows([text, text[: 23 * 246]]).is_cut_B == [False, False]
    assert tokenizer.rows([text * 2]).is_cut_B == [True]


def test_the_context_length_is_the_architectures() -> None:
    architecture = small_architecture(text={**TEXT, "context_length": 16})
    rows = Tokenizer(architecture)(["word " * 30, "short"])
    assert rows.shape == (2, 16)
    assert rows[0, -1] == 49407  # the end token closes a text that was cut


LONG = Tokenizer(small_architecture(text={**TEXT, "context_length": 600}))
ALPHABETS = ["ab", "the", "xyz", "=-_", string.ascii_lowercase, "\u6f22\u5b57", "\U0001f642\U0001f643", "\u0e01\u0e31"]


def whole(text: str, context_length: int = 77) -> Tensor:
    """The tokens by open_clip, which encodes the whole text before it cuts it."""
    return open_clip.get_tokenizer("ViT-B-32")([text], context_length=context_length)


SLOW_ALPHABETS = ("ab", "xyz", "=-_", string.ascii_lowercase, "\U0001f642\U0001f643")


@pytest.mark.parametrize(
    "alphabet", [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW_ALPHABETS)) for each in ALPHABETS]
)
def test_a_word_of_thousands_of_letters_has_the_tokens_of_the_whole_word(alphabet: str) -> None:
    """It is encoded some letters at a time, each time up to where no letter behind changes anything."""
    drawn = random.Random(alphabet)
    for _ in range(3):
        text = "".join(drawn.choices(alphabet, k=drawn.randint(1_500, 2_500) // len(alphabet[0].encode())))
        assert torch.equal(LONG([text]), whole(text, 600))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(ALPHABETS).flatmap(lambda alphabet: st.text(alphabet, min_size=40, max_size=300)))
def test_a_word_longer_than_any_that_is_remembered_has_the_tokens_of_open_clip(text: str) -> None:
    assert torch.equal(MINE([text]), THEIRS([text]))


LINES = st.sampled_from(
    ["", "a red circle", "<b>", "&amp;amp;amp;lt;", "\u00c3\u00a9t\u00e9", "\u200b", "  ", "\x01\x07", "\ufeff", "\x0c",
     "word " * 30, "\u03a3\u03a3", "\r", "\x1c", "\u2028", "\x1b[31mred\x1b[0m", "<" + " " * 2_500]
)  # fmt: skip


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(st.lists(LINES, min_size=1, max_size=12), st.sampled_from([1, 30, 100]), st.sampled_from(["\n", "\r\n", " "]))
def test_a_text_of_many_lines_has_the_tokens_of_the_whole_text(lines: list[str], times: int, end: str) -> None:
    text = end.join(lines * times)
    rows = LONG.rows([text])
    assert torch.equal(rows.tokens_BT, whole(text, 600))
    assert rows.is_cut_B == [len(THEIRS.encode(text)) > 598]


def test_an_entity_behind_a_tag_is_unescaped_as_often_as_in_the_whole_text() -> None:
    """It is unescaped once more where no line before has a `<`."""
    for begin in ("<", "no tag"):
        text = f"{begin}{' ' * 3_000}\n&amp;amp;amp;amp;lt;"
        assert torch.equal(LONG([text]), whole(text, 600))


# Letters, and how many of them have other pieces than those that they have in the whole.
CHANGED_BY_WHAT_FOLLOWS = {
    "bethclaytonfsu": 9,
    "noeluutahusrhoso": 7,
    "confirintrinocity": 15,
    "rosieeducationmetast": 10,
}


@pytest.mark.parametrize(("word", "num_letters"), CHANGED_BY_WHAT_FOLLOWS.items())
def test_letters_behind_a_border_may_change_pieces_far_before_it(word: str, num_letters: int) -> None:
    for number in range(num_letters - 2, num_letters + 3):
        text = "q" * (WORD_WINDOW - number) + word + "q" * 50
        assert torch.equal(LONG([text]), whole(text, 600))


@pytest.mark.parametrize(
    "padding", [" ", "\u200b ", "\x01", "&nbsp;", "\n", "&CounterClockwiseContourIntegral; "], ids=repr
)  # fmt: skip
def test_what_makes_no_tokens_pushes_no_word_out(padding: str) -> None:
    text = padding * 3_000 + " a red circle " + padding * 3_000 + " on blue"
    assert torch.equal(LONG([text]), whole(text, 600))


@pytest.mark.parametrize(
    "letter", ["x", "\u6f22", "=", "\u0e01", "the", "\x01\n", "\n", "&amp;", "\u00c3\u00a9"], ids=repr
)
def test_no_text_takes_long(letter: str) -> None:
    """Encoded whole, a word of 100,000 letters takes minutes."""
    text = (letter * 100_000)[:100_000]
    began = perf_counter()
    MINE.rows([text])
    assert perf_counter() - began < 3


def test_texts_of_random_letters_take_no_longer() -> None:
    began = perf_counter()
    assert MINE.rows([letters(99_999)]).is_cut_B == [True]
    assert perf_counter() - began < 3


def test_words_seen_are_not_remembered_for_ever() -> None:
    tokenizer = Tokenizer(small_architecture(), max_cached_words=50)
    expected = tokenizer(["a red circle"])
    for n in range(40):
        tokenizer([f"{letters(5 + n)} {letters(50 + n)} {letters(100 + n)}"])
        assert len(tokenizer._tokenize.cache) <= 50
    assert torch.equal(tokenizer(["a red circle"]), expected)


def test_texts_without_spaces_are_not_remembered() -> None:
    tokenizer = Tokenizer(small_architecture())
    texts = ["".join(random.Random(n).choices("漢字検索画像文章", k=400)) for n in range(40)]
    expected = tokenizer(texts[:2])
    tracemalloc.start()
    try:
        for text in texts[2:]:
            tokenizer([text])
        assert tracemalloc.get_traced_memory()[0] < 100_000  # remembered, they are 10 KB each
    finally:
        tracemalloc.stop()
    assert torch.equal(tokenizer(texts[:2]), expected)


def test_many_threads_get_the_same_tokens() -> None:
    tokenizer = Tokenizer(small_architecture())
    texts = [f"{letters(n)} and {letters(n + 30)}" for n in range(1, 60)]
    expected = [tokenizer([text]) for text in texts]
    fresh = Tokenizer(small_architecture())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: fresh([text]), texts * 3))
    assert all(torch.equal(a, b) for a, b in zip(found, expected * 3, strict=True))
