"""One validated query, however it was sent."""

import binascii
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from anykey.encoder.item import Item, Modality
from anykey.index.errors import InvalidFilterError
from anykey.index.filtering.conditions import Condition
from anykey.index.filtering.filters import parse_condition
from anykey.index.key_index import EVERYTHING, Scope
from anykey.service.errors import InvalidRequestError, ItemTooLargeError, ServiceError
from anykey.service.schemas import DEFAULT_RERANK_TOP, Limits, RerankRequest, SearchRequest

MAX_SHOWN_CHARS = 40
MAX_SHOWN_ERRORS = 5
BYTE_ORDER_MARK = "\ufeff"
PLAIN_BASE64 = bytes.maketrans(b"-_", b"+/")
BASE64_PIECE = 2**20


@dataclass(frozen=True)
class Reranked:
    """By which reranker the best hits are put in order.

    Attributes:
        model: Its name, or `None` for the only one.
        top: How many hits it is given, from the query's `k`.
    """

    model: str | None
    top: int


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
    text_weight: float = 0.5
    instruction: str | None = None
    weight: float = 1.0
    where: str = field(default="", compare=False)

    def content_hash(self, model: str) -> str:
        """SHA-256 (hex) of the model (fingerprint, backend and precision) and of all that decides the item's vector.

        Two parts with the same hash have the same vector: each thing is preceded by its length, the text weight counts
        only where it is used, and the weight in the query never.
        """
        asked = repr(self.text_weight) if self.item.modality is Modality.FUSED else ""
        if self.instruction is not None:
            asked += f"\0{self.instruction}"  # a length of its own would change what others share in Redis
        text = (self.item.text or "") if self.item.has_text else ""
        contents = [model.encode(), asked.encode(), text.encode()]
        contents += [image for image in self.item.images if isinstance(image, bytes)]
        digest = hashlib.sha256()
        for content in contents:
            digest.update(len(content).to_bytes(8, "big"))
            digest.update(content)
        return digest.hexdigest()


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


Part = ItemPart | KeyPart | VectorPart


@dataclass(frozen=True)
class Query:
    """What to search for and among which keys.

    Attributes:
        parts: What its vector is made of, at least one: the normalised weighted sum of their unit vectors.
        k: How many hits, from 1.
        scope: Which keys to look at.
        exact: Whether every key of the scope is compared.
        rerank: Who puts the hits in order; `None`: the index.
        snapshot: Names the moment of the index that is searched; `None`: now.
    """

    parts: tuple[Part, ...]
    k: int = 10
    scope: Scope = EVERYTHING
    exact: bool = False
    rerank: Reranked | None = None
    snapshot: str | None = None

    @property
    def item(self) -> Item | None:
        """The item that is the whole query; `None` if there are several parts, or one of another kind or negative."""
        only = self.parts[0] if len(self.parts) == 1 else None
        return only.item if isinstance(only, ItemPart) and only.weight > 0 else None


def query_from_json(body: bytes | bytearray, limits: Limits) -> Query:
    """Reads a query from a JSON body.

    Args:
        body: The whole body.
        limits: What a request may ask for.

    Raises:
        InvalidRequestError: no JSON object, an unknown or repeated field, a value out of bounds, broken base64.
        ItemTooLargeError: an image or the text is over a limit.
    """
    fields = parse_json(body, "the body")
    if not isinstance(fields, dict):
        raise InvalidRequestError(f"the body must be a JSON object, got {_shown(fields)}")
    return query_from_fields(fields, (), limits)


def queries_from_json(body: bytes | bytearray, limits: Limits) -> list[Query | ServiceError]:
    """Reads the queries of a batch from a JSON body.

    Args:
        body: The whole body.
        limits: What a request may ask for.

    Returns:
        The queries in their order; what is wrong with one stands in its place.

    Raises:
        InvalidRequestError: no JSON object, something else in it than `queries`, or too many of them.
    """
    fields = parse_json(body, "the body")
    if not isinstance(fields, dict) or not isinstance(queries := fields.get("queries"), list):
        raise InvalidRequestError('the body must be a JSON object such as {"queries": [{"text": "a red mug"}, ...]}')
    if others := [name for name in fields if name != "queries"]:
        raise InvalidRequestError(f"unknown field {_shown(others[0])}; known: queries, whose members have all others")
    if not 1 <= len(queries) <= limits.max_batch_queries:
        raise InvalidRequestError(f"queries: expected from 1 to {limits.max_batch_queries} of them, got {len(queries)}")
    return [_query_or_error(query, limits) for query in queries]


def _query_or_error(fields: Any, limits: Limits) -> Query | ServiceError:
    try:
        if not isinstance(fields, dict):
            raise InvalidRequestError(f"a query must be a JSON object, got {_shown(fields)}")
        return query_from_fields(fields, (), limits)
    except ServiceError as error:
        return error


