"""Texts to token rows, as open_clip's tokenizers make them, in bounded time for any one text.

Control tokens that a text spells out (`<end_of_text>`, `[SEP]`, `</s>`) are plain characters: nothing behind them is
lost, and nobody types their way out of a text.

Shape legend: B = batch, T = tokens.
"""

import copy
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property, lru_cache
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import regex  # type: ignore[import-untyped]
import torch
from open_clip.tokenizer import HFTokenizer
from torch import Tensor

from anykey.encoder.errors import CheckpointCorruptError, MissingPartError
from anykey.encoder.hugging_face import require_transformers, without_network
from anykey.encoder.plain_texts import control_tokens, longer_and_longer, spelled_out
from anykey.encoder.towers.architecture import Architecture

MIN_CONTEXT = 3  # a start, a token and an end
MAX_CACHED_WORDS = 100_000
MAX_CACHED_WORD_BYTES = 50  # in UTF-8; longer ones do not come again, and a text without spaces is one
_CLEANED_CHARS = 2_500  # of a longer text at a time
_BLANK_LINES = re.compile(
    r"\n(?:[ \t\r\x00-\x08\x0b\x0e-\x1f\x7f]*\n)+"
)  # control characters are taken out of all lines
WORD_WINDOW = 1_024  # letters of a long word that are joined at a time
_MOST_BORDERS = 64  # between two pieces that are looked at, from the right, before a longer window is tried
_END_OF_WORD = "</w>"
# What transformers raises where there is no tokenizer, or a damaged one.
_UNLOADABLE = (ImportError, OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)


class TokenRows(NamedTuple):
    """Texts as tokens.

    Attributes:
        tokens_BT: Token ids, padded to the context length.
        is_cut_B: Whether a text has more tokens than fit, so that its end is not among them.
    """

    tokens_BT: Tensor
    is_cut_B: list[bool]


class Tokenizer:
    """An architecture's tokenizer; safe in any thread, one text at a time.

    A text is cut where the context is full, and nowhere before: the tokens are those of the whole text. CLIP's own
    tokenizer would take minutes for one word of 100,000 letters; here a text is cleaned and split only as far as its
    tokens are needed, and a long word's pairs are joined in order of rank from a heap. What is remembered of words that
    came before is bounded too.

    Attributes:
        context_length: T, the most tokens the model takes, the start's and the end's included.
    """

    def __init__(self, architecture: Architecture, max_cached_words: int = MAX_CACHED_WORDS) -> None:
        """Builds the tokenizer.

        Args:
            architecture: Whose tokenizer it is.
            max_cached_words: Words whose tokens are remembered, at most; for CLIP's own tokenizer.

        Raises:
            MissingPartError: the architecture needs a Hugging Face tokenizer that is not on this machine.
        """
        self._tokenize: HFTokenizer | _BytePairs = (
            _hugging_face(architecture)
            if architecture.hf_tokenizer_name
            else _byte_pairs(architecture, max_cached_words)
        )
        self.context_length = _context_length(architecture.model_cfg["text_cfg"])
        self._lock = threading.Lock()  # Hugging Face tokenizers refuse concurrent use

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids `[B, T]`, padded to the context length."""
        return self.rows(texts).tokens_BT

    def rows(self, texts: Sequence[str]) -> TokenRows:
        """Token ids, and which texts were cut."""
        with self._lock:
            if isinstance(self._tokenize, _BytePairs):
                return self._tokenize.rows(list(texts))
            if max(map(len, texts), default=0) <= _CLEANED_CHARS:
                return _rows_of_hugging_face(self._tokenize, list(texts))
            rows = [self._row_of_long(self._tokenize, text) for text in texts]
        return TokenRows(torch.cat([row.tokens_BT for row in rows]), [row.is_cut_B[0] for row in rows])

    def _row_of_long(self, tokenize: HFTokenizer, text: str) -> TokenRows:
        """The row of a text, of which as many lines are read as fill the context; no token goes over two."""
        for head in longer_and_longer(_BLANK_LINES.sub("\n", text), _CLEANED_CHARS):
            row = _rows_of_hugging_face(tokenize, [head])
            if row.is_cut_B[0]:
                break
        return row

    def save(self, directory: Path) -> None:
        """Writes a Hugging Face tokenizer's files, where open_clip's `local-dir:` finds them; CLIP's own has none."""
        if isinstance(self._tokenize, HFTokenizer):
            self._tokenize.save_pretrained(directory)


