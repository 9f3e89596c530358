"""The wire format of what a caller may do. Imports no torch."""

from typing import Literal

from pydantic import BaseModel, Field


class AccessResponse(BaseModel):
    """What a caller may ask for."""

    keys_required: bool = Field(description="Whether requests need an API key.")
    name: str | None = Field(description="What the API key is called. Null: none was sent, or it is not taken.")
    scopes: list[Literal["search", "embed", "write", "admin"]] = Field(description="What the caller may do.")
    indexes: list[str] | None = Field(description="Indexes that the caller may see. Null: all.")
