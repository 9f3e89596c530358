"""Pairs made ready for training: captions tokenised once, images decoded once where memory allows.

Shape legend: P = pairs, S = captions of all pairs together, T = tokens, C, H, W = image.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize

from encoder.errors import InvalidItemError
from encoder.images import ImageLimits, decode_image
from training.errors import InvalidRowError, NoPairsError, TooManyBadRowsError
from training.pairs import Pair, PairSource

_TOKENIZE_CHUNK = 1024


Advance = Callable[[int], None]  # told how many more pairs are done


@dataclass(frozen=True)
class BadRow:
    """A row that was skipped, and why."""

    where: str
    reason: str


class ImageReader:
    """One pair's image as uint8 pixels `[C, H, W]`, resized as the encoder does; normalised later, by the batch.

    Attributes:
        num_bytes: Memory that one image takes.
    """

    def __init__(self, preprocess_cfg: PreprocessCfg, limits: ImageLimits) -> None:
        transform = image_transform_v2(preprocess_cfg, is_train=False)
        self._resize = Compose([step for step in transform.transforms if not isinstance(step, Normalize)][:-1])
        size = preprocess_cfg.size
        height, width = (size, size) if isinstance(size, int) else size
        self.num_bytes = 3 * height * width
        self._target_px = max(height, width)
        self._limits = limits

    def __call__(self, image: Any) -> NDArray[np.uint8]:
        """Decodes and resizes; raises `InvalidItemError` when the image cannot be read."""
        resized: Image.Image = self._resize(decode_image(image, self._limits, self._target_px))
        pixels_HWC = np.asarray(resized.convert("RGB"))
        return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))


@dataclass
class PairTable:
    """The pairs that can be used, by position.

    Attributes:
        source: Where they come from.
        position_P: Each pair's position in the source; bad rows are left out.
        tokens_ST: All captions' tokens, padded to the model's context length.
        caption_start_P: First caption of each pair in `tokens_ST`; one more entry marks the end.
        image_id_P: Equal numbers mean equal images.
        text_id_S: Equal numbers mean equal captions, but for case and white space.
        pixels_PCHW: Decoded images, or `None` when they are decoded anew each time.
        reader: Decodes an image.
        bad_rows: The rows left out.
    """

    source: PairSource
    position_P: Tensor
    tokens_ST: Tensor
    caption_start_P: Tensor
    image_id_P: Tensor
    text_id_S: Tensor
    pixels_PCHW: Tensor | None
    reader: ImageReader
    bad_rows: list[BadRow]

    def __len__(self) -> int:
        return len(self.position_P)

    def pixels(self, row: int) -> Tensor:
        """Pixels `[C, H, W]`, uint8, of one pair; raises `InvalidRowError` when the image cannot be read."""
        if self.pixels_PCHW is not None:
            return self.pixels_PCHW[row]
        pair = self.source[int(self.position_P[row])]
        try:
            return torch.from_numpy(self.reader(pair.image))
        except InvalidItemError as error:
            raise InvalidRowError(pair.where or pair.name, error.reason) from error


@dataclass(frozen=True)
class _Row:
    """What is kept of a pair while the table is made."""

    position: int
    captions: tuple[str, ...]
    image_digest: bytes
    pixels_CHW: NDArray[np.uint8] | None


def read_table(
    source: PairSource,
    tokenize: Callable[[list[str]], Tensor],
    reader: ImageReader,
    cache_images_bytes: int,
    max_bad_share: float,
    advance: Advance,
    check_images: bool = False,
) -> PairTable:
    """Reads every pair once.

    Args:
        source: The pairs.
        tokenize: Texts to padded token rows.
        reader: Decodes images.
        cache_images_bytes: Decoded images are kept if all of them fit in this.
        max_bad_share: Largest share of bad rows that is accepted.
        advance: Told after each pair.
        check_images: Decode every image now even if it is not kept, where a bad one could not be left out later.

    Raises:
        TooManyBadRowsError: the data are worse than `max_bad_share`.
        NoPairsError: not one pair is left.
    """
    keep_pixels = reader.num_bytes * len(source) <= cache_images_bytes
    rows: list[_Row] = []
    bad_rows: list[BadRow] = []
    for row in _read_rows(source, reader if keep_pixels or check_images else None, keep_pixels, advance):
        if isinstance(row, BadRow):
            bad_rows.append(row)
        else:
            rows.append(row)
    check_bad_share(bad_rows, len(source), max_bad_share)
    if not rows:
        raise NoPairsError("every row of the data is bad")
    captions = [caption for row in rows for caption in row.captions]
    pixels = torch.from_numpy(np.stack([_pixels(row) for row in rows])) if keep_pixels else None
    return PairTable(
        source=source,
        position_P=torch.tensor([row.position for row in rows]),
        tokens_ST=_tokenize(captions, tokenize),
        caption_start_P=torch.tensor([0, *(len(row.captions) for row in rows)]).cumsum(0),
        image_id_P=_identify([row.image_digest for row in rows]),
        text_id_S=_identify([" ".join(caption.lower().split()) for caption in captions]),
        pixels_PCHW=pixels,
        reader=reader,
        bad_rows=bad_rows,
    )


def check_bad_share(bad_rows: list[BadRow], num_rows: int, max_bad_share: float) -> None:
    """Raises `TooManyBadRowsError` when more than `max_bad_share` of the rows are bad."""
    if len(bad_rows) > max_bad_share * num_rows:
        first = bad_rows[0]
        raise TooManyBadRowsError(
            f"{len(bad_rows)} of {num_rows} rows are bad, more than the share of {max_bad_share:g} allowed; "
            f"the first: {first.where}: {first.reason}"
        )


def _read_rows(
    source: PairSource, reader: ImageReader | None, keep_pixels: bool, advance: Advance
) -> Iterator[_Row | BadRow]:
    """Reads in source order, a few threads decoding ahead."""

    def read(position: int) -> _Row | BadRow:
        try:
            pair = source[position]
            pixels_CHW = reader(pair.image) if reader else None
            digest = _digest(pair)
        except InvalidRowError as error:
            return BadRow(error.where, error.reason)
        except InvalidItemError as error:
            return BadRow(pair.where or pair.name, error.reason)
        return _Row(position, pair.captions, digest, pixels_CHW if keep_pixels else None)

    positions = iter(range(len(source)))
    with ThreadPoolExecutor(max_workers=4) as pool:
        while chunk := list(islice(positions, 256)):
            for row in pool.map(read, chunk):
                advance(1)
                yield row


def _digest(pair: Pair) -> bytes:
    """Of the image's bytes: one photo under two names is one image."""
    if isinstance(pair.image, bytes):
        return hashlib.sha256(pair.image).digest()
    try:
        return hashlib.sha256(pair.image.read_bytes()).digest()
    except OSError as error:
        raise InvalidRowError(pair.where or pair.name, f"cannot read {pair.image}: {error.strerror}") from error


def _pixels(row: _Row) -> NDArray[np.uint8]:
    assert row.pixels_CHW is not None
    return row.pixels_CHW


def _identify(values: list[Any]) -> Tensor:
    """Numbers the distinct values in order of appearance."""
    numbers: dict[Any, int] = {}
    return torch.tensor([numbers.setdefault(value, len(numbers)) for value in values])


def _tokenize(captions: list[str], tokenize: Callable[[list[str]], Tensor]) -> Tensor:
    chunks = [
        tokenize(captions[start : start + _TOKENIZE_CHUNK]).int() for start in range(0, len(captions), _TOKENIZE_CHUNK)
    ]
    return torch.cat(chunks)
