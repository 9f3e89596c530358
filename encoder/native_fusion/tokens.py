"""Texts to token ids, as the tokenizer of the text encoder makes them, with bounded work for any one text.

Control tokens that a text spells out (`[SEP]`, `</s>`) are plain characters.

Shape legend: S = texts, T = tokens.
"""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anykey.encoder.errors import CheckpointCorruptError, MissingPartError
from anykey.encoder.hugging_face import require_transformers, without_network
from anykey.encoder.plain_texts import control_tokens, head_chars, longer_and_longer, spelled_out

# What a tokenizer of transformers may be made of.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
)
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
# What transformers raises where there is no tokenizer, or a damaged one.
_UNLOADABLE = (ImportError, OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)


class Tokenizer:
    """A directory's tokenizer; safe in any thread, one call at a time.

    Attributes:
        empty: The ids of the text without a character: a start and an end.
        digest: Of the tokenizer's files.
    """

    def __init__(self, name: str, directory: Path) -> None:
        """Loads it.

        Args:
            name: Of the model, for messages.
            directory: Holds its files.

        Raises:
            MissingPartError: transformers, or the files, are not there.
            CheckpointCorruptError: its texts have no start or no end.
        """
        require_transformers(name)
        self._files = {file: (directory / file).read_bytes() for file in _FILES if (directory / file).is_file()}
        self._tokenizer = _load(name, directory)
        self._control = control_tokens(self._tokenizer)
        self._lock = threading.Lock()  # they refuse concurrent use
        self._ends = (self._tokenizer.cls_token_id, self._tokenizer.sep_token_id)
        self.empty: list[int] = self._ids([""])[0]
        if self.empty != list(self._ends):
            raise CheckpointCorruptError(
                f"{directory}: the tokenizer makes the ids {self.empty} of an empty text, expected a start and an end"
            )
        names_and_bytes = (name.encode() + content for name, content in sorted(self._files.items()))
        self.digest = hashlib.sha256(b"".join(names_and_bytes)).hexdigest()

    @property
    def num_ids(self) -> int:
        """How many ids there are."""
        return len(self._tokenizer)

    @property
    def end(self) -> int:
        """The id of a text's end, which occurs nowhere else."""
        return self.empty[-1]

    def rows(self, texts: Sequence[str], max_tokens: int) -> list[tuple[list[int], bool]]:
        """The ids of each text, start and end included, and whether its end is not among them.

        Args:
            texts: Any texts.
            max_tokens: Where a longer one is cut; start and end stay.
        """
        if max(map(len, texts), default=0) <= head_chars(max_tokens):
            rows = self._ids([spelled_out(text, self._control) for text in texts])
        else:
            rows = [self._row_of_long(text, max_tokens) for text in texts]
        return [(row, False) if len(row) <= max_tokens else ([*row[: max_tokens - 1], self.end], True) for row in rows]

    def _row_of_long(self, text: str, max_tokens: int) -> list[int]:
        """The ids of a text, of which as many lines are read as make more than are wanted."""
        for head in longer_and_longer(text, head_chars(max_tokens)):
            (row,) = self._ids([spelled_out(head, self._control)])
            if len(row) > max_tokens:
                break
        return row

    def save(self, directory: Path) -> None:
        """Writes its files as they were."""
        for name, content in self._files.items():
            (directory / name).write_bytes(content)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        with self._lock:
            rows: list[list[int]] = self._tokenizer(texts, truncation=False, verbose=False).input_ids
        return rows


def _load(name: str, directory: Path) -> Any:
    import transformers

    library: Any = transformers
    try:
        if not any((directory / file).is_file() for file in _VOCABULARIES):
            raise FileNotFoundError("no vocabulary")  # without one, transformers makes a tokenizer that knows no word
        with without_network():
            return library.AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except _UNLOADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingPartError(
            f"{name} needs the tokenizer of its text encoder, which cannot be loaded from {directory} ({reason}); "
            "its files (tokenizer.json, tokenizer_config.json, ...) belong there, beside config.json"
        ) from error
