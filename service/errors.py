"""Everything `service` raises on purpose, and the only table from error type to HTTP status.

ServiceError
  InvalidRequestError        invalid_request         the request fails validation
  UnsupportedMediaTypeError  unsupported_media_type  neither JSON nor multipart, or compressed in another way
  ItemTooLargeError          item_too_large          body, image or text over a limit
  UndecodableImageError      undecodable_image       the bytes are no image we read
  UnsupportedModalityError   unsupported_modality    the loaded model does not take this kind of query
  UnauthorizedError          unauthorized            an API key is missing, unknown or expired
  ForbiddenError             forbidden               the API key does not allow this
  NotFoundError              not_found               no such key, image or address
  MethodNotAllowedError      method_not_allowed      the address exists, the method does not
  SnapshotExpiredError       snapshot_expired        the moment asked for is no longer kept
  ReadOnlyError              read_only               this service changes no keys
  IndexLockedError           index_locked            another process changes the index now
  PreconditionFailedError    precondition_failed     the key is not as the request says it must be
  RequestMismatchError       idempotency_key_reused  an idempotency key came back with another request
  RateLimitedError           rate_limited            the caller asks for more than its limits
  OverloadedError            overloaded              no place in the queue
  ImageNotReachedError       image_not_reached       the machine that holds a key's image does not answer
  DeadlineExceededError      deadline_exceeded       waited too long
  NotReadyError              not_ready               model or index not loaded, or shutting down
  TooManyConnectionsError    too_many_connections    as many are open as may be
  IndexUnavailableError      index_unavailable       the index cannot be reached, or is damaged
  InternalError              internal                anything else
StartupError                 the service cannot start; ends the program, never reaches the wire
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Self

import anykey.encoder.errors as encoder_errors
import anykey.index.errors as index_errors

STATUS_BY_TYPE: Mapping[str, int] = MappingProxyType(
    {
        "invalid_request": 400,
        "unauthorized": 401,
        "forbidden": 403,
        "not_found": 404,
        "method_not_allowed": 405,
        "read_only": 409,
        "index_locked": 409,
        "snapshot_expired": 410,
        "precondition_failed": 412,
        "item_too_large": 413,
        "unsupported_media_type": 415,
        "undecodable_image": 422,
        "unsupported_modality": 422,
        "idempotency_key_reused": 422,
        "overloaded": 429,
        "rate_limited": 429,
        "internal": 500,
        "image_not_reached": 502,
        "not_ready": 503,
        "too_many_connections": 503,
        "index_unavailable": 503,
        "deadline_exceeded": 504,
    }
)
TYPES_WITH_RETRY_AFTER = frozenset(
    {"index_locked", "overloaded", "not_ready", "too_many_connections", "index_unavailable"}
)


class StartupError(Exception):
    """The service cannot start; one line says what is missing or wrong and what to do about it."""


class ServiceError(Exception):
    """Root of what a client is told.

    Attributes:
        type: The error's name on the wire; stable.
        message: One sentence: what was expected, what came, where. No contents of user data.
        headers: What the answer says besides.
    """

    type: ClassVar[str] = "internal"

    def __init__(self, message: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.message = message
        self.headers = headers
        super().__init__(message)

    @property
    def status(self) -> int:
        """The HTTP status of this error."""
        return STATUS_BY_TYPE[self.type]

    def as_result(self) -> Self:
        """Itself, without its cause, and the frames that both came through.

        These may refer to where results are kept, so that an error among them would keep all that its request had,
        images too, until garbage is collected.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class InvalidRequestError(ServiceError):
    """The request fails validation; the client should fix it."""

    type = "invalid_request"


class UnsupportedMediaTypeError(ServiceError):
    """The body is neither JSON nor multipart in UTF-8, or is compressed in a way that is not read."""

    type = "unsupported_media_type"


class ItemTooLargeError(ServiceError):
    """The body, an image or a text is over a limit."""

    type = "item_too_large"


class UndecodableImageError(ServiceError):
    """The bytes are no image that can be read."""

    type = "undecodable_image"


class UnsupportedModalityError(ServiceError):
    """The loaded model does not take this kind of query: text, image or fused."""

    type = "unsupported_modality"


class UnauthorizedError(ServiceError):
    """The API key is missing, unknown or expired."""

    type = "unauthorized"

    def __init__(self, message: str, *, is_key_wrong: bool = False) -> None:
        reason = ', error="invalid_token"' if is_key_wrong else ""  # as RFC 6750 has it
        super().__init__(message, {"www-authenticate": f'Bearer realm="anykey"{reason}'})


