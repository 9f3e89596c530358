"""What a network needs of Hugging Face's `transformers`: only what is on this machine, unless said otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub.constants

from anykey.encoder.errors import MissingPartError

TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")  # one of them is in every directory that holds one


def require_transformers(architecture: str) -> None:
    """Makes sure that the library is there.

    Raises:
        MissingPartError: it is not; says how to install it.
    """
    if find_spec("transformers") is None:
        raise MissingPartError(f"{architecture} needs the library transformers: pip install 'anykey[hf]'")


def holds_tokenizer(directory: Path) -> bool:
    """Whether a tokenizer was saved in the directory."""
    return any((directory / name).is_file() for name in TOKENIZER_FILES)


@contextmanager
def without_network() -> Iterator[None]:
    """Shows Hugging Face's libraries what is on this machine and nothing else, as `HF_HUB_OFFLINE=1` does."""
    was_offline = huggingface_hub.constants.HF_HUB_OFFLINE
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = was_offline
