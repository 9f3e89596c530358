"""The endpoint that settings name. All have one face, and take queries as bodies of AnyKey's POST /search."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from anykey.benchmark.client import Answer, SearchClient
from anykey.benchmark.dataset import Dataset, Query, Task
from anykey.benchmark.endpoints.described import bearer, connection_to
from anykey.benchmark.endpoints.dialects import ClipRetrieval, Dialect, Marqo, Qdrant
from anykey.benchmark.endpoints.embedder import Embedder
from anykey.benchmark.endpoints.embedding import EmbeddingEndpoint
from anykey.benchmark.endpoints.searching import SearchEndpoint
from anykey.benchmark.endpoints.wires import Cohere, OpenAI
from anykey.benchmark.errors import DatasetError
from anykey.benchmark.settings import QualitySettings

FOR_OTHERS = ("model", "embed_path", "embed_url", "vectors", "collection", "key_field", "vector_name")


class Endpoint(Protocol):
    """What is measured; an asynchronous context manager that owns its connections.

    Attributes:
        url: Its address.
    """

    url: str

    async def __aenter__(self) -> Self:
        """Opens it."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Returns once it answers.

        Raises:
            EndpointUnreachableError: nothing answered within `timeout_s`.
            EndpointNotReadyError: it answered, and was not ready within `timeout_s`.
        """

    async def info(self) -> dict[str, Any]:
        """What is measured, in the words of AnyKey's GET /info: `index`, `model` and `limits`.

        Raises:
            EndpointError: it does not say.
        """

    async def prepare(self, queries: Mapping[Task, Sequence[Query]]) -> None:
        """Does what must be done before these queries.

        Raises:
            EndpointError: it cannot answer such, or failed.
        """

    async def search(self, name: str, body: dict[str, Any]) -> Answer:
        """Sends one query until it is answered.

        Args:
            name: What errors call the query.
            body: JSON body of AnyKey's POST /search.

        Raises:
            EndpointError: there is no answer that can be scored; the message names the query.
        """


def endpoint_of(settings: QualitySettings, dataset: Dataset) -> Endpoint:
    """The endpoint; nothing is sent yet.

    Raises:
        DatasetError: a setting is for other endpoints.
        EndpointUnreachableError: the URL is none.
    """
    if settings.api == "anykey":
        if given := [name for name in FOR_OTHERS if getattr(settings, name)]:
            raise DatasetError(f"{given[0]} is for endpoints of others: choose one with --api")
        return SearchClient(
            settings.url, settings.timeout_s, settings.concurrency, settings.max_attempts, settings.api_key
        )
    if settings.index or settings.check_keys:
        raise DatasetError(f"--api {settings.api} has no index of AnyKey's that could be built or checked")
    if settings.api == "cohere":
        return EmbeddingEndpoint(Cohere(settings.model), dataset, settings)
    if settings.api == "openai":
        return EmbeddingEndpoint(OpenAI(settings.model, settings.item_form), dataset, settings)
    return _engine(settings, dataset)


def _engine(settings: QualitySettings, dataset: Dataset) -> SearchEndpoint:
    """An engine that searches by itself, and may have queries embedded by another server.

    Raises:
        DatasetError: what it needs to be told is missing.
    """
    embedder = None
    if settings.embed_url:
        wire = OpenAI(settings.model, settings.item_form)
        connection = connection_to(settings, settings.embed_url, None)
        embedder = Embedder(connection, settings.embed_path or wire.path, wire)
    headers = bearer(settings)
    dialect: Dialect
    if settings.api == "clip-retrieval":
        if not settings.key_field:
            raise DatasetError("--api clip-retrieval: give --key-field, the column of its metadata that has the keys")
        dialect = ClipRetrieval(settings.collection, settings.key_modality, settings.key_field)
    elif not settings.collection:
        raise DatasetError(f"--api {settings.api}: give --collection")
    elif settings.api == "marqo":
        if embedder:
            raise DatasetError("--api marqo embeds queries itself: leave out --embed-url")
        dialect = Marqo(settings.collection, settings.key_field)
    else:
        headers = {"api-key": settings.api_key.get_secret_value()} if settings.api_key else {}
        dialect = Qdrant(settings.collection, settings.model, settings.key_field, settings.vector_name)
    if "exact" in settings.search and settings.api != "qdrant":
        raise DatasetError(f"--api {settings.api} cannot be told to compare every key: leave out --search exact")
    return SearchEndpoint(dialect, embedder, dataset, settings, headers)