class _BytePairs(open_clip.SimpleTokenizer):  # type: ignore[misc]
    """CLIP's own tokenizer: no text reaches its control tokens, and it knows how long the last texts were.

    A word stands in CLIP's letters for bytes; its last letter has the mark of a word's end. A symbol is one such letter
    or what was joined of several.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._max_cached_words = MAX_CACHED_WORDS
        control = "|".join(self.decoder[token] for token in self.all_special_ids)
        with_control: Any = self.pat
        self.pat: Any = regex.compile(with_control.pattern.removeprefix(f"{control}|"), with_control.flags)
        self.cache: dict[str, str] = {}
        self._lengths: list[int] = []
        self._is_lazy = self.reduction_fn is None and options.get("clean", "lower") == "lower"

    def with_nothing_cached(self, max_cached_words: int) -> "_BytePairs":
        """The same tokenizer, with nothing remembered of texts that came before."""
        other = copy.copy(self)
        other._max_cached_words, other.cache, other._lengths = max_cached_words, {}, []
        return other

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without start and end; no more than tell that it is longer than the context."""
        tokens: list[int] = []
        room = self.context_length - 2 if self.reduction_fn is None else len(text) * 4
        for cleaned in self._cleaned(text):
            for word in self.pat.finditer(cleaned):
                for pieces in self._pieces("".join(self.byte_encoder[byte] for byte in word[0].encode())):
                    tokens += (self.encoder[piece] for piece in pieces)
                    if len(tokens) > room:
                        self._lengths.append(len(tokens))
                        return tokens
        self._lengths.append(len(tokens))
        return tokens

    def rows(self, texts: list[str]) -> TokenRows:
        """Token ids, and which texts have more than fit between start and end."""
        self._lengths.clear()
        tokens_BT = self(texts)
        if len(self.cache) > self._max_cached_words:
            self.cache = {}
        return TokenRows(tokens_BT, [length > self.context_length - 2 for length in self._lengths])

    def _cleaned(self, text: str) -> Iterator[str]:
        """The cleaned text, some lines at a time: lines are mended one by one, and no word goes over two.

        ftfy takes entities of HTML for text in all lines after a `<`; a line with one before the others says so.
        """
        if not self._is_lazy or len(text) <= _CLEANED_CHARS:
            yield self.clean_fn(text)
            return
        has_tag = False
        for lines in _some_lines(_BLANK_LINES.sub("\n", text)):
            yield self.clean_fn(f"<\n{lines}").removeprefix("<") if has_tag else self.clean_fn(lines)
            has_tag = has_tag or "<" in lines

    def _pieces(self, word: str) -> Iterator[Sequence[str]]:
        """What a word is split into; of a long word some pieces at a time, which no letter behind them could change."""
        if len(word) <= MAX_CACHED_WORD_BYTES:
            yield self.bpe(word).split(" ")
            return
        symbols = [*word[:-1], f"{word[-1]}{_END_OF_WORD}"]
        start, window = 0, WORD_WINDOW
        while start + window < len(symbols):
            pieces = self._joined(symbols[start : start + window])
            num_certain = self._num_certain(pieces, symbols, start + window)
            yield pieces[:num_certain]
            start += sum(map(len, pieces[:num_certain]))
            window = WORD_WINDOW if num_certain else 2 * window
        yield self._joined(symbols[start:])

    def _num_certain(self, pieces: list[str], symbols: list[str], end: int) -> int:
        """How many of the pieces before `end` are those of the whole word.

        They are, up to a border that holds for whatever piece may come behind it: for every token that the following
        letters begin with, the piece before and that token stay as they are. For joins are made in order of rank, so
        a join over the border would be of two symbols within these two.
        """
        for number in range(len(pieces) - 1, max(0, len(pieces) - _MOST_BORDERS), -1):
            end -= len(pieces[number])
            behind = symbols[end : end + self._longest]
            starts = (behind[:length] for length in range(1, len(behind) + 1))
            possible = [start for start in starts if "".join(start) in self.encoder and len(self._joined(start)) == 1]
            before = list(pieces[number - 1])
            if all(self._joined(before + start) == [pieces[number - 1], "".join(start)] for start in possible):
                return number
        return 0

    @cached_property
    def _longest(self) -> int:
        """The letters of the longest token."""
        return max(len(token.removesuffix(_END_OF_WORD)) for token in self.encoder)

    def _joined(self, symbols: list[str]) -> list[str]:
        """The symbols after all joins, those of the lowest rank first and among equals from the left; a new list."""
        symbols = symbols.copy()
        rank, end = self.bpe_ranks.get, len(symbols)
        after, before = list(range(1, end + 1)), list(range(-1, end - 1))
        heap = [(r, i, pair) for i, pair in enumerate(pairwise(symbols)) if (r := rank(pair)) is not None]
        heapify(heap)
        while heap:
            _, left, pair = heappop(heap)
            right = after[left]
            if right == end or (symbols[left], symbols[right]) != pair:
                continue  # one of the two has been joined to something else
            symbols[left], symbols[right] = pair[0] + pair[1], ""
            after[left] = after[right]
            if after[left] < end:
                before[after[left]] = left
            for one, other in ((before[left], left), (left, after[left])):
                if one >= 0 and other < end and (r := rank((symbols[one], symbols[other]))) is not None:
                    heappush(heap, (r, one, (symbols[one], symbols[other])))
        return [symbol for symbol in symbols if symbol]


