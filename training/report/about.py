"""What the report is told of a run beside its measurements, and the pairs that it shows."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from anykey.sources.errors import InvalidRowError
from anykey.training.table import PairTable

MAX_SIDE_PX = 96
MAX_CAPTION_CHARS = 160
_JPEG_QUALITY = 75


@dataclass(frozen=True)
class ShownPair:
    """A held-out pair as a person sees it.

    Attributes:
        query_text: Its caption as a query: the second, or else the first.
        key_text: Its caption as a key: the first.
        picture: A small JPEG as a `data:` address; `None` where the image cannot be read any more.
    """

    query_text: str
    key_text: str
    picture: str | None


@dataclass(frozen=True)
class About:
    """What a run says of itself.

    Attributes:
        facts: What a reader should know, by name.
        settings: The settings as they were in force, by name.
        idle: Names of settings that had no effect.
        judging: Which pairs chose `best`, and which are reported; a sentence.
        warnings: What keeps the numbers from meaning what they seem to; sentences.
        advice: What to do now, from what was measured; sentences.
        pairs: Held-out pairs that are shown, by their number among the captioned ones.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    idle: Sequence[str] = ()
    judging: str = ""
    warnings: Sequence[str] = ()
    advice: Sequence[str] = ()
    pairs: Mapping[int, ShownPair] = field(default_factory=dict)


def shown_pairs(table: PairTable, numbers: Iterable[int]) -> dict[int, ShownPair]:
    """Pictures and captions of some of a table's captioned pairs, by their number among these."""
    captioned = table.captioned()
    return {number: _shown(table, int(captioned.pair_P[number]), int(captioned.image_P[number])) for number in numbers}


def _shown(table: PairTable, pair: int, image: int) -> ShownPair:
    try:
        captions = table.pair(pair).captions
        picture = _picture(table, image)
    except (InvalidRowError, OSError):  # the data are no longer there: the numbers still are
        return ShownPair("(no longer there)", "(no longer there)", None)
    return ShownPair(_cut(captions[min(1, len(captions) - 1)]), _cut(captions[0]), picture)


def _picture(table: PairTable, image: int) -> str:
    """An image as the model saw it, made small."""
    picture = Image.fromarray(table.pixels(image).permute(1, 2, 0).numpy())
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _cut(caption: str) -> str:
    words = " ".join(caption.split())
    return words if len(words) <= MAX_CAPTION_CHARS else words[: MAX_CAPTION_CHARS - 3] + "..."
