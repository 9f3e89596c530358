"""What a request to embed asks for, checked: items, what for, and how their vectors are written."""

from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from anykey.encoder.protocol import Role
from anykey.service.embedding.schemas import EmbedItem, EmbedRequest, VectorEncoding
from anykey.service.errors import InvalidRequestError, ItemTooLargeError, ServiceError
from anykey.service.queries.query import ItemPart, query_from_fields
from anykey.service.queries.strict_json import parse_json
from anykey.service.queries.wrong_values import shown, wrong_value
from anykey.service.schemas import Limits


@dataclass(frozen=True)
class ItemsToEmbed:
    """A checked request.

    Attributes:
        items: Each item, or why it cannot be read.
        role: What they are embedded for.
        encoding: How their vectors are written.
        width: How many numbers of each vector; `None`: as many as the model gives.
    """

    items: tuple[ItemPart | ServiceError, ...]
    role: Role
    encoding: VectorEncoding
    width: int | None


def items_from_json(body: bytes | bytearray, limits: Limits) -> ItemsToEmbed:
    """Reads items from a JSON body.

    Args:
        body: The whole body.
        limits: What a request may ask for.

    Raises:
        InvalidRequestError: no JSON object, an unknown or repeated field, a value of the wrong type, no items.
        ItemTooLargeError: there are too many items.
    """
    fields = parse_json(body, "the body")
    if not isinstance(fields, dict):
        raise InvalidRequestError('the body must be a JSON object such as {"items": [{"text": "a red mug"}]}')
    _check_names(fields, list(EmbedRequest.model_fields), "")
    items = fields.get("items")
    if not isinstance(items, list) or not items:
        raise InvalidRequestError("items: expected a list of at least one item")
    if len(items) > limits.max_embed_items:
        raise ItemTooLargeError(f"items: {len(items)} items, at most {limits.max_embed_items} are accepted")
    try:
        request = EmbedRequest.model_validate({**fields, "items": [{}]})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequestError(wrong_value(str(first["loc"][0]), first)) from error
    read = tuple(_item(item, f"items[{number}]", limits) for number, item in enumerate(items))
    return ItemsToEmbed(read, request.role, request.encoding, request.width)


def _item(fields: Any, where: str, limits: Limits) -> ItemPart | ServiceError:
    """One item, or why it cannot be read; what it may say is what a search may say of its item."""
    try:
        if not isinstance(fields, dict):
            raise InvalidRequestError('expected an object such as {"text": "a red mug"}')
        _check_names(fields, list(EmbedItem.model_fields), " of an item")
        (part,) = query_from_fields({**fields, "k": 1}, (), limits).parts
    except ServiceError as error:
        return type(error)(f"{where}: {error.message}")
    assert isinstance(part, ItemPart)
    return replace(part, where=where)


def _check_names(fields: dict[str, Any], known: list[str], of_what: str) -> None:
    for name in fields:
        if name not in known:
            raise InvalidRequestError(f"unknown field {shown(name)}{of_what}; known: {', '.join(known)}")
