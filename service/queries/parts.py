"""The parts of a query: what they are, and how requests say them."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from anykey.encoder.item import Item, Modality
from anykey.encoder.protocol import EVEN_WEIGHT
from anykey.index.errors import InvalidSearchError
from anykey.index.words.asked import check_words
from anykey.service.errors import InvalidRequestError, ItemTooLargeError
from anykey.service.queries.base64_text import decode_base64
from anykey.service.queries.image_addresses import encoded_image
from anykey.service.queries.schemas import FileInForm, PartRequest, SearchedPart, SearchRequest
from anykey.service.queries.wrong_values import shown
from anykey.service.schemas import Limits

QUICK_BYTES = 2**16  # of images that are hashed in a fraction of a millisecond
QUICK_CHARS = 200  # of a text that is tokenized in a tenth of a millisecond, or one in the worst case
MAX_VECTOR_NUMBERS = 65_536  # far more than any model's width, which is checked against the model's own
FLOAT32_BYTES = 4

EncodedImage = str | FileInForm


@dataclass(frozen=True)
class ItemPart:
    """An item that a query looks for, or away from.

    Attributes:
        item: The text, the encoded images, or both.
        text_weight: The text's share in [0, 1]; used when `item` is fused.
        instruction: What the model is told to look for; `None`: its own prompt for queries.
        weight: How much it counts in the query; negative: "not like this".
        where: What messages call it; empty for the item of a query that has nothing else.
    """

    item: Item
    text_weight: float = EVEN_WEIGHT
    instruction: str | None = None
    weight: float = 1.0
    where: str = field(default="", compare=False)

    @property
    def is_quickly_hashed(self) -> bool:
        """Whether hashing it takes less time than handing it to a thread."""
        return sum(len(image) for image in self.item.images if isinstance(image, bytes)) <= QUICK_BYTES

    @property
    def is_quickly_prepared(self) -> bool:
        """Whether making it ready for a model takes less time than handing it to a thread."""
        return not self.item.images and len(self.item.text or "") + len(self.instruction or "") <= QUICK_CHARS

    def content_hash(self, model: str) -> str:
        """SHA-256 (hex) of the model (fingerprint, backend and precision) and of all that decides the item's vector.

        Two parts with the same hash have the same vector: each thing is preceded by its length, the text weight counts
        only where it is used, and the weight in the query never.
        """
        return hashlib.sha256(f"{model}\n{self.digest}".encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all that decides the item's vector, whatever the model."""
        asked = repr(self.text_weight) if self.item.modality is Modality.FUSED else ""
        if self.instruction is not None:
            asked += f"\0{self.instruction}"
        text = (self.item.text or "") if self.item.has_text else ""
        digest = hashlib.sha256()
        for content in (asked.encode(), text.encode(), *self.image_digests):
            digest.update(len(content).to_bytes(8, "big"))
            digest.update(content)
        return digest.hexdigest()

    @cached_property
    def image_digests(self) -> tuple[bytes, ...]:
        """SHA-256 of each image; the only place where they are hashed, which takes longer than all else that is."""
        return tuple(hashlib.sha256(image).digest() for image in self.item.images if isinstance(image, bytes))

    def with_images_hashed(self) -> "ItemPart":
        """The same with its images' digests in their place, which tells it from others as well."""
        return replace(self, item=Item(self.item.text, self.image_digests)) if self.image_digests else self


@dataclass(frozen=True)
class KeyPart:
    """A stored key that a query looks for the like of.

    Attributes:
        key: Its name.
        weight: How much it counts in the query; negative: "not like this".
        where: What messages call it.
    """

    key: str
    weight: float = 1.0
    where: str = field(default="key", compare=False)


@dataclass(frozen=True)
class VectorPart:
    """A vector that the client has.

    Attributes:
        vector: Its numbers; of any length but zero, for they are scaled to unit norm.
        modality: What it is the vector of; an index that is calibrated by modality needs it.
        weight: How much it counts in the query; negative: "not like this".
        where: What messages call it.
    """

    vector: tuple[float, ...]
    modality: Modality | None = None
    weight: float = 1.0
    where: str = field(default="vector", compare=False)


