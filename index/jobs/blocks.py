"""A corpus cut into blocks of keys, each of which becomes one shard: the unit of work of an embedding job."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pydantic import TypeAdapter, ValidationError

from anykey.index.errors import EmbeddingFailedError
from anykey.index.jobs.plan import Plan, PlannedEntry
from anykey.index.settings import EmbedSettings
from anykey.sources.files.images import ImageStamp


@dataclass(frozen=True)
class Block:
    """Some keys of a corpus, in its order.

    Attributes:
        number: Which block, from 0.
        entries: The keys.
        digest: Of all that its shard depends on: a shard that bears it need not be made again.
        has_shard: Whether its shard is there, but for keys whose images could not be read.
    """

    number: int
    entries: tuple[PlannedEntry, ...]
    digest: str
    has_shard: bool = False

    @property
    def name(self) -> str:
        """File name of its shard."""
        return name_of(self.number)


def name_of(number: int) -> str:
    """File name of a block's shard."""
    return f"keys-{number:05}.parquet"


def number_at(position: int, settings: EmbedSettings) -> int:
    """The block that a row of the corpus is in, by the row's place, from 1."""
    return (position - 1) // settings.shard_keys


_BLOCK: TypeAdapter[Block] = TypeAdapter(Block)


def dump_block(block: Block) -> bytes:
    """A block as JSON, for workers on other machines to fetch: data alone, which runs nothing when it is read."""
    return _BLOCK.dump_json(block)


def load_block(data: bytes) -> Block:
    """The block that `dump_block` wrote.

    Raises:
        EmbeddingFailedError: it is none, as where somebody else has written to the job's folder.
    """
    try:
        return _BLOCK.validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise EmbeddingFailedError(
            f"expected a block of keys as JSON{f', in {field}' if field else ''}: {first['msg']}"
        ) from error


def cut(plan: Plan, settings: EmbedSettings, fingerprint: str, stamp: Sequence[str | int] = ()) -> Iterator[Block]:
    """Cuts a plan into blocks of `settings.shard_keys` rows of the corpus, so that a row that fails moves no other.

    Args:
        plan: The corpus.
        settings: The job's.
        fingerprint: The encoder's.
        stamp: What tells its vectors from others with that fingerprint.
    """
    for number, entries in groupby(plan.entries(), lambda entry: number_at(entry.position, settings)):
        block = tuple(entries)
        yield Block(number, block, _digest(block, settings, fingerprint, stamp))


def _digest(
    entries: Sequence[PlannedEntry], settings: EmbedSettings, fingerprint: str, stamp: Sequence[str | int]
) -> str:
    facts: list[Any] = [
        fingerprint,
        settings.vectors,
        settings.images,
        settings.max_image_bytes,
        settings.max_image_pixels,
        settings.max_image_aspect,
    ]
    if stamp:  # then a row's place decides its vector
        facts += [stamp, [entry.position for entry in entries]]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for entry in entries:
        digest.update(entry.key.encode() + b"\0" + bytes.fromhex(entry.payload_sha256))
        digest.update(json.dumps([_stamp(image) for image in entry.images]).encode())
    return digest.hexdigest()


def _stamp(image: ImageStamp) -> list[str | int]:
    return [image.location, image.size_bytes, image.version]
