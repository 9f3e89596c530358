"""What a request wants changed, checked: keys to store, to patch and to delete, from JSON or a form.

Shape legend: D = width.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from anykey.encoder.item import Modality
from anykey.index.changes import Patch
from anykey.index.errors import InvalidFilterError, InvalidKeyError
from anykey.index.filtering.filters import parse_condition
from anykey.index.key_index import Scope
from anykey.service.errors import InvalidRequestError, ItemTooLargeError, ServiceError
from anykey.service.keys.schemas import (
    MANY_FIELDS,
    DeleteRequest,
    KeyRequest,
    NewKeyFields,
    PatchRequest,
    ScopeFields,
    UndoRequest,
)
from anykey.service.queries.image_addresses import encoded_image
from anykey.service.queries.query import decode_base64
from anykey.service.queries.strict_json import parse_json
from anykey.service.queries.wrong_values import shown, telling, wrong_field
from anykey.service.requests.kept_json import MAX_DEPTH, check_depth, check_kept
from anykey.service.requests.multipart import Form, form_from_multipart
from anykey.service.schemas import Limits

KEY_FORM = Form(
    known=KeyRequest.model_fields,
    lists=frozenset({"pools"}),
    json=frozenset({"metadata"}),
    whole=frozenset({"if_seq"}),
)
ModelT = TypeVar("ModelT", bound=BaseModel)
MAX_SHOWN_ERRORS = 5


@dataclass(frozen=True)
class KeyToStore:
    """One key as a client wants it stored.

    Attributes:
        key: Its name.
        text: Its text, or `None`.
        images: Its encoded images.
        vector_D: Its unit vector, if the client has made it; else the model makes it of text and images.
        modality: What the vector is of, where there is neither text nor image.
        metadata: A JSON object.
        pools: Pools that it is in.
        if_seq: What must be stored under its name, as for `anykey.index.changes.Put`.
        where: What messages call it; empty for the only one of a request.
        keeps_earlier: Whether what it replaces is kept, so that it can be undone.
    """

    key: str
    text: str | None = None
    images: tuple[bytes, ...] = ()
    vector_D: NDArray[np.float32] | None = field(default=None, compare=False)
    modality: Modality | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    pools: tuple[str, ...] = ()
    if_seq: int | None = None
    where: str = ""
    keeps_earlier: bool = False


@dataclass(frozen=True)
class RefusedKey:
    """A key of a request that cannot be stored as it was sent.

    Attributes:
        key: Its name, if it has one.
        error: Why.
    """

    key: str | None
    error: ServiceError


@dataclass(frozen=True)
class KeysToStore:
    """What a request wants stored.

    Attributes:
        keys: Each key, or why it cannot be stored.
        is_list: Whether the request has a list of keys, and not just one key.
        atomic: Whether none is stored if one of them cannot be.
        digest: Of all that the request says.
    """

    keys: tuple[KeyToStore | RefusedKey, ...]
    is_list: bool
    atomic: bool
    digest: bytes


@dataclass(frozen=True)
class KeysToDelete:
    """What a request wants deleted.

    Attributes:
        keys: Names, or `None` where a scope is given.
        scope: Which keys, where no names are given.
        dry_run: Whether they are only counted.
        digest: Of all that the request says.
    """

    keys: tuple[str, ...] | None
    scope: Scope
    dry_run: bool
    digest: bytes


def keys_from_json(body: bytes | bytearray, key: str | None, limits: Limits) -> KeysToStore:
    """Reads keys to store from a JSON body: one key, or an object with a list of `keys`.

    Args:
        body: The whole body.
        key: The name, if the address says it; then the body is one key.
        limits: What a request may ask for.

    Raises:
        InvalidRequestError: no JSON object, an unknown or repeated field, a value out of bounds, broken base64.
        ItemTooLargeError: too many keys, or of the only one, an image or the text is over a limit.
    """
    fields = _object(body)
    digest = digest_of(fields)
    if key is None and "keys" in fields:
        return _several(fields, digest, limits)
    return KeysToStore((key_from_fields(_named(fields, key), (), limits),), False, False, digest)


def keys_from_form(body: bytes | bytearray, content_type: str, key: str | None, limits: Limits) -> KeysToStore:
    """Reads the one key that a form describes; raises as `keys_from_json`.

    Args:
        body: The whole body, multipart/form-data.
        content_type: The request's Content-Type, with the boundary.
        key: The name, if the address says it.
        limits: What a request may ask for.
    """
    fields, files = form_from_multipart(body, content_type, KEY_FORM)
    stored = key_from_fields(_named(fields, key), files, limits)
    return KeysToStore((stored,), False, False, digest_of(fields, *files))


def key_from_line(line: bytes | bytearray, number: int, limits: Limits) -> KeyToStore | RefusedKey:
    """Reads one key from a line of JSON; what is wrong with it is told and raised by nobody.

    Args:
        line: The line.
        number: Its number, from 1.
        limits: What a request may ask for.
    """
    try:
        fields = parse_json(line, f"line {number}")
    except ServiceError as error:
        return RefusedKey(None, error.as_result())
    return _entry(fields, f"line {number}", limits)


def key_from_fields(fields: dict[str, Any], files: tuple[bytes, ...], limits: Limits, where: str = "") -> KeyToStore:
    """Reads one key.

    Args:
        fields: As in `KeyRequest`.
        files: Encoded images, before those of the `image` field.
        limits: What a request may ask for.
        where: What messages call it.

    Raises:
        InvalidRequestError: an unknown field, a value of the wrong type or out of bounds, broken base64, nothing to
            store, or a vector of another kind than a unit vector can be made of.
        ItemTooLargeError: an image or the text is over a limit.
    """
    request = _validated(KeyRequest, fields, where)
    prefix = f"{where}." if where else ""
    _check_name(request.key, f"{prefix}key")
    for position, pool in enumerate(request.pools):
        _check_name(pool, f"{prefix}pools[{position}]")
    check_kept(request.metadata, f"{prefix}metadata")
    text = request.text if request.text and request.text.strip() else None
    if text is not None and len(text) > limits.max_text_chars:
        raise ItemTooLargeError(
            f"{prefix}text has {len(text)} characters, at most {limits.max_text_chars} are accepted"
        )
    images = files + _images_of(request, prefix, limits)
    _check_images(images, prefix, limits)
    vector_D = None if request.vector is None else unit_vector(request.vector, f"{prefix}vector")
    if text is None and not images and vector_D is None:
        raise InvalidRequestError(f"{where or 'the key'}: expected text, image, both or a vector; all are absent")
    if request.modality is not None and (vector_D is None or text is not None or images):
        raise InvalidRequestError(
            f"{prefix}modality is for a vector without text and image; of others it is known by what they have"
        )
    return KeyToStore(
        request.key,
        text,
        images,
        vector_D,
        request.modality,
        request.metadata,
        tuple(request.pools),
        request.if_seq,
        where,
    )


def patch_from_json(body: bytes | bytearray, key: str) -> tuple[Patch, bytes]:
    """Reads what to change of a key, and the digest of all that the request says.

    Raises:
        InvalidRequestError: no JSON object, an unknown or repeated field, a value of the wrong type, or nothing to do.
    """
    fields = _object(body)
    request = _validated(PatchRequest, fields, "")
    if request.metadata is None and request.pools is None:
        raise InvalidRequestError("expected metadata or pools to change; both are absent")
    if request.overwrite and request.metadata is None:
        raise InvalidRequestError("overwrite is for metadata, which are absent")
    for position, pool in enumerate(request.pools or ()):
        _check_name(pool, f"pools[{position}]")
    check_kept(request.metadata, "metadata")
    try:
        patch = Patch(key, request.metadata, request.pools, request.overwrite, request.if_seq)
        return patch, digest_of(fields)
    except InvalidKeyError as error:
        raise InvalidRequestError(str(error)) from error


def undo_from_json(body: bytes | bytearray) -> tuple[int, bytes]:
    """Reads the number of the change to be undone, and the digest of all that the request says.

    Raises:
        InvalidRequestError: no JSON object, an unknown or repeated field, or no such number.
    """
    fields = _object(body)
    return _validated(UndoRequest, fields, "").seq, digest_of(fields)


def deletion_from_json(body: bytes | bytearray, limits: Limits) -> KeysToDelete:
    """Reads which keys to delete.

    Raises:
        InvalidRequestError: no JSON object, an unknown or repeated field, a value of the wrong type, names beside a
            scope, or nothing that narrows the keys without `all`.
    """
    fields = _object(body)
    _check_number_of_names(fields, limits)
    request = _validated(DeleteRequest, fields, "")
    narrowing = [name for name in ScopeFields.model_fields if fields.get(name) not in (None, [])]
    if fields.get("within") == []:
        narrowing.append("within")
    if request.keys is not None and (narrowing or request.all):
        others = ", ".join(narrowing) or "all"
        raise InvalidRequestError(f"expected keys alone, or fields of a scope; got keys and {others}")
    if request.keys is None and bool(narrowing) == request.all:
        raise InvalidRequestError(
            'expected keys, fields of a scope, or "all": true for every key of the index; '
            + ("got all and a scope" if request.all else "all are absent")
        )
    keys = None if request.keys is None else tuple(request.keys)
    return KeysToDelete(keys, scope_of(request), request.dry_run, digest_of(fields))


def scope_from_json(body: bytes | bytearray, limits: Limits) -> Scope:
    """Reads which keys to count; an empty body means all.

    Raises:
        InvalidRequestError: no JSON object, an unknown or repeated field, a value of the wrong type, a wrong filter.
    """
    return scope_from_fields(_object(body) if body else {}, limits)


def scope_from_fields(fields: dict[str, Any], limits: Limits) -> Scope:
    """Reads which keys are meant; raises as `scope_from_json`."""
    _check_number_of_names(fields, limits)
    return scope_of(_validated(ScopeFields, fields, ""))


def scope_of(request: ScopeFields) -> Scope:
    """The scope that the fields describe; raises `InvalidRequestError` for a wrong filter."""
    try:
        condition = None if request.filter is None else parse_condition(request.filter)
    except InvalidFilterError as error:
        raise InvalidRequestError(str(error)) from error
    return Scope(
        frozenset(request.modalities) if request.modalities is not None else None,
        request.pool,
        condition,
        frozenset(request.within) if request.within is not None else None,
        frozenset(request.exclude),
    )


def digest_of(fields: Any, *files: bytes) -> bytes:
    """SHA-256 of what a request says, in whatever order and spelling of JSON it came."""
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for data in files:
        digest.update(hashlib.sha256(data).digest())
    return digest.digest()


def unit_vector(value: Sequence[float] | str, where: str) -> NDArray[np.float32]:
    """A vector of a request, scaled to unit length; raises `InvalidRequestError` where that cannot be.

    Args:
        value: Numbers, or base64 of float32, little-endian.
        where: The field, for the message.
    """
    if isinstance(value, str):
        data = decode_base64(value, where, 2**20)
        if len(data) % 4:
            raise InvalidRequestError(f"{where}: expected base64 of float32, 4 bytes each, got {len(data)} bytes")
        wide_D = np.frombuffer(data, "<f4").astype(np.float64)
    else:
        wide_D = np.asarray(value, np.float64)
    if not np.isfinite(wide_D).all():
        raise InvalidRequestError(f"{where}: expected finite numbers")
    largest = float(np.abs(wide_D).max(initial=0.0))
    if not largest:
        came = f"{len(wide_D)} numbers that are all 0" if len(wide_D) else "no numbers"
        raise InvalidRequestError(f"{where}: expected a vector that is not zero, got {came}")
    scaled_D = wide_D / largest  # or the squares of very large and very small numbers would be lost
    return (scaled_D / math.sqrt(float(scaled_D @ scaled_D))).astype(np.float32)


def _several(fields: dict[str, Any], digest: bytes, limits: Limits) -> KeysToStore:
    unknown = [name for name in fields if name not in MANY_FIELDS]
    if unknown:
        raise InvalidRequestError(f"unknown field {shown(unknown[0])} beside keys; known: atomic, keys")
    atomic, entries = fields.get("atomic", False), fields["keys"]
    if not isinstance(atomic, bool):
        raise InvalidRequestError(f"atomic must be true or false, got {shown(atomic)}")
    if not isinstance(entries, list):
        raise InvalidRequestError(f"keys must be a list of objects, got {shown(entries)}")
    if not 1 <= len(entries) <= limits.max_keys:
        raise InvalidRequestError(
            f"keys: expected 1 to {limits.max_keys} keys, got {len(entries)}; more can be sent as lines of JSON "
            "(application/x-ndjson)"
        )
    found = tuple(_entry(entry, f"keys[{position}]", limits) for position, entry in enumerate(entries))
    return KeysToStore(found, True, atomic, digest)


def _entry(fields: Any, where: str, limits: Limits) -> KeyToStore | RefusedKey:
    """One key of several, or what is wrong with it."""
    if not isinstance(fields, dict):
        return RefusedKey(None, InvalidRequestError(f"{where}: expected an object, got {shown(fields)}"))
    name = fields.get("key")
    try:
        return key_from_fields(fields, (), limits, where)
    except ServiceError as error:
        return RefusedKey(name if isinstance(name, str) and _is_unicode(name) else None, error.as_result())


def _object(body: bytes | bytearray) -> dict[str, Any]:
    fields = parse_json(body, "the body")
    if not isinstance(fields, dict):
        raise InvalidRequestError(f"the body must be a JSON object, got {shown(fields)}")
    check_depth(fields, "the body", MAX_DEPTH + 5)
    return fields


def _named(fields: dict[str, Any], key: str | None) -> dict[str, Any]:
    """The fields with the name that the address says."""
    if key is None:
        return fields
    if fields.get("key", key) != key:
        raise InvalidRequestError("key differs from the key in the address; leave it out, or put it right")
    return {**fields, "key": key}


def _validated(model: type[ModelT], fields: dict[str, Any], where: str) -> ModelT:
    unknown = [name for name in fields if name not in model.model_fields]
    prefix = f"{where}." if where else ""
    if unknown:
        known = ", ".join(model.model_fields)
        raise InvalidRequestError(f"{where}{': ' if where else ''}unknown field {shown(unknown[0])}; known: {known}")
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        details = telling(error.errors(include_url=False))[:MAX_SHOWN_ERRORS]
        sentences = dict.fromkeys(wrong_field(prefix, detail) for detail in details)
        raise InvalidRequestError("; ".join(sentences)) from error


def _images_of(request: NewKeyFields, prefix: str, limits: Limits) -> tuple[bytes, ...]:
    encoded = [request.image] if isinstance(request.image, str) else request.image or []
    if len(encoded) > limits.max_images:
        raise ItemTooLargeError(f"{prefix}image: {len(encoded)} images, at most {limits.max_images} are accepted")
    names = ["image"] if isinstance(request.image, str) else [f"image[{i}]" for i in range(len(encoded))]
    return tuple(
        encoded_image(text, f"{prefix}{name}", limits.max_image_bytes)
        for text, name in zip(encoded, names, strict=True)
    )


def _check_images(images: tuple[bytes, ...], prefix: str, limits: Limits) -> None:
    if len(images) > limits.max_images:
        raise ItemTooLargeError(f"{prefix}image: {len(images)} images, at most {limits.max_images} are accepted")
    for position, image in enumerate(images):
        if not image:
            raise InvalidRequestError(f"{prefix}image[{position}] is empty")
        if len(image) > limits.max_image_bytes:
            raise ItemTooLargeError(
                f"{prefix}image[{position}] has {len(image)} bytes, at most {limits.max_image_bytes} are accepted"
            )


def _check_name(name: str, where: str) -> None:
    if not name.strip():
        raise InvalidRequestError(f"{where}: expected a name that is not blank")


def _check_number_of_names(fields: dict[str, Any], limits: Limits) -> None:
    """Refuses lists that are too long before their entries are looked at."""
    for name, most in (("exclude", limits.max_exclude), ("within", limits.max_within), ("keys", limits.max_within)):
        names = fields.get(name)
        if isinstance(names, list) and len(names) > most:
            raise InvalidRequestError(f"{name}: at most {most} keys, got {len(names)}")


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
