"""Texts to token rows, as open_clip's tokenizers make them, with bounded work for any one text.

Control tokens that a text spells out (`<end_of_text>`, `[SEP]`, `</s>`) are plain characters: nothing behind them is
lost, and nobody types their way out of a text.

Shape legend: B = batch, T = tokens.
"""

import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import regex  # type: ignore[import-untyped]
from open_clip.tokenizer import HFTokenizer
from torch import Tensor

from anykey.encoder.architecture import Architecture
from anykey.encoder.errors import CheckpointCorruptError, MissingPartError
from anykey.encoder.hugging_face import require_transformers, without_network

MIN_CONTEXT = 3  # a start, a token and an end
MAX_TOKEN_CHARS = 32  # of CLIP's vocabulary, with the mark of a word's end, which stands for the space between
MIN_HEAD_CHARS = 2_500
MAX_CACHED_WORDS = 100_000
MAX_CACHED_WORD_BYTES = 50  # in UTF-8; longer ones do not come again, and a text without spaces is one
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

    Byte-pair encoding takes time quadratic in a word's length: of a longer text only the first
    `MIN_HEAD_CHARS` characters (more where the context is long), white space collapsed, are encoded, where without it
    100,000 letters in one word would take minutes. What open_clip remembers of words it has seen is bounded too.

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
        self._head_chars = max(MIN_HEAD_CHARS, MAX_TOKEN_CHARS * self.context_length)
        self._lock = threading.Lock()  # Hugging Face tokenizers refuse concurrent use

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids `[B, T]`, padded to the context length."""
        return self.rows(texts).tokens_BT

    def rows(self, texts: Sequence[str]) -> TokenRows:
        """Token ids, and which texts were cut."""
        heads = [_head(text, self._head_chars) for text in texts]
        short = [head for head, _ in heads]
        with self._lock:
            if isinstance(self._tokenize, _BytePairs):
                tokens_BT, is_cut_B = self._tokenize.rows(short)
            else:
                tokens_BT = self._tokenize(short)
                is_cut_B = _cut_by_hugging_face(self._tokenize, short, tokens_BT)
        return TokenRows(tokens_BT, [cut or was_long for cut, (_, was_long) in zip(is_cut_B, heads, strict=True)])

    def save(self, directory: Path) -> None:
        """Writes a Hugging Face tokenizer's files, where open_clip's `local-dir:` finds them; CLIP's own has none."""
        if isinstance(self._tokenize, HFTokenizer):
            self._tokenize.save_pretrained(directory)


class _BytePairs(open_clip.SimpleTokenizer):  # type: ignore[misc]
    """CLIP's own tokenizer: no text reaches its control tokens, and it knows how long the last texts were."""

    def __init__(self, max_cached_words: int, **options: Any) -> None:
        super().__init__(**options)
        self._max_cached_words = max_cached_words
        control = "|".join(self.decoder[token] for token in self.all_special_ids)
        with_control: Any = self.pat
        self.pat: Any = regex.compile(with_control.pattern.removeprefix(f"{control}|"), with_control.flags)
        self.cache: dict[str, str] = {}
        self._lengths: list[int] = []

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without start and end."""
        tokens: list[int] = super().encode(text)
        self._lengths.append(len(tokens))
        return tokens

    def bpe(self, token: str) -> str:
        """The pieces of a word, which stands in CLIP's letters for bytes."""
        pieces: str = super().bpe(token)
        if len(token) > MAX_CACHED_WORD_BYTES:
            self.cache.pop(token, None)
        return pieces

    def rows(self, texts: list[str]) -> tuple[Tensor, list[bool]]:
        """Token ids, and which texts have more than fit between start and end."""
        self._lengths.clear()
        tokens_BT = self(texts)
        if len(self.cache) > self._max_cached_words:
            self.cache = {}
        return tokens_BT, [length > self.context_length - 2 for length in self._lengths]


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
        whole = tokenizer(cleaned, add_special_tokens=not is_clips, padding=False, truncation=False)
        room = tokenize.context_length - (3 if is_clips else 0)
        for i, tokens in zip(full, whole.input_ids, strict=True):
            is_cut_B[i] = len(tokens) > room
    return is_cut_B


def _control_tokens(tokenizer: Any) -> list[str]:
    """What a Hugging Face tokenizer takes for control tokens wherever it stands, but for those that are plain words."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {*getattr(tokenizer, "all_special_tokens", ()), *(str(token) for token in added if token.special)}
    return sorted(name for name in names if len(name) > 1 and not name[0].isalnum())


def _spelled_out(text: str, control: list[str]) -> str:
    """The text with a space within each control token, which makes plain characters of it; all else as it is.

    Letters that a tokenizer may take for those of a control token, such as full-width ones, count as such.
    """
    pieces = _folded(text)
    folded = "".join(pieces)
    cuts = {place + 1 for token in control for place in _places("".join(_folded(token)), folded)}
    if not cuts:
        return text
    kept, start = [], 0
    for character, piece in zip(text, pieces, strict=True):
        is_cut_L = [start + n in cuts for n in range(len(piece))]
        start += len(piece)
        if any(is_cut_L[1:]):  # one character stands for several of the token's
            kept += [f" {letter}" if is_cut else letter for letter, is_cut in zip(piece, is_cut_L, strict=True)]
        else:
            kept.append(f" {character}" if is_cut_L[0] else character)
    return "".join(kept)


def _folded(text: str) -> list[str]:
    """What each character is in Unicode's form NFKC, one or several letters."""
    return [unicodedata.normalize("NFKC", character) for character in text]


def _places(token: str, text: str) -> Iterator[int]:
    """Where a token begins in a text."""
    place = text.find(token)
    while place >= 0:
        yield place
        place = text.find(token, place + 1)


def _head(text: str, max_chars: int) -> tuple[str, bool]:
    """What is encoded of a text, and whether that is less than all of it."""
    if len(text) <= max_chars:
        return text, False
    collapsed = " ".join(text.split())
    return collapsed[:max_chars], len(collapsed) > max_chars


def fetch_tokenizer(architecture: Architecture) -> None:
    """Brings a Hugging Face tokenizer into Hugging Face's cache; may use the network, unlike all else here.

    Raises:
        MissingPartError: it cannot be had.
    """
    if architecture.hf_tokenizer_name:
        _hugging_face(architecture, local_files_only=False)


def _byte_pairs(architecture: Architecture, max_cached_words: int) -> _BytePairs:
    text_cfg = architecture.model_cfg["text_cfg"]
    try:
        context_length = _context_length(text_cfg)
        return _BytePairs(max_cached_words, context_length=context_length, **text_cfg.get("tokenizer_kwargs", {}))
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
            clean, control = tokenizer.clean_fn, _control_tokens(tokenizer.tokenizer)
            tokenizer.clean_fn = lambda text: _spelled_out(clean(text), control)
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
