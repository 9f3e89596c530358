"""What each route asks of its caller, in one table."""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from anykey.service.access.api_keys import AccessScope


class Need(Enum):
    """What a route asks for that is no scope."""

    NOTHING = "no key"
    ANY_KEY = "any key"


# By method and address, which routes have below an index too. With a route that is missing here nothing starts.
NEEDS: Mapping[Need | AccessScope, tuple[str, ...]] = MappingProxyType(
    {
        Need.NOTHING: (
            "GET /access",
            "GET /livez",
            "GET /readyz",
            "GET /health",
            "GET /ping",
            "GET /",
            "GET /page/{name}",
            "GET /indexes/{index_name}",
        ),
        Need.ANY_KEY: (
            "GET /info",
            "GET /indexes",
            "GET /models",
            "GET /v1/models",
            "GET /v1/models/{model:path}",
            "GET /collections",
            "GET /collections/{index_name}",
            "GET /collections/{index_name}/exists",
        ),
        AccessScope.SEARCH: (
            "POST /search",
            "POST /search/batch",
            "POST /feedback",
            "GET /keys",
            "GET /keys/{key:path}",
            "GET /keys/{key:path}/image",
            "POST /keys/count",
            "GET /fields",
            "POST /knn-service",
            "POST /v1/vector_stores/{index_name}/search",
            "POST /collections/{index_name}/points/query",
            "POST /collections/{index_name}/points/query/batch",
            "POST /collections/{index_name}/points/query/groups",
            "POST /collections/{index_name}/points/scroll",
            "POST /collections/{index_name}/points",
            "POST /collections/{index_name}/points/count",
        ),
        # Vectors and scores of what the caller brings; nothing of an index.
        AccessScope.EMBED: (
            "POST /embed",
            "POST /embeddings",
            "POST /v1/embeddings",
            "POST /v2/embed",
            "POST /v1/multimodalembeddings",
            "POST /predict",
            "POST /rerank",
            "POST /v1/rerank",
            "POST /v2/rerank",
        ),
        AccessScope.WRITE: (
            "PUT /keys",
            "PUT /keys/{key:path}",
            "PATCH /keys/{key:path}",
            "DELETE /keys/{key:path}",
            "POST /keys/delete",
            "POST /keys/undo",
            "PUT /collections/{index_name}",
            "PATCH /collections/{index_name}",
            "DELETE /collections/{index_name}",
            "PUT /collections/{index_name}/points",
            "POST /collections/{index_name}/points/delete",
            "POST /collections/{index_name}/points/payload",
            "PUT /collections/{index_name}/points/payload",
            "POST /collections/{index_name}/points/payload/delete",
            "POST /collections/{index_name}/points/payload/clear",
            "PUT /collections/{index_name}/index",
        ),
        AccessScope.ADMIN: ("GET /metrics", "GET /metrics-summary"),
    }
)
# Which of them answer for the service; each of the others answers for one index.
OF_SERVICE = frozenset(
    {
        *("GET /access", "POST /feedback", "GET /indexes", "GET /metrics", "GET /metrics-summary"),
        *("GET /collections", "GET /collections/{index_name}/exists"),
    }
)
_BY_ROUTE = {route: need for need, routes in NEEDS.items() for route in routes}


def need_of(method: str, path: str) -> Need | AccessScope:
    """What a route asks for.

    Args:
        method: The method.
        path: The address as the route has it, which below an index is the same.

    Raises:
        KeyError: the table has no such route.
    """
    return _BY_ROUTE[f"{method} {path}"]