class ForbiddenError(ServiceError):
    """The API key does not allow this; the message names what is missing."""

    type = "forbidden"

    def __init__(self, message: str, *, scope: str = "") -> None:
        needed = f', scope="{scope}"' if scope else ""
        super().__init__(message, {"www-authenticate": f'Bearer realm="anykey", error="insufficient_scope"{needed}'})


class NotFoundError(ServiceError):
    """There is no such key, image or address."""

    type = "not_found"


class MethodNotAllowedError(ServiceError):
    """The address exists but takes another method."""

    type = "method_not_allowed"


class SnapshotExpiredError(ServiceError):
    """The moment of the index that an answer should be of is no longer kept; the client should search again."""

    type = "snapshot_expired"


class ReadOnlyError(ServiceError):
    """This service changes no keys; another may."""

    type = "read_only"


class IndexLockedError(ServiceError):
    """Another process, such as a build, changes the index now; the client should retry later."""

    type = "index_locked"


class PreconditionFailedError(ServiceError):
    """The key was stored by another change than the request names, is there already, or is not."""

    type = "precondition_failed"


class RequestMismatchError(ServiceError):
    """An idempotency key was used before, for another request."""

    type = "idempotency_key_reused"


class OverloadedError(ServiceError):
    """There is no place in the queue; the client should retry later."""

    type = "overloaded"


class RateLimitedError(ServiceError):
    """The caller asks for more than its limits allow; the client should wait."""

    type = "rate_limited"


class ImageNotReachedError(ServiceError):
    """The machine that holds an image, which the index only refers to, does not answer or fails."""

    type = "image_not_reached"


class DeadlineExceededError(ServiceError):
    """The request was not answered within its deadline."""

    type = "deadline_exceeded"


class NotReadyError(ServiceError):
    """Model or index are not loaded, or the service is shutting down."""

    type = "not_ready"


class TooManyConnectionsError(ServiceError):
    """As many connections are open as may be; the client should retry later, or use those that it has."""

    type = "too_many_connections"


class IndexUnavailableError(ServiceError):
    """The index cannot be reached or is damaged; where it is and how is for the log."""

    type = "index_unavailable"


class InternalError(ServiceError):
    """Anything else; the client should report the request id."""

    type = "internal"


# What a call of an index raises when the index, and not what was asked of it, is at fault.
INDEX_FAILURES = (index_errors.IndexUnavailableError, index_errors.IndexCorruptError, OSError)

_BY_ENCODER_ERROR: tuple[tuple[type[encoder_errors.InvalidItemError], type[ServiceError]], ...] = (
    (encoder_errors.EmptyItemError, InvalidRequestError),
    (encoder_errors.ItemTooLargeError, ItemTooLargeError),
    (encoder_errors.UndecodableImageError, UndecodableImageError),
    (encoder_errors.UnsupportedModalityError, UnsupportedModalityError),
    (encoder_errors.UnsupportedItemError, InvalidRequestError),
)


def from_item_error(error: encoder_errors.InvalidItemError) -> ServiceError:
    """The wire error for an item the encoder refuses; a subclass of the listed ones maps as its parent."""
    for encoder_type, service_type in _BY_ENCODER_ERROR:
        if isinstance(error, encoder_type):
            return service_type(error.reason)
    return InvalidRequestError(error.reason)


def from_index_failure(error: Exception) -> IndexUnavailableError:
    """The wire error for one of `INDEX_FAILURES`; tells neither addresses nor paths."""
    if isinstance(error, index_errors.IndexCorruptError):
        return IndexUnavailableError("the index is damaged; it will be used again once it is mended")
    return IndexUnavailableError("the index cannot be reached; retry in a moment")


def from_type(name: str, message: str) -> ServiceError:
    """The wire error of this name."""
    kinds = {kind.type: kind for kind in ServiceError.__subclasses__()}
    return kinds.get(name, InternalError)(message)


def from_status(status: int, message: str) -> ServiceError:
    """The wire error for a status the web framework chose (404, 405, other 4xx)."""
    by_status: dict[int, type[ServiceError]] = {404: NotFoundError, 405: MethodNotAllowedError}
    fallback = InternalError if status >= 500 else InvalidRequestError
    return by_status.get(status, fallback)(message)
