"""clip-retrieval's search, as its ClipClient asks for it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from anykey.encoder.item import Modality
from anykey.index.key_index import Scope
from anykey.service.access.guard import GuardedRoute
from anykey.service.answers.written import write_json
from anykey.service.compat.content import item_part
from anykey.service.compat.fields import Served, numbers_of_vector, read_fields, served_of
from anykey.service.compat.openapi import body_of, dialect_errors
from anykey.service.compat.searching import SEARCH_ERRORS, Found, Searches, answer_searches
from anykey.service.errors import InvalidRequestError
from anykey.service.lifecycle import index_of
from anykey.service.queries.query import Part, Query, VectorPart
from anykey.service.queries.wanted import Duplicates, Grouping, check_wanted
from anykey.service.queries.wrong_values import shown

router = APIRouter(route_class=GuardedRoute, tags=["compat"])

DUPLICATE_SCORE = 0.94  # clip-retrieval's own
DEFAULT_RESULTS = 100
MODALITIES = {
    "image": frozenset({Modality.IMAGE, Modality.FUSED}),
    "text": frozenset({Modality.TEXT, Modality.FUSED}),
}


class KnnRequest(BaseModel):
    """What to search for. Unknown fields are ignored, and null counts as absent."""

    model_config = ConfigDict(
        title="KnnRequest", json_schema_extra={"examples": [{"text": "a red mug", "modality": "text", "num_images": 5}]}
    )

    text: StrictStr | None = Field(None, description="A text; with an image, both are fused.")
    image: StrictStr | None = Field(None, description="An image as base64.")
    image_url: StrictStr | None = Field(None, description="Only absent: addresses are not fetched.")
    embedding_input: list[Any] | None = Field(None, description="In place of these: a vector.")
    modality: StrictStr | None = Field(
        None, description="`image`: keys with an image; `text`: keys with a text. Absent: image."
    )
    num_images: StrictInt | None = Field(None, description="How many results have what their keys carry. Absent: 100.")
    num_result_ids: StrictInt | None = Field(None, description="How many results there are. Absent: as many.")
    deduplicate: StrictBool | None = Field(None, description="Whether near-duplicates become one. Absent: no.")
    use_mclip: StrictBool | None = Field(None, description="Only false: the served model embeds.")
    indice_name: StrictStr | None = Field(None, description="Only the name of the index at this address.")


class KnnResult(BaseModel):
    """One result; also has the members of the key's metadata."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(description="The key.")
    similarity: float = Field(description="Cosine similarity.")
    caption: str | None = Field(None, description="The key's text, where the metadata have no caption.")
    url: str | None = Field(None, description="Where the key's image is, where the metadata have no url.")


@router.post(
    "/knn-service",
    response_model=list[KnnResult],
    responses=dialect_errors(*SEARCH_ERRORS),
    openapi_extra=body_of(KnnRequest),
)
async def knn_service(request: Request) -> Response:
    """Searches the index for clients of clip-retrieval, which do not say that they send JSON."""
    return await answer_searches(request, partial(_asked, served_of(request), index_of(request).name))


def _asked(served: Served, index_name: str, body: bytearray) -> Searches:
    fields, limits = read_fields(body, KnnRequest), served.limits
    if fields.indice_name not in (None, "", index_name):
        raise InvalidRequestError(
            f"indice_name: the index at this address is {index_name}, got {shown(fields.indice_name)}; each index has "
            "an address /indexes/NAME/knn-service"
        )
    if fields.use_mclip:
        raise InvalidRequestError("use_mclip: the served model embeds; leave it out")
    if fields.modality not in (None, *MODALITIES):
        raise InvalidRequestError(f"modality: expected image or text, got {shown(fields.modality)}")
    num_told = DEFAULT_RESULTS if fields.num_images is None else fields.num_images
    k = num_told if fields.num_result_ids is None else fields.num_result_ids
    for name, number in (("num_images", num_told), ("num_result_ids", k)):
        if not 1 <= number <= limits.max_k:
            raise InvalidRequestError(f"{name} must be a whole number from 1 to {limits.max_k}, got {number}")
    query = Query(
        (_part(fields, served),),
        k=k,
        scope=Scope(modalities=MODALITIES[fields.modality or "image"]),
        grouping=Grouping(Duplicates(DUPLICATE_SCORE)) if fields.deduplicate else None,
        max_depth=limits.max_depth,
    )
    check_wanted(query.wanted, None, limits)
    return Searches((query,), partial(_written, num_told))


def _part(fields: KnnRequest, served: Served) -> Part:
    """The item, or the vector."""
    if fields.image_url and fields.image:
        raise InvalidRequestError("expected image or image_url, got both")
    sent = (("text", fields.text), ("image", fields.image), ("image_url", fields.image_url))
    item = {name: value for name, value in sent if value}
    if fields.embedding_input is None:
        if not item:
            raise InvalidRequestError("expected text, image, both, or embedding_input; all are absent or empty")
        return item_part(item, "the query", served.limits)
    if item:
        raise InvalidRequestError(f"embedding_input: expected it alone, got {', '.join(item)} beside it")
    return VectorPart(numbers_of_vector(fields.embedding_input, "embedding_input"), where="embedding_input")


def _written(num_told: int, found: Sequence[Found]) -> bytes:
    return write_json([_result(hit, place < num_told) for place, hit in enumerate(found[0].hits)])


def _result(hit: dict[str, Any], is_told: bool) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if is_told:
        payload = hit["payload"]
        result.update(payload["metadata"])
        if payload["text"] is not None:
            result.setdefault("caption", payload["text"])
        if payload["image_urls"]:
            result.setdefault("url", payload["image_urls"][0])
    return {**result, "id": hit["key"], "similarity": hit["score"]}