def _rows_of_hugging_face(tokenize: HFTokenizer, texts: list[str]) -> TokenRows:
    tokens_BT = tokenize(texts)
    return TokenRows(tokens_BT, _cut_by_hugging_face(tokenize, texts, tokens_BT))


def _some_lines(text: str) -> Iterator[str]:
    """The text cut at ends of lines, each part of no more lines than it takes to be long enough to be worth it."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + _CLEANED_CHARS) + 1
        yield text[start : end or len(text)]
        start = end or len(text)


def _cut_by_hugging_face(tokenize: HFTokenizer, texts: list[str], tokens_BT: Tensor) -> list[bool]:
    """Which texts were cut: only rows without padding can have been, and those are measured whole."""
    tokenizer = tokenize.tokenizer
    is_clips = tokenize.tokenizer_mode == "clips"
    ends = (getattr(tokenizer, name, None) for name in ("eos_token_id", "sep_token_id", "cls_token_id"))
    pad = None if tokenizer.pad_token_id in ends else tokenizer.pad_token_id
    full = [i for i, row in enumerate(tokens_BT.tolist()) if pad is None or pad not in row]
    is_cut_B = [False] * len(texts)
    if full:
        cleaned = [tokenize.clean_fn(texts[i]) for i in full]
        whole = tokenizer(cleaned, add_special_tokens=not is_clips, padding=False, truncation=False, verbose=False)
        room = tokenize.context_length - (3 if is_clips else 0)
        for i, tokens in zip(full, whole.input_ids, strict=True):
            is_cut_B[i] = len(tokens) > room
    return is_cut_B


def fetch_tokenizer(architecture: Architecture) -> None:
    """Brings a Hugging Face tokenizer into Hugging Face's cache; may use the network, unlike all else here.

    Raises:
        MissingPartError: it cannot be had.
    """
    if architecture.hf_tokenizer_name:
        _hugging_face(architecture, local_files_only=False)


@lru_cache(maxsize=8)
def _read_byte_pairs(context_length: int, options_json: str) -> _BytePairs:
    """The tokenizer with these options, read once: its vocabulary never changes, and takes a while."""
    return _BytePairs(context_length=context_length, **json.loads(options_json))


def _byte_pairs(architecture: Architecture, max_cached_words: int) -> _BytePairs:
    text_cfg = architecture.model_cfg["text_cfg"]
    try:
        options = json.dumps(text_cfg.get("tokenizer_kwargs", {}))
        return _read_byte_pairs(_context_length(text_cfg), options).with_nothing_cached(max_cached_words)
    except (TypeError, ValueError, AssertionError) as error:
        raise CheckpointCorruptError(f"{architecture.name}: its text_cfg makes no tokenizer: {error}") from error


def _hugging_face(architecture: Architecture, local_files_only: bool = True) -> HFTokenizer:
    """The tokenizer that the configuration names, or none: another one's tokens would give wrong vectors."""
    require_transformers(architecture.name)
    text_cfg = architecture.model_cfg["text_cfg"]
    name = architecture.hf_tokenizer_name
    options = {
        **text_cfg.get("tokenizer_kwargs", {}),
        "local_files_only": local_files_only,
        "trust_remote_code": False,
    }
    try:
        with without_network() if local_files_only else nullcontext():
            tokenizer = HFTokenizer(
                str(architecture.tokenizer_dir or name),
                context_length=_context_length(text_cfg),
                tokenizer_mode=text_cfg.get("tokenizer_mode"),
                **options,
            )
            clean, control = tokenizer.clean_fn, control_tokens(tokenizer.tokenizer)
            tokenizer.clean_fn = lambda text: spelled_out(clean(text), control)
            return tokenizer
    except _UNLOADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        place = architecture.tokenizer_dir or "Hugging Face's cache"
        raise MissingPartError(
            f"{architecture.name} needs the Hugging Face tokenizer {name}, which cannot be loaded from {place} "
            f"({reason}); put its files beside the weights in a checkpoint directory, or fetch it once with "
            f"`hf download {name}`"
        ) from error


def _context_length(text_cfg: dict[str, Any]) -> int:
    length = int(text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH))
    if length < MIN_CONTEXT:
        raise CheckpointCorruptError(f"context_length must be at least {MIN_CONTEXT}, got {length}")
    return length
