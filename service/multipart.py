"""multipart/form-data bodies to fields and files, from bytes already held in memory."""

import re
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidRequestError
from service.query import Query, parse_json, query_from_fields
from service.schemas import Limits, SearchRequest

LISTS = frozenset({"modalities", "exclude", "within"})
JSON_FIELDS = frozenset({"filter"})
MAX_PARTS = 4096
MAX_BOUNDARY_BYTES = 200


@dataclass
class Part:
    """One part of a body.

    Attributes:
        name: The form field.
        filename: As sent; `None` when there is none, which makes it a plain field.
        media_type: The part's Content-Type in lower case, without parameters; empty when absent.
        data: Contents.
    """

    name: str = ""
    filename: str | None = None
    media_type: str = ""
    data: bytearray = field(default_factory=bytearray)

    @property
    def is_file(self) -> bool:
        """Whether the part holds bytes rather than a value."""
        is_json_value = self.name in JSON_FIELDS and self.media_type == "application/json"
        return self.filename is not None or not (is_json_value or self.media_type in ("", "text/plain"))


def query_from_multipart(body: bytes, content_type: str, limits: Limits) -> Query:
    """Reads a query from a multipart body.

    Args:
        body: The whole body.
        content_type: The request's Content-Type, with the boundary.
        limits: What a request may ask for.

    Raises:
        InvalidRequestError: malformed, cut short, an unknown or repeated field, a file where a value is due, a filter
            that is no JSON.
        ItemTooLargeError: an image or the text is over a limit.
    """
    fields: dict[str, Any] = {}
    files: list[bytes] = []
    for part in parse_parts(body, content_type):
        if part.is_file and part.name == "image":
            if part.data or part.filename:  # browsers send an empty part for a file that was not chosen
                files.append(bytes(part.data))
        elif part.is_file:
            raise InvalidRequestError(f"field {part.name[:40]!a} must be a value, got a file; files go in 'image'")
        else:
            _add_field(fields, part)
    return query_from_fields(fields, tuple(files), limits)


def parse_parts(body: bytes, content_type: str) -> list[Part]:
    """Splits a multipart body into its parts.

    Args:
        body: The whole body.
        content_type: The request's Content-Type, with the boundary.

    Raises:
        InvalidRequestError: no boundary, malformed, cut short, or too many parts.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
        raise InvalidRequestError("multipart/form-data needs a boundary in its Content-Type")
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequestError("the multipart body is malformed") from error
    if not collector.is_complete:
        raise InvalidRequestError("the multipart body is cut short: its closing boundary is missing")
    return collector.parts


class _Collector:
    """Receives the parser's callbacks and gathers parts."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.is_complete = False
        self._header_name = bytearray()
        self._header_value = bytearray()

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin_part,
            "on_part_data": lambda data, start, end: self.parts[-1].data.extend(data[start:end]),
            "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise InvalidRequestError(f"the multipart body has more than {MAX_PARTS} parts")
        self.parts.append(Part())

    def _end_header(self) -> None:
        name, value = bytes(self._header_name).lower(), bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()
        part = self.parts[-1]
        if name == b"content-disposition":
            options = parse_options_header(value)[1]
            part.name = options.get(b"name", b"").decode("utf-8", "replace")
            if b"filename" in options:
                part.filename = options[b"filename"].decode("utf-8", "replace")
        elif name == b"content-type":
            part.media_type = parse_options_header(value)[0].decode("latin-1").lower()

    def _end_headers(self) -> None:
        if not self.parts[-1].name:
            raise InvalidRequestError("a part of the multipart body has no name")

    def _end(self) -> None:
        self.is_complete = True


def _add_field(fields: dict[str, Any], part: Part) -> None:
    """Adds a plain part to the fields, as the type its name calls for."""
    name = part.name
    if name not in SearchRequest.model_fields:
        fields[name] = ""  # refused by name with the other problems
        return
    try:
        value = part.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"field {name} must be UTF-8, byte {error.start} is not") from error
    if not value and name != "text":  # an empty box of a browser's form
        return
    if name in LISTS:
        fields.setdefault(name, []).extend(entry.strip() for entry in value.split(",") if entry.strip())
    elif name == "image":
        fields.setdefault(name, []).append(value)
    elif name in fields:
        raise InvalidRequestError(f"field {name} is given more than once")
    else:
        fields[name] = parse_json(bytes(part.data), f"field {name}") if name in JSON_FIELDS else _number(name, value)


def _number(name: str, value: str) -> int | float | str:
    """The value of a number field as a number; left as it came where it is none, to be refused by name."""
    if name == "k" and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
        return int(value)
    if name == "text_weight":
        try:
            return float(value)
        except ValueError:
            return value
    return value
