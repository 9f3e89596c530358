"""The wire format of keys, of what their fields hold, and of changes. Imports no torch.

Validation here knows no settings: bounds that operators choose are checked in `service.changes`.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt

from anykey.encoder.item import Modality
from anykey.service.answers.schemas import FacetValue, HitPayload
from anykey.service.schemas import AtFirst, Scalar, Text

IF_SEQ = (
    "Makes the change only if the key was stored by the change of this number (`seq`), or, with 0, only if there is no "
    "such key. Absent: in any case."
)
MANY_FIELDS = frozenset({"keys", "atomic"})

ScopeNotes = Annotated[
    list[str],
    Field(
        description="Sentences for people: what whoever asked should know, such as which field of a filter no key has."
    ),
]


class KeyResponse(BaseModel):
    """One key of the corpus."""

    key: str
    modality: Modality
    pools: list[str]
    seq: int | None = Field(
        description="Number of the change that stored it, which a change may depend on (`if_seq`, `If-Match`); null "
        "for a Milvus collection."
    )
    payload: HitPayload
    vector: list[float] | None = Field(None, description="Its unit vector, where `include=vector` asks for it.")


class FieldExtent(BaseModel):
    """Between which the values of a type lie."""

    min: Scalar
    max: Scalar


class FieldTypes(BaseModel):
    """How many keys have a value of each type; one with several counts for each."""

    boolean: int
    number: int
    date: int = Field(description="Strings that are dates, as filters compare them.")
    string: int = Field(description="All other strings.")


class FieldInfo(BaseModel):
    """What the keys really hold at one path of their metadata."""

    field: str = Field(description="As filters, facets and `group_by` name it.")
    num_keys: int = Field(description="Keys with a value of it.")
    types: FieldTypes
    num_values: int = Field(description="How many values there are, equal ones counted once; exact.")
    values: list[FacetValue] = Field(description="The ten most frequent ones.")
    numbers: FieldExtent | None = Field(description="The lowest and the highest number; null without any.")
    dates: FieldExtent | None = Field(description="The first and the last date; null without any.")


class FieldsResponse(BaseModel):
    """Fields of the metadata, those within an object before the object's own values."""

    fields: list[FieldInfo]
    cursor: str | None = Field(description="Gives the fields that follow; null at the end.")
    num_keys: int = Field(description="Keys of the scope.")
    index_version: str | None = Field(description="The index version that answered.")
    index_seq: int | None = Field(description="Number of the last change of the index that is in the answer.")
    notes: ScopeNotes


class NewKeyFields(BaseModel):
    """What is stored of a key: a text, images, both, or a vector that the client has made of them."""

    model_config = ConfigDict(extra="forbid", title="NewKeyFields")

    text: Text | None = Field(None, description="Text of the key; white space alone counts as absent.")
    image: Text | Annotated[list[Text], AtFirst()] | None = Field(
        None,
        description="Base64, or a `data:` URI; a list holds several frames of one key. Addresses are not fetched.",
    )
    vector: Annotated[list[StrictFloat], AtFirst()] | Text | None = Field(
        None,
        description="The key's vector, in place of the one that the model would give it: numbers, or base64 of float32 "
        "(little-endian). It is scaled to unit length.",
    )
    modality: Modality | None = Field(
        None, description="What the vector is of, for a key that has neither text nor image. Absent: text."
    )
    metadata: dict[str, Any] = Field(default_factory=dict, description="A JSON object, which filters look at.")
    pools: Annotated[list[Text], AtFirst()] = Field(default_factory=list, description="Pools that the key is in.")
    if_seq: StrictInt | None = Field(None, ge=0, description=IF_SEQ)


class KeyRequest(NewKeyFields):
    """One key to store in place of whatever has its name."""

    model_config = ConfigDict(
        extra="forbid",
        title="KeyRequest",
        json_schema_extra={"examples": [{"key": "sku-1", "text": "a red mug", "metadata": {"price": 3}}]},
    )

    key: Text = Field(description="The key's name.")


class KeysRequest(BaseModel):
    """Several keys to store."""

    model_config = ConfigDict(extra="forbid", title="KeysRequest")

    keys: list[KeyRequest] = Field(description="At most `limits.max_keys`; a later one replaces an earlier one.")
    atomic: StrictBool = Field(False, description="Whether none is stored if one of them cannot be.")


class PatchRequest(BaseModel):
    """What to change of a key; its vector, text and images stay."""

    model_config = ConfigDict(
        extra="forbid",
        title="PatchRequest",
        json_schema_extra={"examples": [{"metadata": {"price": 4, "sold": None}, "pools": ["shop"]}]},
    )

    metadata: dict[str, Any] | None = Field(
        None,
        description="Merged into the key's metadata (RFC 7396): objects name by name, null removes a name, and any "
        "other value is stored in place of the one that is there. Absent: the metadata stay.",
    )
    pools: Annotated[list[Text], AtFirst()] | None = Field(
        None, description="Pools that the key is in from now on. Absent: they stay."
    )
    overwrite: StrictBool = Field(
        False, description="Stores the metadata in place of those that are there, null where it says null."
    )
    if_seq: StrictInt | None = Field(None, ge=0, description=IF_SEQ)


