"""What OpenAPI cannot learn from the routes of dialects."""

from typing import Any

from pydantic import BaseModel, Field

from anykey.service.openapi import error_responses
from anykey.service.schemas import ErrorDetail

EMBED_ERRORS = (
    "invalid_request",
    "item_too_large",
    "unsupported_media_type",
    "undecodable_image",
    "unsupported_modality",
    "overloaded",
    "internal",
    "not_ready",
    "too_many_connections",
    "index_unavailable",
    "deadline_exceeded",
)


class DialectErrorResponse(BaseModel):
    """The body of an error on a route that speaks somebody else's dialect."""

    error: ErrorDetail
    detail: str = Field(description="The message once more, where clients of Jina, Voyage and others look for it.")
    message: str = Field(description="And where those of Cohere do.")


def dialect_errors(*types: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these error types, with an example of each, by status."""
    responses = error_responses(*types)
    for response in responses.values():
        response["model"] = DialectErrorResponse
        for example in response["content"]["application/json"]["examples"].values():
            message = example["value"]["error"]["message"]
            example["value"] |= {"detail": message, "message": message}
    return responses


def body_of(model: type[BaseModel], *, media_type: str = "application/json") -> dict[str, Any]:
    """A request's body, whose unknown fields are ignored."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}
