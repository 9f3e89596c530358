"""One item in all the spellings of other people's clients.

An item is a text, an object with a text, images or both, an object whose `content` is a list of parts, or a
conversation, whose messages have such content. Parts of one `content` become one item, fused if they are of both kinds.
"""

from collections.abc import Mapping
from typing import Any

from anykey.encoder.item import Item
from anykey.service.errors import InvalidRequestError, ItemTooLargeError
from anykey.service.queries.image_addresses import encoded_image
from anykey.service.queries.query import ItemPart
from anykey.service.queries.wrong_values import shown
from anykey.service.schemas import Limits

DATA_IMAGE = "data:image/"
TEXT_FIELDS = ("text", "input_text")
IMAGE_FIELDS = (
    "image",
    "image_url",
    "image_base64",
    "input_image",
    "url",
    "bytes",
    "base64",
    "value",
    "data",
    "inline_data",
    "inlineData",
)
LISTS = ("content", "parts")  # of parts that are one item; the second is Gemini's word
TYPES = frozenset({"text", "input_text", "image", "image_url", "image_base64", "input_image"})
OTHER_KINDS = ("video", "audio", "input_audio", "input_video", "video_url", "video_base64", "audio_url", "file")
ROLES_OF_INSTRUCTIONS = ("system", "developer")
EXPECTED = "expected a string, an object with text, image or both, or one with a list of content parts"


def item_part(value: Any, where: str, limits: Limits, kind: str | None = None) -> ItemPart:
    """Reads one item.

    Args:
        value: As a client sent it: a string, an object, or a conversation, which is a list of messages.
        where: What messages call it.
        limits: What a request may ask for.
        kind: What a string is, `text` or `image`; `None`: a text, unless it begins with `data:image/`.

    Raises:
        InvalidRequestError: it is none of these, has nothing to embed, or has something that is not embedded.
        ItemTooLargeError: a text or an image is over a limit, or there are too many images.
    """
    content = _Content(limits)
    if isinstance(value, list):
        content.add_conversation(value, where)
    elif isinstance(value, dict) and (name := next((name for name in LISTS if value.get(name) is not None), None)):
        _check_alone(value, name, where)
        content.add_content(value[name], f"{where}.{name}")
    else:
        content.add(value, where, kind)
    if isinstance(value, dict):
        content.add_instruction(value, where)
    return content.as_part(where)