class UndoRequest(BaseModel):
    """Which change to undo."""

    model_config = ConfigDict(extra="forbid", title="UndoRequest", json_schema_extra={"examples": [{"seq": 18}]})

    seq: StrictInt = Field(ge=1, description="The number of the change, as its answer has it.")


class ScopeFields(BaseModel):
    """Which keys; each field narrows it, as it does in a search."""

    model_config = ConfigDict(extra="forbid", title="ScopeFields")

    modalities: Annotated[list[Modality], AtFirst()] | None = Field(
        None, description="Only keys of these modalities. Absent: all."
    )
    pool: Text | None = Field(None, description="Only keys of this pool. Absent: the whole corpus.")
    filter: Any = Field(None, description="Only keys whose metadata fits; see `Filter`. Absent: all.")
    within: Annotated[list[Text], AtFirst()] | None = Field(
        None, description="Only these keys, as far as there are such keys; at most `limits.max_within`. Absent: all."
    )
    exclude: Annotated[list[Text], AtFirst()] = Field(
        default_factory=list, description="Keys left out; at most `limits.max_exclude`."
    )


class DeleteRequest(ScopeFields):
    """Which keys to delete: those named, or those in a scope."""

    model_config = ConfigDict(
        extra="forbid",
        title="DeleteRequest",
        json_schema_extra={"examples": [{"filter": {"field": "sold", "eq": True}, "dry_run": True}]},
    )

    keys: Annotated[list[Text], AtFirst()] | None = Field(
        None, description="Names of the keys, at most `limits.max_within`; with no field of a scope beside it."
    )
    all: StrictBool = Field(
        False, description="Deletes every key of the index; a request that narrows nothing must say so."
    )
    dry_run: StrictBool = Field(False, description="Only tells how many there are.")


class ErrorSummary(BaseModel):
    """Why one of several things failed."""

    type: str = Field(description="Stable name of the error, as of those that a whole request is answered with.")
    message: str = Field(description="What was expected, what came, where.")


class KeyOutcome(BaseModel):
    """What became of one key."""

    key: str | None = Field(description="The key's name; null where the request has none that can be read.")
    status: str = Field(description="stored, deleted or failed.")
    seq: int | None = Field(
        description="Number of the change, which other changes of the key may depend on (`if_seq`, `If-Match`); null "
        "where it failed, and for a Milvus collection."
    )
    is_new: bool = Field(description="Whether there was no such key before.")
    text_cut: bool | None = Field(
        description="Whether the key's text is longer than the model's context, so that its end is not in the vector; "
        "null where no text was embedded, and for a repeated request."
    )
    error: ErrorSummary | None = Field(description="Why it failed.")
    release: str | None = Field(
        None,
        description="The release whose index was changed, and no other; null where it failed, or there is none.",
    )
    undo_s: float | None = Field(
        None, description="For how many seconds POST /keys/undo takes it back; null where it was not asked to be kept."
    )


class ChangesResponse(BaseModel):
    """What became of several keys, in the order of the request."""

    outcomes: list[KeyOutcome]
    num_stored: int
    num_failed: int
    seq: int | None = Field(description="Number of the index's last change right after these; null for Milvus.")


class DeletedResponse(BaseModel):
    """How many keys were deleted, or would be."""

    num_deleted: int
    dry_run: bool
    seq: int | None = Field(description="Number of the index's last change right after it; null for Milvus.")
    release: str | None = Field(
        None, description="The release whose index was changed, and no other; null where there are no releases."
    )
    notes: ScopeNotes


class CountResponse(BaseModel):
    """How many keys are in a scope."""

    num_keys: int
    notes: ScopeNotes


class KeysResponse(BaseModel):
    """Keys in the order of their names."""

    keys: list[KeyResponse]
    cursor: str | None = Field(description="Gives the keys behind these; null where there are none.")
    notes: ScopeNotes


class StreamedOutcome(KeyOutcome):
    """What became of one line of a stream."""

    line: int = Field(description="The line's number, from 1.")


class StreamSummary(BaseModel):
    """The last line of a stream of outcomes; with `outcomes=failed` also one now and then that tells how far it is."""

    done: bool = Field(description="Whether every line was read and answered.")
    num_lines: int = Field(description="How many lines were answered; blank lines are none.")
    num_stored: int
    num_failed: int
    seq: int | None = Field(description="Number of the index's last change right after these; null for Milvus.")
    error: ErrorSummary | None = Field(description="Why the stream was broken off, with lines left that were not read.")
