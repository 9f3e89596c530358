"""A key as a point: its name as an id, and what it carries as a payload."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, field_validator
from pydantic_core import PydanticCustomError

from anykey.index.errors import InvalidFilterError
from anykey.index.filtering.conditions import Exists, Path
from anykey.service.answers.written import write_json
from anykey.service.errors import InvalidRequestError
from anykey.service.queries.include import MAX_INCLUDED, Include
from anykey.service.queries.wrong_values import shown

ONLY_VECTOR = ("", None)  # the names of a vector where each point has one
MAX_ID = 2**64 - 1
NAME = re.compile(r'(?:"([^"]+)"|([^."\[\]]+))(?:\[\])*')


class QdrantRequest(BaseModel):
    """What requests for points have in common."""

    shard_key: Any = Field(None, description="Only absent: all points of a collection are in one place.")

    @field_validator("shard_key")
    @classmethod
    def _has_no_shards(cls, value: Any) -> Any:
        raise PydanticCustomError("no_shards", "all points of a collection are in one place; leave it out")


def key_of(point: Any, where: str) -> str:
    """The key that a point's id names: itself, a number in decimal.

    Raises:
        InvalidRequestError: it is none.
    """
    if isinstance(point, str) and point.strip():
        return point
    if isinstance(point, int) and not isinstance(point, bool) and 0 <= point <= MAX_ID:
        return str(point)
    raise InvalidRequestError(f"{where}: expected the id of a point, a string or a whole number, got {shown(point)}")


def id_of(key: str) -> str | int:
    """A key as the id of a point: a number where it is one in decimal, which `key_of` makes the same key of."""
    is_number = key.isascii() and key.isdecimal() and len(key) <= len(str(MAX_ID)) and str(int(key)) == key
    return int(key) if is_number and int(key) <= MAX_ID else key


def keys_of(points: Any, most: int, where: str) -> list[str]:
    """The keys that a list of ids names.

    Raises:
        InvalidRequestError: it is no list of ids, or has more than `most`.
    """
    if not isinstance(points, list):
        raise InvalidRequestError(f"{where}: expected a list of ids, got {shown(points)}")
    if len(points) > most:
        raise InvalidRequestError(f"{where}: at most {most} points, got {len(points)}")
    return [key_of(point, f"{where}[{place}]") for place, point in enumerate(points)]


@dataclass(frozen=True)
class Shown:
    """What an answer has of each point beside its id.

    Attributes:
        payload: Whether it has a payload.
        only: Members of the payload that are shown; `None`: all.
        without: Members that are not.
        vector: Whether it has the vector.
    """

    payload: bool
    only: Include | None
    without: tuple[Path, ...]
    vector: bool

    @property
    def include(self) -> Include:
        """What a search is asked to show."""
        return Include(text=self.payload, metadata=self.payload, image_urls=self.payload, vector=self.vector)

    def payload_of(self, text: str | None, metadata: Mapping[str, Any], image_urls: Sequence[str]) -> dict[str, Any]:
        """The payload that a key's are: the metadata, and what else it carries under names that these do not have."""
        payload = dict(metadata)
        if text is not None:
            payload.setdefault("text", text)
        if image_urls:
            payload.setdefault("image_urls", list(image_urls))
        if self.only is not None:
            payload = self.only.metadata_of(payload)
        for path in self.without:
            payload = without(payload, path)
        return payload


def read_shown(with_payload: Any, with_vector: Any, *, default: bool) -> Shown:
    """Reads `with_payload` and `with_vector`.

    Args:
        with_payload: True, false, a list of members, or an object with `include` or `exclude`; `None`: `default`.
        with_vector: True, false, or a list of names; `None`: false.
        default: Whether payloads are shown where nobody says.

    Raises:
        InvalidRequestError: neither.
    """
    vector = read_flag_or_names(with_vector)
    if with_payload is None or isinstance(with_payload, bool):
        return Shown(default if with_payload is None else with_payload, None, (), vector)
    if isinstance(with_payload, list):
        with_payload = {"include": with_payload}
    names = [name for name in ("include", "exclude") if isinstance(with_payload, dict) and with_payload.get(name)]
    if not isinstance(with_payload, dict) or len(names) > 1:
        raise InvalidRequestError(f"with_payload: expected true, false or a list of members, got {shown(with_payload)}")
    paths = _paths(with_payload[names[0]]) if names else ()
    if "exclude" in names:
        return Shown(True, None, paths, vector)
    return Shown(True, Include(metadata=False, members=paths), (), vector)


def read_flag_or_names(with_vector: Any) -> bool:
    """Whether vectors are wanted; raises `InvalidRequestError` where one is named that there is not."""
    if with_vector is None or isinstance(with_vector, bool):
        return bool(with_vector)
    if isinstance(with_vector, list) and all(name in ONLY_VECTOR for name in with_vector):
        return bool(with_vector)
    raise InvalidRequestError(
        f"with_vector: each point has one vector, without a name: expected true or false, got {shown(with_vector)}"
    )


def path_of(key: Any, where: str) -> Path:
    """The names of a path such as `a.b[].c`; of a list each element counts, whether the path says so or not.

    Raises:
        InvalidRequestError: it is none, or too long.
    """
    names, at = [], 0
    while isinstance(key, str) and (name := NAME.match(key, at)):
        names.append(name[1] or name[2])
        at = name.end() + 1
        if name.end() == len(key):
            return _checked(tuple(names), where)
        if key[name.end()] != ".":
            break
    raise InvalidRequestError(f"{where}: expected the path of a field, such as a.b or a[].b, got {shown(key)}")


def check_using(using: Any, where: str = "using") -> None:
    """Makes sure that a request means the one vector that each point has."""
    if using not in ONLY_VECTOR:
        raise InvalidRequestError(f"{where}: each point has one vector, without a name; got {shown(using)}")


def write_result(result: Any, started_s: float) -> bytes:
    """An answer as Qdrant's clients read it."""
    return write_json({"result": result, "status": "ok", "time": round(time.monotonic() - started_s, 6)})


def without(payload: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The payload without what is at a path; itself stays as it is."""
    name, *rest = path
    if name not in payload:
        return dict(payload)
    if not rest:
        return {other: value for other, value in payload.items() if other != name}
    inner = payload[name]
    if isinstance(inner, dict):
        return {**payload, name: without(inner, tuple(rest))}
    if isinstance(inner, list):
        return {**payload, name: [without(one, tuple(rest)) if isinstance(one, dict) else one for one in inner]}
    return dict(payload)


def _paths(names: Any) -> tuple[Path, ...]:
    if not isinstance(names, list) or len(names) > MAX_INCLUDED:
        raise InvalidRequestError(
            f"with_payload: expected a list of at most {MAX_INCLUDED} members, got {shown(names)}"
        )
    return tuple(path_of(name, f"with_payload[{place}]") for place, name in enumerate(names))


def _checked(path: Path, where: str) -> Path:
    try:
        return Exists(path).path
    except InvalidFilterError as error:
        raise InvalidRequestError(f"{where}: expected the path of a field: {error.reason}") from error
