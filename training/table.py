"""Pairs made ready for training: texts tokenised once, images decoded once where memory allows.

Shape legend: P = pairs, J = items of all pairs together, I = images, S = texts, T = tokens, C, H, W = image.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anykey.encoder.errors import InvalidItemError
from anykey.encoder.images import ImageLimits, decode_image, read_image_file
from anykey.sources.errors import InvalidRowError, NoPairsError
from anykey.sources.pairs.pair import Pair, PairSource, Side
from anykey.training.errors import TooManyBadRowsError
from anykey.training.family import ImageInput

_TOKENIZE_CHUNK = 1024


Advance = Callable[[int], None]  # told how many more pairs are done
Tokenize = Callable[[Sequence[str]], tuple[Tensor, list[bool]]]  # token rows, and which texts were cut


@dataclass(frozen=True)
class BadRow:
    """A row that was skipped, and why."""

    where: str
    reason: str


class ImageReader:
    """One pair's image as uint8 pixels `[C, H, W]`, of the model's size; normalised later, by the batch.

    Attributes:
        num_bytes: Memory that one image takes.
        identity: Readers of one identity make the same pixels of the same bytes; limits only refuse some.
    """

    def __init__(self, image_input: ImageInput, limits: ImageLimits) -> None:
        height, width = image_input.size_px
        self.num_bytes = 3 * height * width
        self.identity = image_input.identity
        self._resize = image_input.resize
        self._target_px = max(height, width)
        self._limits = limits.for_input(self._target_px, image_input.resize_mode)

    def read(self, image: bytes | Path) -> bytes:
        """The image's bytes; raises `InvalidItemError` when there is no such file, or a larger one than accepted."""
        return image if isinstance(image, bytes) else read_image_file(image, self._limits)

    def __call__(self, image: Any) -> NDArray[np.uint8]:
        """Decodes and resizes; raises `InvalidItemError` when the image cannot be read."""
        resized = self._resize(decode_image(image, self._limits, self._target_px))
        pixels_HWC = np.asarray(resized.convert("RGB"))
        return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))


@dataclass
class PairTable:
    """The pairs that can be used, by position, each with its items: its own, its query, its negatives.

    Attributes:
        source: Where they come from.
        position_P: Each pair's position in the source; bad rows are left out.
        entry_P: Which named source, in the order of the names, each pair is from.
        item_start_P: First item of each pair; one more entry marks the end. A pair's own item comes first.
        has_query_P: Whether a pair's second item is its query.
        group_P: Equal numbers, from 0, mean that two pairs are known to be alike; -1 where nothing is known.
        item_image_J: Each item's image, or -1.
        item_text_J: First text of each item in `tokens_ST`; one more entry marks the end.
        item_id_J: Equal numbers mean equal items.
        tokens_ST: All texts' tokens, padded to the model's context length.
        text_id_S: Equal numbers mean equal texts, but for case and white space.
        image_pair_I: Pair of each image.
        image_part_I: Place of each image's item among its pair's items.
        image_id_I: Equal numbers mean equal images.
        images_digest: Of all images' bytes, in order.
        pixels_ICHW: Decoded images, or `None` when they are decoded anew each time.
        reader: Decodes an image.
        bad_rows: The rows left out.
        num_cut_texts: How many texts have more tokens than the model takes, so that their ends are not learned.
    """

    source: PairSource
    position_P: Tensor
    entry_P: Tensor
    item_start_P: Tensor
    has_query_P: Tensor
    group_P: Tensor
    item_image_J: Tensor
    item_text_J: Tensor
    item_id_J: Tensor
    tokens_ST: Tensor
    text_id_S: Tensor
    image_pair_I: Tensor
    image_part_I: Tensor
    image_id_I: Tensor
    images_digest: str
    pixels_ICHW: Tensor | None
    reader: ImageReader
    bad_rows: list[BadRow]
    num_cut_texts: int = 0

    def __len__(self) -> int:
        return len(self.position_P)

    @property
    def num_images(self) -> int:
        """How many images there are; one that two pairs share counts twice."""
        return len(self.image_id_I)

    def pixels(self, image: int) -> Tensor:
        """Pixels `[C, H, W]`, uint8, of one image; raises `InvalidRowError` when it cannot be read."""
        if self.pixels_ICHW is not None:
            return self.pixels_ICHW[image]
        pair = self.source[int(self.position_P[self.image_pair_I[image]])]
        encoded = _sides(pair)[int(self.image_part_I[image])].image
        try:
            return torch.from_numpy(self.reader(encoded))
        except InvalidItemError as error:
            raise InvalidRowError(pair.where or pair.name, error.reason) from error

    def pair(self, number: int) -> Pair:
        """One pair as its source has it; raises `InvalidRowError` when it can no longer be read."""
        return self.source[int(self.position_P[number])]

    def texts(self) -> list[str]:
        """All texts `[S]`, read anew; raises `InvalidRowError` when one can no longer be read."""
        return [text for number in range(len(self)) for side in _sides(self.pair(number)) for text in side.texts]

    def has_sides(self) -> tuple[Tensor, Tensor]:
        """Whether each pair has an image, and whether it has a text, in its own item or its query `[P]`."""
        item_P = self.item_start_P[:-1]
        query_P = item_P + self.has_query_P.long()
        has_image_J = self.item_image_J >= 0
        has_text_J = self.item_text_J[1:] > self.item_text_J[:-1]
        return has_image_J[item_P] | has_image_J[query_P], has_text_J[item_P] | has_text_J[query_P]

    def captioned(self) -> "CaptionedImages":
        """The pairs whose own item has both an image and a text."""
        own_P = self.item_start_P[:-1]
        first_P, end_P = self.item_text_J[own_P], self.item_text_J[own_P + 1]
        image_P = self.item_image_J[own_P]
        both_P = (image_P >= 0) & (end_P > first_P)
        first_P, end_P = first_P[both_P], end_P[both_P]
        pair_P = both_P.nonzero().flatten()
        return CaptionedImages(image_P[both_P], first_P, torch.minimum(first_P + 1, end_P - 1), pair_P)


