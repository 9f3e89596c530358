"""How items are spelt to embeddings endpoints, and where their answers have the vectors.

OpenAI's is that of its API reference (`/v1/embeddings`); conversations are vLLM's, `modality` is infinity's. Cohere's
is that of its API reference, version 2 (`/v2/embed`).

Shape legend: B = items of a request, D = width.
"""

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from anykey.benchmark.dataset import Modality, modality_of

Form = Literal["text", "messages", "modality"]
_STARTS = {b"\x89PNG": "image/png", b"GIF8": "image/gif", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Item:
    """What is embedded.

    Attributes:
        name: What errors call it.
        text: Its text, or None.
        images: Its images, encoded.
    """

    name: str
    text: str | None
    images: tuple[bytes, ...]

    @property
    def modality(self) -> Modality:
        """What the item is."""
        return modality_of(self.text, self.images)


class Wire(Protocol):
    """One kind of embeddings endpoint.

    Attributes:
        path: Where requests go by default.
        takes: The modalities that it embeds.
        most_images: How many images an item may have.
    """

    path: ClassVar[str]
    takes: Collection[Modality]
    most_images: int

    def groups(self, items: Sequence[Item]) -> list[list[Item]]:
        """The items in their order, cut where one request cannot have both neighbours."""

    def body(self, items: Sequence[Item], is_query: bool) -> dict[str, Any]:
        """The JSON of a request for one group."""

    def vectors(self, answer: Any) -> list[Any]:
        """The answer's vectors, in the order of the items.

        Raises:
            KeyError, TypeError, IndexError: the answer has another form.
        """


class OpenAI:
    """`/v1/embeddings` of OpenAI, vLLM, infinity, TEI and many others."""

    path: ClassVar[str] = "/v1/embeddings"

    def __init__(self, model: str, form: Form) -> None:
        """The form says how items are spelt: texts, conversations of one message, or texts and images as strings."""
        self._model, self._form = model, form
        takes: dict[Form, tuple[Modality, ...]] = {
            "text": ("text",),
            "messages": ("text", "image", "fused"),
            "modality": ("text", "image"),
        }
        self.takes: Collection[Modality] = takes[form]
        self.most_images = 1 if form == "modality" else 100

    def groups(self, items: Sequence[Item]) -> list[list[Item]]:
        """Every item alone as a conversation, which any version takes; texts and images apart."""
        found: list[list[Item]] = []
        for item in items:
            if found and self._form != "messages" and found[-1][-1].modality == item.modality:
                found[-1].append(item)
            else:
                found.append([item])
        return found

    def body(self, items: Sequence[Item], is_query: bool) -> dict[str, Any]:
        """Vectors are asked for as numbers, which every server knows."""
        body: dict[str, Any] = {"model": self._model, "encoding_format": "float"}
        if self._form == "messages":
            return body | {"messages": [{"role": "user", "content": _content(items[0])}]}
        if items[0].modality == "text":
            return body | {"input": [item.text for item in items]}
        return body | {"input": [data_uri(item.images[0]) for item in items], "modality": "image"}

    def vectors(self, answer: Any) -> list[Any]:
        """Those of `data`, each at its `index`."""
        ordered = sorted(answer["data"], key=lambda row: int(row["index"]))
        if [row["index"] for row in ordered] != list(range(len(ordered))):
            raise KeyError("index")
        return [row["embedding"] for row in ordered]


class Cohere:
    """`/v2/embed` of Cohere."""

    path: ClassVar[str] = "/v2/embed"
    takes: Collection[Modality] = ("text", "image", "fused")
    most_images = 100

    def __init__(self, model: str) -> None:
        self._model = model

    def groups(self, items: Sequence[Item]) -> list[list[Item]]:
        """Texts and items with images apart."""
        found: list[list[Item]] = []
        for item in items:
            if found and bool(found[-1][-1].images) == bool(item.images):
                found[-1].append(item)
            else:
                found.append([item])
        return found

    def body(self, items: Sequence[Item], is_query: bool) -> dict[str, Any]:
        """`texts`, which all of its models take, or else `inputs`."""
        role = "search_query" if is_query else "search_document"
        body: dict[str, Any] = {"model": self._model, "input_type": role, "embedding_types": ["float"]}
        if not items[0].images:
            return body | {"texts": [item.text for item in items]}
        return body | {"inputs": [{"content": _content(item)} for item in items]}

    def vectors(self, answer: Any) -> list[Any]:
        """Those of `embeddings.float`."""
        found: list[Any] = answer["embeddings"]["float"]
        return found


def data_uri(image: bytes) -> str:
    """An image as a URI that holds it.

    >>> data_uri(b"GIF8")
    'data:image/gif;base64,R0lGOA=='
    """
    kind = _STARTS.get(image[:4], "image/jpeg")
    return f"data:{kind};base64,{base64.b64encode(image).decode('ascii')}"


def _content(item: Item) -> list[dict[str, Any]]:
    """Parts that make one item, images first."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": data_uri(image)}} for image in item.images
    ]
    return [*parts, {"type": "text", "text": item.text}] if item.text else parts
