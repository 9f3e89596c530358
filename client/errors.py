"""What the client raises.

AnyKeyError
  NoAnswerError                 nothing came back, at every try
  BrokenAnswerError             what came back is no answer of an AnyKey service
  ServiceError                  the service refused the request, or could not answer it; `type` says why
    RefusedError                the request has to change
      InvalidRequestError       it fails validation
      UnsupportedMediaTypeError the service reads no such body
      ItemTooLargeError         the body, an image or a text is over a limit
      UndecodableImageError     the bytes are no image that is read
      UnsupportedModalityError  the loaded model does not take this kind of item
      UnauthorizedError         the API key is missing, unknown or expired
      ForbiddenError            the API key does not allow this
      NotFoundError             there is no such key, image, index or address
      MethodNotAllowedError     the address takes another method
      SnapshotExpiredError      the moment of an earlier answer is no longer kept
      PreconditionFailedError   the key is not as the change says it must be
      RequestMismatchError      an idempotency key came back with another request
    ConflictError               the index is not changed through this service now
      ReadOnlyError             the service changes no keys
      IndexLockedError          another process, such as a build, changes the index
    BusyError                   a later try may succeed
      RateLimitedError          the caller asks for more than its limits; `retry_after_s` says how long
      OverloadedError           the queue is full
      NotReadyError             the service is starting or shutting down
      TooManyConnectionsError   it has as many connections open as it may have
      IndexUnavailableError     the index cannot be reached
      ImageNotReachedError      the machine that holds an image does not answer
      DeadlineExceededError     it took too long
    InternalError               anything unforeseen
"""

from typing import ClassVar


class AnyKeyError(Exception):
    """Root of what the client raises."""


class NoAnswerError(AnyKeyError):
    """Nothing came back at any try: wrong address, the service is down, or the network is."""


class BrokenAnswerError(AnyKeyError):
    """What came back is no answer of an AnyKey service; a proxy may have made it."""


class ServiceError(AnyKeyError):
    """The service answered with an error.

    Attributes:
        wire_type: The error's stable name; empty for a class that stands for several.
        type: The name that came, such as `invalid_request`; docs/api.md lists them.
        message: What was expected, what came, where.
        request_id: What the service's log calls the request.
        status: The HTTP status; 0 for an error of one of several things in an answer of 200.
        retry_after_s: After how many seconds a try may succeed, where the service says so.
    """

    wire_type: ClassVar[str] = ""

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


class InvalidRequestError(RefusedError):
    """The request fails validation; the message says where."""

    wire_type = "invalid_request"


class UnsupportedMediaTypeError(RefusedError):
    """The service reads no body of this type."""

    wire_type = "unsupported_media_type"


class ItemTooLargeError(RefusedError):
    """The body, an image or a text is over a limit."""

    wire_type = "item_too_large"


class UndecodableImageError(RefusedError):
    """The bytes are no image that is read."""

    wire_type = "undecodable_image"


class UnsupportedModalityError(RefusedError):
    """The loaded model does not take this kind of item."""

    wire_type = "unsupported_modality"


class UnauthorizedError(RefusedError):
    """The API key is missing, unknown or expired."""

    wire_type = "unauthorized"


class ForbiddenError(RefusedError):
    """The API key does not allow this; the message names the scope that it lacks."""

    wire_type = "forbidden"


class NotFoundError(RefusedError):
    """There is no such key, image, index or address."""

    wire_type = "not_found"


class MethodNotAllowedError(RefusedError):
    """The address takes another method."""

    wire_type = "method_not_allowed"


class SnapshotExpiredError(RefusedError):
    """The moment of an earlier answer is no longer kept: search again."""

    wire_type = "snapshot_expired"


class PreconditionFailedError(RefusedError):
    """The key is not, or no longer, what the change depends on."""

    wire_type = "precondition_failed"


class RequestMismatchError(RefusedError):
    """An idempotency key came back with another request."""

    wire_type = "idempotency_key_reused"


class ConflictError(ServiceError):
    """The index cannot be changed through this service now."""


class ReadOnlyError(ConflictError):
    """The service changes no keys; the message says who does, where that is known."""

    wire_type = "read_only"


class IndexLockedError(ConflictError):
    """Another process, such as a build, changes the index; `retry_after_s` says when to ask again."""

    wire_type = "index_locked"


class BusyError(ServiceError):
    """The service is overloaded, not ready, or late, or cannot reach its index; a later try may succeed."""


class OverloadedError(BusyError):
    """There is no place in the queue."""

    wire_type = "overloaded"


class RateLimitedError(BusyError):
    """The caller asks for more than its limits allow; `retry_after_s` says when to ask again."""

    wire_type = "rate_limited"


class NotReadyError(BusyError):
    """The service is starting or shutting down."""

    wire_type = "not_ready"


class TooManyConnectionsError(BusyError):
    """The service has as many connections open as it may have."""

    wire_type = "too_many_connections"


class IndexUnavailableError(BusyError):
    """The index cannot be reached, or is damaged."""

    wire_type = "index_unavailable"


class ImageNotReachedError(BusyError):
    """The machine that holds a key's image does not answer or fails."""

    wire_type = "image_not_reached"


class DeadlineExceededError(BusyError):
    """The request was not answered within its deadline."""

    wire_type = "deadline_exceeded"


class InternalError(ServiceError):
    """Anything unforeseen; report the request id."""

    wire_type = "internal"


BUSY_STATUSES = frozenset({429, 502, 503, 504})


def error_class(name: str, status: int) -> type[ServiceError]:
    """The class of an error, by its name, or by its status where a newer service has another name."""
    groups = (RefusedError, ConflictError, BusyError, ServiceError)
    named = {kind.wire_type: kind for group in groups for kind in group.__subclasses__() if kind.wire_type}
    if name in named:
        return named[name]
    if status in BUSY_STATUSES:
        return BusyError
    if status == 409:
        return ConflictError
    return RefusedError if 400 <= status < 500 else ServiceError