def parse_json(data: bytes | bytearray, name: str) -> Any:
    """Reads JSON as its standard has it: no field twice, no NaN; a byte order mark is skipped.

    Args:
        data: The text.
        name: What it is, for messages.

    Raises:
        InvalidRequestError: it is none; says where.
    """
    try:
        return json.loads(
            data.decode("utf-8").removeprefix(BYTE_ORDER_MARK),
            object_pairs_hook=_refuse_repeats,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{name} must be UTF-8, byte {error.start} is not") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequestError(f"{name} must be JSON: {error.msg} at {where}") from error
    except RecursionError as error:
        raise InvalidRequestError(f"{name} must be JSON nested at most a few levels deep") from error
    except ValueError as error:  # a number with more digits than Python converts
        raise InvalidRequestError(f"{name} must be JSON with numbers of ordinary length") from error


def query_from_fields(fields: dict[str, Any], files: tuple[bytes, ...], limits: Limits) -> Query:
    """Reads a query from fields by name and images that came as files.

    Args:
        fields: As in `SearchRequest`.
        files: Encoded images, before those of the `image` field.
        limits: What a request may ask for.

    Raises:
        InvalidRequestError: an unknown field, a value of the wrong type or out of bounds, broken base64,
            or neither text nor image.
        ItemTooLargeError: an image or the text is over a limit.
    """
    _check_number_of_keys(fields, limits)
    try:
        request = SearchRequest.model_validate(_with_few_unknown(fields, SearchRequest))
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)[:MAX_SHOWN_ERRORS]
        raise InvalidRequestError("; ".join(_sentence(detail, limits) for detail in details)) from error
    if not 1 <= request.k <= limits.max_k:
        raise InvalidRequestError(_expected_k(limits, request.k))
    rerank = _rerank_of(request, limits)
    condition = _condition_of(request)
    text = request.text
    _check_length("text", text, limits)
    _check_length("instruction", request.instruction, limits)
    images = files + _images_of(request, limits)
    _check_images(images, limits)
    if not images and not (text and text.strip()):
        raise InvalidRequestError("expected text, image, or both; both are absent or empty")
    return Query(
        (ItemPart(Item(text=text, images=images), request.text_weight, request.instruction),),
        k=request.k,
        scope=Scope(
            frozenset(request.modalities) if request.modalities is not None else None,
            request.pool,
            condition,
            frozenset(request.within) if request.within is not None else None,
            frozenset(request.exclude),
        ),
        exact=request.exact,
        rerank=rerank,
        snapshot=request.snapshot,
    )


def decode_base64(text: str, where: str, max_bytes: int) -> bytes:
    """Bytes of a base64 string or a `data:` URI.

    White space in it is ignored, the URL-safe letters are taken too, and the padding may be absent.

    Args:
        text: What the client sent.
        where: The field, for the message.
        max_bytes: Largest result.

    Raises:
        InvalidRequestError: not base64, or an address to fetch.
        ItemTooLargeError: the result would be larger than `max_bytes`; nothing was decoded.
    """
    is_base64 = True
    scheme = text[:8].lstrip().lower()
    if scheme.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma:
            raise InvalidRequestError(f"{where}: expected a data URI of the form data:image/...;base64,...")
        is_base64 = header.rstrip().lower().endswith(";base64")
    elif scheme.startswith(("http:", "https:", "file:")):
        raise InvalidRequestError(f"{where}: addresses are not fetched; send the image as base64 or as a file part")
    if len(text) * 3 // 4 > 4 * max_bytes:  # white space may be half of it, and percent signs two thirds
        raise ItemTooLargeError(f"{where} has about {len(text) * 3 // 4} bytes, at most {max_bytes} are accepted")
    try:
        encoded = unquote_to_bytes(text) if "%" in text else text.encode("ascii")
        return _from_base64(encoded) if is_base64 else encoded
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"{where}: not valid base64 ({len(text)} characters)") from error


