"""multipart/form-data bodies to fields and files, from bytes already held in memory."""

import binascii
import codecs
import quopri
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from anykey.service.errors import InvalidRequestError
from anykey.service.queries.query import Query, query_from_fields
from anykey.service.queries.schemas import SearchRequest
from anykey.service.queries.strict_json import parse_json
from anykey.service.schemas import Limits

# By the standard of headers, which that of forms forbids here; requests, urllib3 and others send it for other letters.
EXTENDED_FILENAME = re.compile(rb";\s*filename\*(0\*?)?\s*=\s*(?P<name>[^;]*)", re.IGNORECASE)
QUOTED = re.compile(rb'"(?:\\.?|[^"\\])*"?', re.DOTALL)  # also one that is not closed: it matches at each quote, once
MAX_PARTS = 4096
MAX_BOUNDARY_BYTES = 200
MAX_SEMICOLONS = (
    300  # of a header: some browsers write each letter of a file name as &#1092; and the time grows with the square
)
DEFAULT_CHARSET = "_charset_"  # the field that names the letters of all others, by the form's standard
# Python's names of those that people write in; it has others whose decoding takes time that grows with the square.
CHARSETS = re.compile(r"utf-8|ascii|iso8859-\d+|cp125\d|koi8-[ru]|shift_jis|euc_jp|euc_kr|gbk|gb18030|gb2312|big5")
AS_THEY_ARE = frozenset({"7bit", "8bit", "binary"})


@dataclass
class Part:
    """One part of a body.

    Attributes:
        name: The form field.
        filename: As sent; `None` when there is none, which makes it a plain field.
        media_type: The part's Content-Type in lower case, without parameters; empty when absent.
        charset: The letters of its text; empty when not said.
        transfer_encoding: How its contents are written, in lower case.
        data: Contents.
    """

    name: str = ""
    filename: str | None = None
    media_type: str = ""
    charset: str = ""
    transfer_encoding: str = "binary"
    data: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class Form:
    """Which fields a form has, and how their texts are read.

    Attributes:
        known: All of them; `image` may be a file.
        lists: Those that may be repeated and are split at commas.
        json: Those that are JSON.
        whole: Those that are whole numbers.
        numbers: Those that are numbers.
    """

    known: Collection[str]
    lists: frozenset[str]
    json: frozenset[str]
    whole: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()


SEARCH_FORM = Form(
    known=SearchRequest.model_fields,
    lists=frozenset({"modalities", "exclude", "within", "include"}),
    json=frozenset({"filter", "rerank", "exact", "exclude_query_keys", "explain", "parts", "facets"}),
    whole=frozenset({"k", "offset", "group_size"}),
    numbers=frozenset({"text_weight", "min_score", "duplicate_score", "diversity"}),
)


def query_from_multipart(body: bytes | bytearray, content_type: str, limits: Limits) -> Query:
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
    fields, files = form_from_multipart(body, content_type, SEARCH_FORM)
    return query_from_fields(fields, files, limits)


def form_from_multipart(
    body: bytes | bytearray, content_type: str, form: Form
) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """Reads the fields and the image files of a multipart body.

    Args:
        body: The whole body.
        content_type: The request's Content-Type, with the boundary.
        form: Which fields there are.

    Raises:
        InvalidRequestError: malformed, cut short, a repeated field, a file where a value is due, or no JSON where that
            is due. Unknown fields are kept, without what is in them.
    """
    fields: dict[str, Any] = {}
    files: list[bytes] = []
    parts = parse_parts(body, content_type)
    charset = _default_charset(parts, content_type)
    for part in parts:
        part.data = without_transfer_encoding(part)
        if part.media_type.startswith("multipart/"):
            raise InvalidRequestError(f"field {part.name[:40]!a} holds parts of its own; send each as an 'image'")
        if part.name == DEFAULT_CHARSET:
            continue
        if not _is_file(part, form):
            _add_field(fields, part, part.charset or charset, form)
        elif part.name != "image":
            raise InvalidRequestError(f"field {part.name[:40]!a} must be a value, got a file; files go in 'image'")
        elif part.data or part.filename:  # browsers send an empty part for a file that was not chosen
            files.append(bytes(part.data))
    return fields, tuple(files)


def _is_file(part: Part, form: Form) -> bool:
    """Whether a part holds bytes rather than a value."""
    is_json_value = part.name in form.json and part.media_type == "application/json"
    return part.filename is not None or not (is_json_value or part.media_type in ("", "text/plain"))


