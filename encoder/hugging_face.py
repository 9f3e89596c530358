"""What a network needs of Hugging Face's `transformers`: only what is on this machine, unless said otherwise."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import huggingface_hub.constants
from safetensors import SafetensorError

from anykey.encoder.errors import MissingPartError

# What transformers and sentence-transformers raise where files are missing, damaged, or of a model they do not know.
UNLOADABLE = (
    OSError, ImportError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, EOFError,
    UnpicklingError, SafetensorError,
)  # fmt: skip
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")  # one of them is in every directory that holds one


def require_transformers(architecture: str) -> None:
    """Makes sure that the library is there.

    Raises:
        MissingPartError: it is not; says how to install it.
    """
    if find_spec("transformers") is None:
        raise MissingPartError(f"{architecture} needs the library transformers: pip install 'anykey[hf]'")


def require_sentence_transformers(name: str) -> None:
    """Makes sure that sentence-transformers is there.

    Args:
        name: Of the model, for the message.

    Raises:
        MissingPartError: it is not; says how to install it.
    """
    if find_spec("sentence_transformers") is None:
        raise MissingPartError(f"{name} needs the library sentence-transformers: pip install 'anykey[st]'")


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


@contextmanager
def loading_quietly() -> Iterator[None]:
    """Loads without bars and warnings; transformers' remarks then go where those of everything else are logged."""
    import transformers

    logging: Any = transformers.utils.logging
    logging.disable_default_handler()
    logging.enable_propagation()
    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if had_bars:
            logging.enable_progress_bar()


def load_and_compare(load: Callable[[], Any]) -> tuple[Any, list[str], Any]:
    """Loads a model, and again where the library may have drawn weights that it did not find in the files.

    It says so in the log only. What was drawn has changed the state of torch's generator, and is another number when it
    is drawn from another seed.

    Args:
        load: Loads it.

    Returns:
        The model, the names of what was drawn, and the model with other numbers in their place, if there are any.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        before = torch.manual_seed(0).get_state()
        model = load()
        if torch.equal(before, torch.get_rng_state()):
            return model, [], None
        torch.manual_seed(1)
        again = load()
    others = again.state_dict()
    drawn = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, others[name])]
    return model, drawn, again if drawn else None