def _from_base64(encoded: bytes) -> bytes:
    """Decodes in pieces, between which other threads may run; the last letters, padding perhaps, wait for the end."""
    contents, rest = bytearray(), b""
    for at in range(0, len(encoded), BASE64_PIECE):
        plain = rest + encoded[at : at + BASE64_PIECE].translate(PLAIN_BASE64, b" \t\r\n\v\f")
        whole, rest = plain[: (len(plain) - 1) // 4 * 4], plain[(len(plain) - 1) // 4 * 4 :]
        if b"=" in whole:
            raise ValueError("there is padding before the end")
        contents += binascii.a2b_base64(whole, strict_mode=True)
    contents += binascii.a2b_base64(rest + b"=" * (-len(rest) % 4), strict_mode=True)
    return bytes(contents)


def _check_number_of_keys(fields: dict[str, Any], limits: Limits) -> None:
    """Refuses lists that are too long before their entries are looked at."""
    for name, most in (("exclude", limits.max_exclude), ("within", limits.max_within)):
        keys = fields.get(name)
        if isinstance(keys, list) and len(keys) > most:
            raise InvalidRequestError(f"{name}: at most {most} keys, got {len(keys)}")


def _with_few_unknown(fields: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The fields there are, and as many of the others as a message names: each costs an error to be made."""
    others = [name for name in fields if name not in model.model_fields][:MAX_SHOWN_ERRORS]
    kept = {name: fields[name] for name in [*model.model_fields, *others] if name in fields}
    if isinstance(rerank := kept.get("rerank"), dict):
        kept["rerank"] = _with_few_unknown(rerank, RerankRequest)
    return kept


def _rerank_of(request: SearchRequest, limits: Limits) -> Reranked | None:
    """How the hits are ranked again, its bounds checked."""
    if request.rerank is None:
        return None
    default = min(max(DEFAULT_RERANK_TOP, request.k), limits.max_rerank_top)
    top = default if request.rerank.top is None else request.rerank.top
    if not 1 <= top <= limits.max_rerank_top:
        raise InvalidRequestError(_expected_top(limits, top))
    if request.k > top:
        raise InvalidRequestError(f"k must be at most rerank.top, {top}, got {request.k}")
    return Reranked(request.rerank.model, top)


def _condition_of(request: SearchRequest) -> Condition | None:
    if request.filter is None:
        return None
    try:
        return parse_condition(request.filter)
    except InvalidFilterError as error:
        raise InvalidRequestError(str(error)) from error


def _images_of(request: SearchRequest, limits: Limits) -> tuple[bytes, ...]:
    """The images of the `image` field, decoded from base64."""
    encoded = [request.image] if isinstance(request.image, str) else request.image or []
    if len(encoded) > limits.max_images:
        raise ItemTooLargeError(f"{len(encoded)} images, at most {limits.max_images} are accepted")
    names = ["image"] if isinstance(request.image, str) else [f"image[{i}]" for i in range(len(encoded))]
    return tuple(decode_base64(text, name, limits.max_image_bytes) for text, name in zip(encoded, names, strict=True))


def _check_length(name: str, text: str | None, limits: Limits) -> None:
    if text is not None and len(text) > limits.max_text_chars:
        raise ItemTooLargeError(f"{name} has {len(text)} characters, at most {limits.max_text_chars} are accepted")


def _check_images(images: tuple[bytes, ...], limits: Limits) -> None:
    if len(images) > limits.max_images:
        raise ItemTooLargeError(f"{len(images)} images, at most {limits.max_images} are accepted")
    for position, image in enumerate(images):
        if not image:
            raise InvalidRequestError(f"image {position} is empty")
        if len(image) > limits.max_image_bytes:
            raise ItemTooLargeError(
                f"image {position} has {len(image)} bytes, at most {limits.max_image_bytes} are accepted"
            )


def _sentence(detail: ErrorDetails, limits: Limits) -> str:
    """What is wrong with one field, without repeating long or private contents."""
    name = str(detail["loc"][0]) if detail["loc"] else "body"
    if name == "rerank":
        return _rerank_sentence(detail, limits)
    if detail["type"] == "extra_forbidden":
        return f"unknown field {_shown(name)}; known: {', '.join(SearchRequest.model_fields)}"
    if name == "k":
        return _expected_k(limits, detail["input"])
    if name == "modalities" and detail["type"] == "enum":
        return f"unknown modality {_shown(detail['input'])}; known: {', '.join(Modality)}"
    if name == "text_weight":
        return f"text_weight must be a number from 0 to 1, got {_shown(detail['input'])}"
    if name == "exact":
        return f"exact must be true or false, got {_shown(detail['input'])}"
    place = "".join(f"[{part}]" for part in detail["loc"][1:] if isinstance(part, int))
    return f"{name}{place}: {detail['msg']}"


def _rerank_sentence(detail: ErrorDetails, limits: Limits) -> str:
    """What is wrong with `rerank`, or with one of its members."""
    if len(detail["loc"]) == 1:
        return f'rerank must be an object such as {{"top": 50}}, got {_shown(detail["input"])}'
    name = str(detail["loc"][1])
    if detail["type"] == "extra_forbidden":
        return f"unknown field {_shown(name)} of rerank; known: {', '.join(RerankRequest.model_fields)}"
    return _expected_top(limits, detail["input"]) if name == "top" else f"rerank.{name}: {detail['msg']}"


def _expected_top(limits: Limits, came: object) -> str:
    return f"rerank.top must be a whole number from 1 to {limits.max_rerank_top}, got {_shown(came)}"


def _expected_k(limits: Limits, came: object) -> str:
    return f"k must be a whole number from 1 to {limits.max_k}, got {_shown(came)}"


def _shown(value: object) -> str:
    """A short ASCII form of a value for a message; containers by type only."""
    if isinstance(value, str):
        return ascii(value if len(value) <= MAX_SHOWN_CHARS else value[:MAX_SHOWN_CHARS] + "...")
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**18 else "a larger number"
    return (
        repr(value)
        if isinstance(value, float)
        else {"dict": "an object", "list": "a list"}.get(type(value).__name__, type(value).__name__)
    )


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InvalidRequestError(f"field {_shown(repeated)} is given more than once")
    return fields


def _refuse_constant(name: str) -> float:
    raise InvalidRequestError(f"JSON is expected: {name} is no JSON number")