class CaptionedImages(NamedTuple):
    """Pairs of an image and captions: numbers of image, first caption, second or else first caption, and pair."""

    image_P: Tensor
    first_text_P: Tensor
    second_text_P: Tensor
    pair_P: Tensor


@dataclass(frozen=True)
class _Row:
    """What is kept of a pair while the table is made; the tuples have an entry for each item."""

    position: int
    texts: tuple[tuple[str, ...], ...]
    image_digests: tuple[bytes | None, ...]
    pixels_CHW: tuple[NDArray[np.uint8], ...]
    has_query: bool
    group: str | None


def read_table(
    source: PairSource,
    tokenize: Tokenize,
    reader: ImageReader,
    cache_images_bytes: int,
    max_bad_share: float,
    advance: Advance,
    check_images: bool = False,
    entry_lengths: Sequence[int] = (),
) -> PairTable:
    """Reads every pair once.

    Args:
        source: The pairs.
        tokenize: As the model does.
        reader: Decodes images.
        cache_images_bytes: Decoded images are kept if all of them fit in this.
        max_bad_share: Largest share of bad rows that is accepted.
        advance: Told after each pair.
        check_images: Decode every image now even if it is not kept, where a bad one could not be left out later.
        entry_lengths: How many pairs each named source has, where their shares matter.

    Raises:
        TooManyBadRowsError: the data are worse than `max_bad_share`.
        NoPairsError: not one pair is left.
    """
    # Pairs with several images are rare: when they do not fit after all, what was kept is let go again.
    keep_pixels = reader.num_bytes * len(source) <= cache_images_bytes
    rows: list[_Row] = []
    bad_rows: list[BadRow] = []
    num_images = 0
    decodes = keep_pixels or check_images
    for row in _read_rows(source, reader, decodes, keep_pixels, advance):
        if isinstance(row, BadRow):
            bad_rows.append(row)
            continue
        num_images += sum(digest is not None for digest in row.image_digests)
        if keep_pixels and reader.num_bytes * num_images > cache_images_bytes:
            keep_pixels = False
        rows.append(row if keep_pixels else replace(row, pixels_CHW=()))
    check_bad_share(bad_rows, len(source), max_bad_share)
    if not rows:
        raise NoPairsError("every row of the data is bad")
    return _assemble(source, rows, tokenize, reader, entry_lengths or [len(source)], keep_pixels, bad_rows)


def check_bad_share(bad_rows: list[BadRow], num_rows: int, max_bad_share: float) -> None:
    """Raises `TooManyBadRowsError` when more than `max_bad_share` of the rows are bad."""
    if len(bad_rows) > max_bad_share * num_rows:
        first = bad_rows[0]
        raise TooManyBadRowsError(
            f"{len(bad_rows)} of {num_rows} rows are bad, more than the share of {max_bad_share:g} allowed; "
            f"the first: {first.where}: {first.reason}"
        )


