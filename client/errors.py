"""What the client raises.

AnyKeyError
  NoAnswerError                nothing came back, at every try
  BrokenAnswerError            what came back is no answer of an AnyKey service
  ServiceError                 the service refused the request, or could not answer it; `type` says why
    RefusedError               the request has to change (400, 413, 415, 422 and others of 4xx)
      NotFoundError            there is no such key, image, index or address (404)
      SnapshotExpiredError     the moment of an earlier answer is no longer kept (410)
      PreconditionFailedError  the key was changed by somebody else (412)
    ConflictError              the index is read only, or another process writes to it (409)
    BusyError                  overloaded, starting or out of reach (429, 502, 503, 504); a later try may succeed
"""


class AnyKeyError(Exception):
    """Root of what the client raises."""


class NoAnswerError(AnyKeyError):
    """Nothing came back at any try: wrong address, the service is down, or the network is."""


class BrokenAnswerError(AnyKeyError):
    """What came back is no answer of an AnyKey service; a proxy may have made it."""


class ServiceError(AnyKeyError):
    """The service answered with an error.

    Attributes:
        type: Its stable name, such as `invalid_request`; docs/api.md lists them.
        message: What was expected, what came, where.
        request_id: What the service's log calls the request.
        status: The HTTP status.
        retry_after_s: After how many seconds a try may succeed, where the service says so.
    """

    def __init__(
        self, type: str, message: str, request_id: str = "", status: int = 0, retry_after_s: float | None = None
    ) -> None:
        self.type = type
        self.message = message
        self.request_id = request_id
        self.status = status
        self.retry_after_s = retry_after_s
        super().__init__(f"{type}: {message}" + (f" (request {request_id})" if request_id else ""))


class RefusedError(ServiceError):
    """The request is wrong and has to change."""


class NotFoundError(RefusedError):
    """There is no such key, image, index or address."""


class SnapshotExpiredError(RefusedError):
    """The moment of an earlier answer is no longer kept: search again."""


class PreconditionFailedError(RefusedError):
    """The key is not, or no longer, what the change depends on."""


class ConflictError(ServiceError):
    """The index cannot be changed through this service now: it is read only, or another process writes to it."""


class BusyError(ServiceError):
    """The service is overloaded, not ready, or late, or cannot reach its index; a later try may succeed."""


BY_STATUS: dict[int, type[ServiceError]] = {
    404: NotFoundError,
    409: ConflictError,
    410: SnapshotExpiredError,
    412: PreconditionFailedError,
    429: BusyError,
    502: BusyError,
    503: BusyError,
    504: BusyError,
}


def error_class(status: int) -> type[ServiceError]:
    """The class of an answer that is an error."""
    return BY_STATUS.get(status, RefusedError if 400 <= status < 500 else ServiceError)
