"""Texts to token rows, as open_clip's tokenizers make them, with bounded work for any one text.

Shape legend: B = batch, T = tokens.
"""

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import open_clip
from open_clip.tokenizer import HFTokenizer
from torch import Tensor

from encoder.architecture import Architecture
from encoder.errors import MissingPartError
from encoder.hugging_face import require_transformers, without_network

MAX_HEAD_CHARS = 2_500  # more than 75 tokens of CLIP's vocabulary, at most 32 characters each, and the spaces between
MAX_CACHED_WORDS = 100_000
# What transformers raises where there is no tokenizer, or a damaged one.
_UNLOADABLE = (ImportError, OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)


class Tokenizer:
    """An architecture's tokenizer; safe in any thread, one text at a time.

    Byte-pair encoding takes time quadratic in a word's length: of a longer text only the first
    `MAX_HEAD_CHARS` characters, white space collapsed, are encoded, where without it 100,000 letters in
    one word would take minutes. What open_clip remembers of words it has seen is bounded too.
    """

    def __init__(self, architecture: Architecture) -> None:
        """Builds the tokenizer.

        Raises:
            MissingPartError: the architecture needs a Hugging Face tokenizer that is not on this machine.
        """
        self._tokenize: Any = (
            _hugging_face(architecture) if architecture.hf_tokenizer_name else _byte_pairs(architecture)
        )
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

    def save(self, directory: Path) -> None:
        """Writes a Hugging Face tokenizer's files, where open_clip's `local-dir:` finds them; CLIP's own has none."""
        if isinstance(self._tokenize, HFTokenizer):
            self._tokenize.save_pretrained(directory)


def _head(text: str) -> str:
    return text if len(text) <= MAX_HEAD_CHARS else " ".join(text.split())[:MAX_HEAD_CHARS]


def fetch_tokenizer(architecture: Architecture) -> None:
    """Brings a Hugging Face tokenizer into Hugging Face's cache; may use the network, unlike all else here.

    Raises:
        MissingPartError: it cannot be had.
    """
    if architecture.hf_tokenizer_name:
        _hugging_face(architecture, local_files_only=False)


def _byte_pairs(architecture: Architecture) -> Any:
    text_cfg = architecture.model_cfg["text_cfg"]
    return open_clip.SimpleTokenizer(context_length=_context_length(text_cfg), **text_cfg.get("tokenizer_kwargs", {}))


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
            return HFTokenizer(
                str(architecture.tokenizer_dir or name),
                context_length=_context_length(text_cfg),
                tokenizer_mode=text_cfg.get("tokenizer_mode"),
                **options,
            )
    except _UNLOADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        place = architecture.tokenizer_dir or "Hugging Face's cache"
        raise MissingPartError(
            f"{architecture.name} needs the Hugging Face tokenizer {name}, which cannot be loaded from {place} "
            f"({reason}); put its files beside the weights in a checkpoint directory, or fetch it once with "
            f"`hf download {name}`"
        ) from error


def _context_length(text_cfg: dict[str, Any]) -> int:
    return int(text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH))
