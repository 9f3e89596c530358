"""A typed client of a running AnyKey service, for programs that wait and for those that do other work meanwhile.

    from anykey.client import Client

    with Client("http://127.0.0.1:8000") as client:
        for hit in client.search(text="a small red circle", k=3).hits:
            ...

`AsyncClient` has the same methods, to be awaited. Importing this loads no torch. docs/client.md has examples.
"""

from anykey.client.answers import (
    BatchAnswer,
    ChangesAnswer,
    Deleted,
    EmbedAnswer,
    Facet,
    FailedQuery,
    FieldInfo,
    Hit,
    Info,
    KeyOutcome,
    SearchAnswer,
    StoredKey,
)
from anykey.client.clients import AsyncClient, Client
from anykey.client.errors import (
    AnyKeyError,
    BrokenAnswerError,
    BusyError,
    ConflictError,
    ForbiddenError,
    NoAnswerError,
    NotFoundError,
    PreconditionFailedError,
    RefusedError,
    ServiceError,
    SnapshotExpiredError,
    UnauthorizedError,
)
from anykey.client.inputs import Image, Part

__all__ = [
    "AnyKeyError",
    "AsyncClient",
    "BatchAnswer",
    "BrokenAnswerError",
    "BusyError",
    "ChangesAnswer",
    "Client",
    "ConflictError",
    "Deleted",
    "EmbedAnswer",
    "Facet",
    "FailedQuery",
    "FieldInfo",
    "ForbiddenError",
    "Hit",
    "Image",
    "Info",
    "KeyOutcome",
    "NoAnswerError",
    "NotFoundError",
    "Part",
    "PreconditionFailedError",
    "RefusedError",
    "SearchAnswer",
    "ServiceError",
    "SnapshotExpiredError",
    "StoredKey",
    "UnauthorizedError",
]
