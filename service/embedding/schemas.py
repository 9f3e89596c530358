"""The wire format of items to embed, and of their vectors. Imports no torch."""

from enum import StrEnum
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
)

from anykey.encoder.item import Modality
from anykey.encoder.protocol import Role
from anykey.service.schemas import AtFirst, ErrorDetail, Text


class VectorEncoding(StrEnum):
    """How a vector is written."""

    FLOAT = "float"
    BASE64 = "base64"


class EmbedItem(BaseModel):
    """An item to embed: a text, one or several images, or both fused."""

    model_config = ConfigDict(extra="forbid", title="EmbedItem")

    text: Text | None = Field(None, description="Text of the item. White space only counts as absent.")
    image: StrictStr | Annotated[list[StrictStr], AtFirst()] | None = Field(
        None, description="Image, base64 or `data:image/...;base64,` URI; a list for several frames of one item."
    )
    text_weight: StrictFloat = Field(
        0.5, ge=0, le=1, allow_inf_nan=False, description="The text's share when text and image are fused."
    )
    instruction: Text | None = Field(
        None,
        description="What the model is told to look for, in place of its own prompt; models that follow none refuse "
        "it. Absent: the model's own.",
    )


class EmbedRequest(BaseModel):
    """Items to embed. Unknown fields are refused."""

    model_config = ConfigDict(
        extra="forbid",
        title="EmbedRequest",
        json_schema_extra={"examples": [{"items": [{"text": "a small red circle"}], "role": "query"}]},
    )

    items: list[EmbedItem] = Field(
        min_length=1,
        description="The items, at most `limits.max_embed_items` of GET /info; one that is wrong has an "
        "error of its own in the answer.",
    )
    role: Role = Field(
        Role.QUERY,
        description="What they are embedded for: many models prompt queries and keys differently. What is searched "
        "with is a query, what is stored is a key.",
    )
    encoding: VectorEncoding = Field(
        VectorEncoding.FLOAT, description="Vectors as lists of numbers, or as base64 of little-endian float32."
    )
    width: StrictInt | None = Field(
        None,
        description="How many numbers of each vector: one of `widths` of GET /info, to which the model was trained to "
        "be cut. Absent: all.",
    )


class ItemVector(BaseModel):
    """The vector of an item, or what is wrong with the item."""

    vector: list[float] | str | None = Field(description="Of unit norm; null where there is an error.")
    modality: Modality | None = Field(description="What the item is: text, image, or fused (both).")
    text_cut: bool = Field(
        description="Whether the text is longer than the model's context, so that its end was not used."
    )
    cached: bool = Field(description="Whether the vector came from the cache.")
    error: "ErrorDetail | None" = Field(description="What is wrong with this item, as for a request; else null.")


class EmbedResponse(BaseModel):
    """Vectors, in the order of the items."""

    items: list[ItemVector]
    role: Role
    encoding: VectorEncoding
    width: int = Field(description="Numbers of each vector.")
    num_tokens: int = Field(description="Image and text tokens of all items.")
    model: str
    model_fingerprint: str
