"""Synthetic pairs for measuring speed: noise, and captions of random words with the lengths that matter."""

import random
from pathlib import Path
from typing import Literal

from PIL import Image

from tests.drawn_pairs import write_tar
from tests.pictures import encoded

Captions = Literal["full", "natural"]
FULL_WORDS = 80  # more than CLIP's context of 77 tokens holds
# Flickr8k's 40,000 captions: how many in a thousand have so many words.
NATURAL_WORDS = {4: 6, 5: 14, 6: 32, 7: 67, 8: 85, 9: 95, 10: 107, 11: 108, 12: 101, 13: 91, 14: 76, 15: 61}
NATURAL_WORDS |= {16: 44, 17: 34, 18: 24, 19: 18, 20: 12, 21: 8, 22: 5, 23: 4, 24: 3, 25: 2, 26: 2, 30: 1}
# One token each in CLIP's vocabulary.
_WORDS = (
    "a the of on in with and to is at two man woman dog boy girl child people street water grass snow beach ball "
    "red blue green white black yellow brown orange large small young old running jumping playing sitting standing "
    "walking wearing holding looking front behind near field park road car bike horse cat bird tree house city"
)


def write_pairs(path: Path, count: int, captions: Captions, size_px: int, seed: int = 0) -> Path:
    """A WebDataset shard of `count` different pairs.

    Args:
        path: The `.tar` file.
        count: How many.
        captions: `full`: they fill the context of any CLIP; `natural`: as many words as Flickr8k's.
        size_px: The pictures' side.
        seed: Of everything random.
    """
    generator = random.Random(seed)
    members = []
    for number in range(count):
        members.append((f"{number:06}.png", encoded(_noise(generator, size_px), "PNG")))
        members.append((f"{number:06}.txt", caption(generator, captions).encode()))
    return write_tar(path, members)


def caption(generator: random.Random, captions: Captions) -> str:
    """One caption of random words."""
    lengths = list(NATURAL_WORDS)
    count = generator.choices(lengths, list(NATURAL_WORDS.values()))[0] if captions == "natural" else FULL_WORDS
    return " ".join(generator.choices(_WORDS.split(), k=count))


def _noise(generator: random.Random, size_px: int) -> Image.Image:
    """Coarse coloured noise."""
    return Image.frombytes("RGB", (8, 8), generator.randbytes(8 * 8 * 3)).resize((size_px, size_px))