@dataclass(frozen=True)
class WordsPart:
    """Words that keys are found by, in a ranking of their own.

    Attributes:
        words: What was typed.
        weight: How much the ranking counts beside others; above 0.
        where: What messages call it.
    """

    words: str
    weight: float = 1.0
    where: str = field(default="words", compare=False)


EmbeddedParts = ItemPart | KeyPart | VectorPart
Part = EmbeddedParts | WordsPart


def read_parts(request: SearchRequest, files: Sequence[bytes], limits: Limits) -> tuple[Part, ...]:
    """What a request looks for: the one part that it says beside its other fields, or those of its list.

    Args:
        request: Its fields.
        files: Encoded images that came as files; parts of a list name theirs, else they come before `image`.
        limits: What a request may ask for.

    Raises:
        InvalidRequestError: there is nothing to look for, or what cannot be one part; broken base64.
        ItemTooLargeError: an image, all of them or a text is over a limit.
    """
    if request.parts is None:
        images = [*(FileInForm(file=number) for number in range(len(files))), *_images_of(request)]
        return (_read_part(request, "", images, files, limits),)
    if mixed := _said(request):
        raise InvalidRequestError(f"expected parts alone to say what is looked for, got {', '.join(mixed)} beside it")
    images_of = [_images_of(part) for part in request.parts]
    _check_number_of_images(sum(map(len, images_of)), limits)
    _check_files([image for images in images_of for image in images], len(files))
    return tuple(
        _read_part(part, f"parts[{number}]", images, files, limits, part.weight)
        for number, (part, images) in enumerate(zip(request.parts, images_of, strict=True))
    )


def _said(fields: SearchRequest | PartRequest) -> list[str]:
    """Names of the fields that say what is looked for: none that are absent or empty, or as if they were."""
    values = {"text": fields.text, "image": fields.image}
    values |= {name: getattr(fields, name) for name in SearchedPart.model_fields}
    if fields.text is not None and not fields.text.strip():
        values["text"] = None
    if fields.text_weight == EVEN_WEIGHT:
        values["text_weight"] = None
    return [name for name, value in values.items() if value is not None and value != []]


def _read_part(
    fields: SearchRequest | PartRequest,
    where: str,
    images: Sequence[EncodedImage],
    files: Sequence[bytes],
    limits: Limits,
    weight: float = 1.0,
) -> Part:
    """One part, which messages call `where`; `images` are all it has."""
    of, dot = (f"{where}: ", f"{where}.") if where else ("", "")
    said = _said(fields)
    if images and "image" not in said:
        said.append("image")
    kinds = [name for name in ("text", "image", "key", "vector", "words") if name in said]
    if not kinds:
        lists = "" if where else ", or parts"
        raise InvalidRequestError(
            f"{of}expected text, image, or both, or key, vector or words{lists}; all are absent or empty"
        )
    if len(kinds) > 1 and kinds != ["text", "image"]:
        raise InvalidRequestError(
            f"{of}expected one of an item, key, vector and words, got {', '.join(kinds)}; parts joins several"
        )
    _check_belongs(said, kinds[0], of)
    if weight == 0:
        raise InvalidRequestError(f"{dot}weight must not be 0; leave the part out")
    if fields.words is not None:
        return _words_part(fields.words, weight, dot, where, limits)
    if fields.key is not None:
        return KeyPart(fields.key, weight, where or "key")
    if fields.vector is not None:
        return VectorPart(vector_of(fields.vector, f"{dot}vector"), fields.vector_modality, weight, where or "vector")
    _check_length(f"{dot}text", fields.text, limits)
    _check_length(f"{dot}instruction", fields.instruction, limits)
    _check_number_of_images(len(images), limits)
    item = Item(fields.text, _read_images(images, f"{dot}image", files, limits))
    return ItemPart(item, fields.text_weight, fields.instruction, weight, where)


def _words_part(words: str, weight: float, dot: str, where: str, limits: Limits) -> WordsPart:
    """Words that can be looked for."""
    if weight < 0:
        raise InvalidRequestError(f"{dot}weight of words must be above 0, got {weight:g}; a filter leaves keys out")
    _check_length(f"{dot}words", words, limits)
    try:
        check_words(words)
    except InvalidSearchError as error:
        raise InvalidRequestError(f"{dot}words: {error}") from error
    return WordsPart(words, weight, where or "words")