def _assemble(
    source: PairSource,
    rows: list[_Row],
    tokenize: Tokenize,
    reader: ImageReader,
    entry_lengths: Sequence[int],
    keep_pixels: bool,
    bad_rows: list[BadRow],
) -> PairTable:
    """Lays the rows' items, texts and images end to end."""
    texts = [text for row in rows for texts in row.texts for text in texts]
    tokens_ST, num_cut_texts = _tokenize(texts, tokenize)
    places = [(p, part) for p, row in enumerate(rows) for part, d in enumerate(row.image_digests) if d is not None]
    has_image_J = torch.tensor([digest is not None for row in rows for digest in row.image_digests])
    pixels = [pixels for row in rows for pixels in row.pixels_CHW]
    item_image_J = torch.where(has_image_J, has_image_J.cumsum(0) - 1, -1)
    digests = [digest for row in rows for digest in row.image_digests if digest is not None]
    image_id_I = _identify(digests)
    text_id_S = _identify([" ".join(text.lower().split()) for text in texts])
    item_text_J = torch.tensor([0, *(len(texts) for row in rows for texts in row.texts)]).cumsum(0)
    position_P = torch.tensor([row.position for row in rows])
    groups = {group: number for number, group in enumerate(dict.fromkeys(row.group for row in rows if row.group))}
    return PairTable(
        source=source,
        position_P=position_P,
        entry_P=torch.searchsorted(torch.tensor(entry_lengths).cumsum(0), position_P, right=True),
        item_start_P=torch.tensor([0, *(len(row.texts) for row in rows)]).cumsum(0),
        has_query_P=torch.tensor([row.has_query for row in rows]),
        group_P=torch.tensor([groups[row.group] if row.group else -1 for row in rows]),
        item_image_J=item_image_J,
        item_text_J=item_text_J,
        item_id_J=_identify_items(item_image_J, image_id_I, item_text_J, text_id_S),
        tokens_ST=tokens_ST,
        text_id_S=text_id_S,
        image_pair_I=torch.tensor([pair for pair, _ in places], dtype=torch.long),
        image_part_I=torch.tensor([part for _, part in places], dtype=torch.long),
        image_id_I=image_id_I,
        images_digest=hashlib.sha256(b"".join(digests)).hexdigest(),
        pixels_ICHW=torch.from_numpy(np.stack(pixels)) if keep_pixels and pixels else None,
        reader=reader,
        bad_rows=bad_rows,
        num_cut_texts=num_cut_texts,
    )


def _identify_items(item_image_J: Tensor, image_id_I: Tensor, item_text_J: Tensor, text_id_S: Tensor) -> Tensor:
    texts = text_id_S.tolist()
    starts = item_text_J.tolist()
    images = [int(image_id_I[image]) if image >= 0 else -1 for image in item_image_J.tolist()]
    return _identify([(image, *texts[starts[item] : starts[item + 1]]) for item, image in enumerate(images)])


def _read_rows(
    source: PairSource, reader: ImageReader, decodes: bool, keep_pixels: bool, advance: Advance
) -> Iterator[_Row | BadRow]:
    """Reads in source order, a few threads decoding ahead."""

    def read(position: int) -> _Row | BadRow:
        try:
            return _read_row(position, source[position], reader, decodes, keep_pixels)
        except InvalidRowError as error:
            return BadRow(error.where, error.reason)

    positions = iter(range(len(source)))
    with ThreadPoolExecutor(max_workers=4) as pool:
        while chunk := list(islice(positions, 256)):
            for row in pool.map(read, chunk):
                advance(1)
                yield row


def _read_row(position: int, pair: Pair, reader: ImageReader, decodes: bool, keep_pixels: bool) -> _Row:
    sides = _sides(pair)
    digests: list[bytes | None] = []
    pixels: list[NDArray[np.uint8]] = []
    try:
        for side in sides:
            encoded = None if side.image is None else reader.read(side.image)
            # Of the bytes: one photo under two names is one image.
            digests.append(None if encoded is None else hashlib.sha256(encoded).digest())
            if encoded is not None and decodes:
                pixels.append(reader(encoded))
    except InvalidItemError as error:
        raise InvalidRowError(pair.where or pair.name, error.reason) from error
    kept = tuple(pixels) if keep_pixels else ()
    return _Row(position, tuple(side.texts for side in sides), tuple(digests), kept, pair.query is not None, pair.group)


def _sides(pair: Pair) -> list[Side]:
    """The pair's items: its own, then its query, then its negatives."""
    query = [] if pair.query is None else [pair.query]
    return [Side(pair.image, pair.captions), *query, *pair.negatives]


def _identify(values: list[Any]) -> Tensor:
    """Numbers the distinct values in order of appearance."""
    numbers: dict[Any, int] = {}
    return torch.tensor([numbers.setdefault(value, len(numbers)) for value in values], dtype=torch.long)


def _tokenize(texts: list[str], tokenize: Tokenize) -> tuple[Tensor, int]:
    """All texts' tokens, and how many texts were cut."""
    starts = range(0, max(1, len(texts)), _TOKENIZE_CHUNK)
    chunks = [tokenize(texts[start : start + _TOKENIZE_CHUNK]) for start in starts]
    return torch.cat([tokens.int() for tokens, _ in chunks]), sum(sum(is_cut) for _, is_cut in chunks)