def parse_parts(body: bytes | bytearray, content_type: str) -> list[Part]:
    """Splits a multipart body into its parts.

    Args:
        body: The whole body.
        content_type: The request's Content-Type, with the boundary.

    Raises:
        InvalidRequestError: no boundary, malformed, cut short, or too many parts.
    """
    boundary = parse_header(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
        raise InvalidRequestError("multipart/form-data needs a boundary in its Content-Type")
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(bytes(body))
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequestError("the multipart body is malformed") from error
    if not collector.is_complete:
        raise InvalidRequestError("the multipart body is cut short: its closing boundary is missing")
    return collector.parts


def parse_header(value: str | bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """What a header says, in lower case, and its parameters.

    Args:
        value: The header's.

    Raises:
        InvalidRequestError: it has too many semicolons.
    """
    encoded = value.encode("latin-1") if isinstance(value, str) else value
    if encoded.count(b";") > MAX_SEMICOLONS:
        raise InvalidRequestError(f"a header with a type or a name has more than {MAX_SEMICOLONS} semicolons")
    return parse_options_header(encoded)


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
            options = parse_header(value)[1]
            part.name = options.get(b"name", b"").decode("utf-8", "replace")
            if b"filename" in options:
                part.filename = options[b"filename"].decode("utf-8", "replace")
            elif extended := EXTENDED_FILENAME.search(QUOTED.sub(b'""', value)):
                part.filename = extended["name"].decode("latin-1")
        elif name == b"content-type":
            media_type, options = parse_header(value)
            part.media_type = media_type.decode("latin-1").lower()
            part.charset = options.get(b"charset", b"").decode("latin-1")
        elif name == b"content-transfer-encoding":
            part.transfer_encoding = value.strip().lower().decode("latin-1")
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise InvalidRequestError(
                "a part of the multipart body has a Content-Encoding; the whole body may have one, gzip or deflate"
            )

    def _end_headers(self) -> None:
        if not self.parts[-1].name:
            raise InvalidRequestError("a part of the multipart body has no name")

    def _end(self) -> None:
        self.is_complete = True


def _default_charset(parts: list[Part], content_type: str) -> str:
    """The letters of fields that do not say theirs: as the field for that says, else the whole form's type."""
    named = [bytes(part.data).decode("latin-1").strip() for part in parts if part.name == DEFAULT_CHARSET]
    if len(named) > 1:
        raise InvalidRequestError(f"field {DEFAULT_CHARSET} is given more than once")
    of_form = parse_header(content_type)[1].get(b"charset", b"").decode("latin-1")
    return (named or [""])[0] or of_form or "utf-8"


def without_transfer_encoding(part: Part) -> bytearray:
    """The contents as bytes; what came by mail may be written in ASCII.

    Raises:
        InvalidRequestError: they are not what the part says.
    """
    name = part.transfer_encoding
    if name in AS_THEY_ARE:
        return part.data
    if name == "quoted-printable":
        return bytearray(quopri.decodestring(bytes(part.data)))
    if name != "base64":
        raise InvalidRequestError(f"field {part.name[:40]!a}: unknown Content-Transfer-Encoding {name[:40]!a}")
    try:
        return bytearray(binascii.a2b_base64(part.data.translate(None, b" \t\r\n\v\f"), strict_mode=True))
    except binascii.Error as error:
        raise InvalidRequestError(f"field {part.name[:40]!a} is not base64, its Content-Transfer-Encoding") from error


def text_of(part: Part, charset: str) -> str:
    """A field's text in the letters that it is in.

    Raises:
        InvalidRequestError: it is not in these letters, or they are not read.
    """
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        name = ""
    if not CHARSETS.fullmatch(name):
        raise InvalidRequestError(f"field {part.name}: charset {charset[:40]!a} is not read; send UTF-8")
    try:
        return part.data.decode(name)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"field {part.name} must be {name.upper()}, byte {error.start} is not") from error


def _add_field(fields: dict[str, Any], part: Part, charset: str, form: Form) -> None:
    """Adds a plain part to the fields, as the type its name calls for."""
    name = part.name
    if name not in form.known:
        fields[name] = ""  # refused by name with the other problems
        return
    value = text_of(part, charset)
    if not value and name != "text":  # an empty box of a browser's form
        return
    if name in form.lists:
        fields.setdefault(name, []).extend(entry.strip() for entry in value.split(",") if entry.strip())
    elif name == "image":
        fields.setdefault(name, []).append(value)
    elif name in fields:
        raise InvalidRequestError(f"field {name} is given more than once")
    elif name in form.json or (name == "vector" and value.lstrip().startswith("[")):  # else it is base64
        fields[name] = parse_json(value.encode("utf-8", "surrogatepass"), f"field {name}")
    else:
        fields[name] = _number(name, value, form)


def _number(name: str, value: str, form: Form) -> int | float | str:
    """The value of a number field as a number; left as it came where it is none, to be refused by name."""
    if name in form.whole and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
        return int(value)
    if name in form.numbers:
        try:
            return float(value)
        except ValueError:
            return value
    return value