def _check_belongs(said: Sequence[str], kind: str, of: str) -> None:
    """Refuses what would be ignored: an item's settings beside a key or a vector, or a vector's without one."""
    of_items = ("text_weight", "instruction")
    strange = {"vector": of_items, **dict.fromkeys(("key", "words"), (*of_items, "vector_modality"))}
    for name in strange.get(kind, ("vector_modality",)):
        if name in said:
            raise InvalidRequestError(f"{of}{name} says nothing about {kind}; leave it out")


def _images_of(fields: SearchRequest | PartRequest) -> list[EncodedImage]:
    """The images that a part's own field has."""
    if fields.image is None:
        return []
    return list(fields.image) if isinstance(fields.image, list) else [fields.image]


def _read_images(
    images: Sequence[EncodedImage], name: str, files: Sequence[bytes], limits: Limits
) -> tuple[bytes, ...]:
    """Their bytes, as files or from base64, none of them empty or too large."""
    num_encoded = sum(isinstance(image, str) for image in images)
    names = iter([name] if num_encoded == 1 and len(images) == 1 else [f"{name}[{i}]" for i in range(num_encoded)])
    read = tuple(
        files[image.file]
        if isinstance(image, FileInForm)
        else encoded_image(image, next(names), limits.max_image_bytes)
        for image in images
    )
    for position, image in enumerate(read):
        place = name if len(read) == 1 else f"{name}[{position}]"
        if not image:
            raise InvalidRequestError(f"{place} is empty")
        if len(image) > limits.max_image_bytes:
            raise ItemTooLargeError(f"{place} has {len(image)} bytes, at most {limits.max_image_bytes} are accepted")
    return read


def _check_number_of_images(num_images: int, limits: Limits) -> None:
    if num_images > limits.max_images:
        raise ItemTooLargeError(f"{num_images} images, at most {limits.max_images} are accepted")


def _check_files(images: Sequence[EncodedImage], num_files: int) -> None:
    """Makes sure that each file of a form is in one part, and that parts name files that there are."""
    named = Counter(image.file for image in images if isinstance(image, FileInForm))
    for number in named:
        if not 0 <= number < num_files:
            raise InvalidRequestError(
                f"parts name image file {number}, but the request has {num_files}, counted from 0"
            )
    for number in range(num_files):
        if named[number] != 1:
            raise InvalidRequestError(
                f'image file {number} is named by {named[number]} parts, expected one to have "image": '
                f'{{"file": {number}}}'
            )


def _check_length(name: str, text: str | None, limits: Limits) -> None:
    if text is not None and len(text) > limits.max_text_chars:
        raise ItemTooLargeError(f"{name} has {len(text)} characters, at most {limits.max_text_chars} are accepted")


def vector_of(vector: str | list[float], where: str) -> tuple[float, ...]:
    """A vector's numbers, all finite and not all 0.

    Args:
        vector: They, or base64 of float32, little-endian.
        where: What messages call it.

    Raises:
        InvalidRequestError: they are not.
    """
    numbers = _numbers_in(vector, where) if isinstance(vector, str) else vector
    for position, number in enumerate(numbers):
        if not math.isfinite(number):
            raise InvalidRequestError(f"{where}[{position}] must be a finite number")
    if not len(numbers):
        raise InvalidRequestError(f"{where}: expected the numbers of a vector, got none")
    if not any(numbers):
        raise InvalidRequestError(f"{where}: expected numbers that are not all 0, for such a vector has no direction")
    return tuple(map(float, numbers))


def finite_number(value: Any, where: str) -> float:
    """A number of a request, which JSON may write with more digits than a float has.

    Args:
        value: As it was read.
        where: What messages call it.

    Raises:
        InvalidRequestError: it is no number, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequestError(f"{where} must be a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidRequestError(f"{where} must be a finite number, got {shown(value)}")
    return number


def _numbers_in(text: str, where: str) -> list[float]:
    """The numbers of a vector in base64."""
    data = decode_base64(text, where, FLOAT32_BYTES * MAX_VECTOR_NUMBERS)
    if len(data) % FLOAT32_BYTES:
        raise InvalidRequestError(f"{where}: expected float32 numbers, 4 bytes each, got {len(data)} bytes")
    numbers: list[float] = np.frombuffer(data, "<f4").tolist()
    return numbers