class _Content:
    """What one item is made of, gathered part by part."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._texts: list[str] = []
        self._images: list[bytes] = []
        self._instructions: list[str] = []

    def add_conversation(self, messages: list[Any], where: str) -> None:
        """Messages of a user are content, and those of the system tell the model what to look for."""
        if messages and all(isinstance(token, int) for token in messages):
            raise InvalidRequestError(
                f"{where}: token ids are not read; send the text (LangChain: check_embedding_ctx_length=False)"
            )
        for number, message in enumerate(messages):
            place = f"{where}[{number}]"
            if not isinstance(message, dict) or "role" not in message:
                raise InvalidRequestError(f"{place}: expected a message with role and content, got {shown(message)}")
            _check_alone(message, "content", place)
            content = message.get("content")
            if message["role"] in ROLES_OF_INSTRUCTIONS:
                self._instructions.append(_only_text(content, f"{place}.content"))
            elif message["role"] == "user":
                self.add_content(content, f"{place}.content")
            elif content not in (None, "", []):
                raise InvalidRequestError(
                    f"{place}: expected role user or system, got {shown(message['role'])}; an item has one side only"
                )

    def add_instruction(self, value: Mapping[str, Any], where: str) -> None:
        """What an object says of itself besides what it holds, in our own words."""
        if value.get("instruction") is not None:
            self._instructions.append(_only_text(value["instruction"], f"{where}.instruction"))
        if value.get("text_weight") is not None:
            raise InvalidRequestError(f"{where}.text_weight: ask POST /embed for a text that counts more or less")

    def add_content(self, content: Any, where: str) -> None:
        """A string, or a list of parts."""
        if isinstance(content, str):
            self._add_text(content, where)
        elif isinstance(content, list):
            for number, part in enumerate(content):
                self.add(part, f"{where}[{number}]")
        else:
            raise InvalidRequestError(f"{where}: expected a string or a list of parts, got {shown(content)}")

    def add(self, value: Any, where: str, kind: str | None = None) -> None:
        """A string or an object that is no list of parts itself."""
        if isinstance(value, str):
            is_image = value[:32].lstrip().lower().startswith(DATA_IMAGE) if kind is None else kind == "image"
            self._add_image(value, where) if is_image else self._add_text(value, where)
        elif isinstance(value, dict):
            self._add_object(value, where)
        else:
            raise InvalidRequestError(f"{where}: {EXPECTED}, got {shown(value)}")

    def _add_object(self, value: Mapping[str, Any], where: str) -> None:
        name = value.get("type")
        if name is not None and not (isinstance(name, str) and name in TYPES):
            raise InvalidRequestError(f"{where}: expected type text or image, got {shown(name)}")
        for other in OTHER_KINDS:
            if value.get(other) is not None:
                raise InvalidRequestError(f"{where}.{other}: only texts and images are embedded")
        fields = [(field, value[field]) for field in (*TEXT_FIELDS, *IMAGE_FIELDS) if value.get(field) is not None]
        if not fields:
            raise InvalidRequestError(f"{where}: {EXPECTED}, got an object without them")
        for field, given in fields:
            if field in TEXT_FIELDS:
                self._add_text(given, f"{where}.{field}")
            else:
                self._add_images(given, f"{where}.{field}")

    def _add_text(self, text: Any, where: str) -> None:
        if not isinstance(text, str):
            raise InvalidRequestError(f"{where}: expected a string, got {shown(text)}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequestError(f"{where}: half a surrogate pair at character {error.start}") from error
        if text:
            self._texts.append(text)

    def _add_images(self, given: Any, where: str) -> None:
        """One image, or a list of several, which are frames of one item."""
        if not isinstance(given, list):
            self._add_image(given, where)
            return
        for number, image in enumerate(given):
            self._add_image(image, f"{where}[{number}]")

    def _add_image(self, image: Any, where: str) -> None:
        if isinstance(image, dict):
            fields = [name for name in IMAGE_FIELDS if isinstance(image.get(name), str)]
            if len(fields) > 1:
                raise InvalidRequestError(f"{where}: expected one image, got {' and '.join(fields)}")
            if fields:
                where, image = f"{where}.{fields[0]}", image[fields[0]]
        if not isinstance(image, str):
            raise InvalidRequestError(f"{where}: expected an image as base64 or as a data URI, got {shown(image)}")
        if len(self._images) == self._limits.max_images:
            raise ItemTooLargeError(f"{where}: at most {self._limits.max_images} images of one item are accepted")
        contents = encoded_image(image, where, self._limits.max_image_bytes)
        if not contents:
            raise InvalidRequestError(f"{where}: the image is empty")
        if len(contents) > self._limits.max_image_bytes:
            raise ItemTooLargeError(
                f"{where}: the image has {len(contents)} bytes, at most {self._limits.max_image_bytes} are accepted"
            )
        self._images.append(contents)

    def as_part(self, where: str) -> ItemPart:
        """All of it as one item."""
        text = "\n".join(self._texts)
        instruction = "\n".join(self._instructions)
        for name, letters in (("the text", text), ("the instruction", instruction)):
            if len(letters) > self._limits.max_text_chars:
                most = self._limits.max_text_chars
                raise ItemTooLargeError(f"{where}: {name} has {len(letters)} characters, at most {most} are accepted")
        if not self._images and not text.strip():
            raise InvalidRequestError(f"{where}: expected a text, an image, or both; both are absent or empty")
        item = Item(text=text or None, images=tuple(self._images))
        return ItemPart(item, instruction=instruction or None, where=where)


def _check_alone(value: Mapping[str, Any], name: str, where: str) -> None:
    """Makes sure that an object with a list of parts has nothing beside it that would be embedded, too."""
    others = (*LISTS, *TEXT_FIELDS, *IMAGE_FIELDS, *OTHER_KINDS, "images")
    for other in others:
        if other != name and value.get(other) is not None:
            raise InvalidRequestError(f"{where}: expected all of an item in {name}, got {other} beside it")


def _only_text(content: Any, where: str) -> str:
    """The text of a message that has nothing else."""
    texts = []
    for part in [content] if isinstance(content, str) else content if isinstance(content, list) else [None]:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            raise InvalidRequestError(f"{where}: expected a text, got {shown(content)}")
        texts.append(text)
    return "\n".join(texts)
