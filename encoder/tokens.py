"""Texts to token rows, as open_clip's tokenizers make them, with bounded work for any one text.

Shape legend: B = batch, T = tokens.
"""

import threading
from collections.abc import Sequence
from typing import Any

import open_clip
from torch import Tensor

from encoder.architecture import Architecture
from encoder.errors import CheckpointNotFoundError

MAX_HEAD_CHARS = 2_500  # more than 75 tokens of CLIP's vocabulary, at most 32 characters each, and the spaces between
MAX_CACHED_WORDS = 100_000


class Tokenizer:
    """An architecture's tokenizer; safe in any thread, one text at a time.

    Byte-pair encoding takes time quadratic in a word's length: of a longer text only the first
    `MAX_HEAD_CHARS` characters, white space collapsed, are encoded, where without it 100,000 letters in
    one word would take minutes. What open_clip remembers of words it has seen is bounded too.
    """

    def __init__(self, architecture: Architecture) -> None:
        """Builds the tokenizer.

        Raises:
            CheckpointNotFoundError: the architecture needs a Hugging Face tokenizer that is not there.
        """
        self._tokenize = _open_clip_tokenizer(architecture)
        self._lock = threading.Lock()  # Hugging Face tokenizers refuse concurrent use
        self._known_words = dict(getattr(self._tokenize, "cache", {}))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids `[B, T]`, padded to the context length."""
        heads = [_head(text) for text in texts]
        with self._lock:
            tokens_BT: Tensor = self._tokenize(heads)
            if len(getattr(self._tokenize, "cache", ())) > MAX_CACHED_WORDS:
                self._tokenize.cache = dict(self._known_words)
        return tokens_BT


def _head(text: str) -> str:
    return text if len(text) <= MAX_HEAD_CHARS else " ".join(text.split())[:MAX_HEAD_CHARS]


def _open_clip_tokenizer(architecture: Architecture) -> Any:
    text_cfg = architecture.model_cfg["text_cfg"]
    if not text_cfg.get("hf_tokenizer_name"):
        options = text_cfg.get("tokenizer_kwargs", {})
        return open_clip.SimpleTokenizer(context_length=text_cfg.get("context_length", 77), **options)
    try:
        return open_clip.get_tokenizer(architecture.name)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointNotFoundError(
            f"{architecture.name} needs the Hugging Face tokenizer {text_cfg['hf_tokenizer_name']}: {reason}"
        ) from error
