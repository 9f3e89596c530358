"""The Milvus collection that holds an index: its fields, what it says about itself, and reads and changes of records.

Shape legend: Q = queries, D = width.
"""

import logging
from collections.abc import Collection as Listed
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from anykey.index.deadline import NEVER, Deadline
from anykey.index.errors import (
    IndexExistsError,
    IndexFormatError,
    IndexNotFoundError,
    IndexUnavailableError,
    KeyNotFoundError,
)
from anykey.index.milvus.connection import Connection
from anykey.index.milvus.expressions import both, listed, quote
from anykey.index.milvus.limits import AS_INSTALLED, Limits
from anykey.index.milvus.terms import TERM_CHARS
from anykey.index.queries import is_unicode
from anykey.index.store.manifest import EncoderFacts

FORMAT_VERSION = 2
READ_VERSIONS = (1, 2)  # the first does not tell dates from other strings
MAX_TEXT_BYTES = 65_535  # of a VARCHAR
MAX_JSON_BYTES = 65_536
MAX_LISTED = 4_096  # elements of an ARRAY

_FACTS = "anykey"  # the collection's property; also its description, which Milvus Lite forgets
_STRONG = "Strong"  # every acknowledged change is seen
_MODALITY_CHARS = 16

logger = logging.getLogger(__name__)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Structure(_Record):
    """How Milvus arranges the vectors.

    Attributes:
        kind: `FLAT` compares with every key; `IVF_FLAT` and `HNSW` with some, chosen by clusters or by a graph.
        build: What Milvus wants to know when it builds it, such as `nlist`, or `M` and `efConstruction`.
        search: What it wants to know for each search, such as `nprobe` or `ef`.
    """

    kind: Literal["FLAT", "IVF_FLAT", "HNSW"] = "FLAT"
    build: dict[str, int] = {}
    search: dict[str, int] = {}

    def build_parameters(self) -> dict[str, int]:
        """`build`, with what is missing from it."""
        defaults = {"FLAT": {}, "IVF_FLAT": {"nlist": 1024}, "HNSW": {"M": 16, "efConstruction": 200}}
        return {**defaults[self.kind], **self.build}

    def search_parameters(self, k: int, exact: bool) -> dict[str, int]:
        """`search`, with what is missing from it; all clusters for an exact search."""
        if self.kind == "IVF_FLAT":
            nlist = self.build_parameters()["nlist"]
            return {"nprobe": nlist if exact else min(self.search.get("nprobe", 16), nlist)}
        return {"ef": max(self.search.get("ef", 64), k)} if self.kind == "HNSW" else {}


class CollectionFacts(_Record):
    """What a collection says about itself.

    Attributes:
        format_version: Format of the collection; see `docs/engines.md`.
        encoder: The encoder that made the vectors.
        structure: How the vectors are arranged.
        images_dir: Folder with the images' bytes; `None` if they are not kept.
    """

    format_version: int = FORMAT_VERSION
    encoder: EncoderFacts
    structure: Structure = Structure()
    images_dir: str | None = None


class Collection:
    """One collection over one connection; safe for use from several threads.

    Attributes:
        name: Its name.
        connection: The way to it.
        facts: What it says about itself.
        limits: How much it is asked for and handed at once.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        facts: CollectionFacts,
        limits: Limits = AS_INSTALLED,
        deadline: Deadline = NEVER,
    ) -> None:
        self.name = name
        self.connection = connection
        self.facts = facts
        self.limits = limits
        self._deadline = deadline

    @classmethod
    def create(
        cls, connection: Connection, name: str, facts: CollectionFacts, limits: Limits = AS_INSTALLED
    ) -> "Collection":
        """Makes an empty collection.

        Raises:
            IndexExistsError: there is one of that name.
            IndexUnavailableError: Milvus cannot be reached or refuses.
        """
        if connection.call("has_collection", collection_name=name):
            raise IndexExistsError(f"Milvus at {connection.where} has a collection {name!r} already")
        noted = facts.model_dump_json()
        schema = _schema(noted, facts.encoder.width)
        connection.call(
            "create_collection",
            **{"collection_name": name, "schema": schema, "consistency_level": _STRONG, "properties": {_FACTS: noted}},
        )
        structure = facts.structure
        # The client unpacks the outer `params`; Milvus Lite, unlike a server, only reads what is in an inner one.
        build = {"params": structure.build_parameters()}
        _add_index(connection, name, "vector", index_type=structure.kind, metric_type="COSINE", params=build)
        _index_filters(connection, name)
        connection.call("load_collection", collection_name=name)
        return cls(connection, name, facts, limits)

    @classmethod
    def open(cls, connection: Connection, name: str, limits: Limits = AS_INSTALLED) -> "Collection":
        """Opens a collection.

        Raises:
            IndexNotFoundError: there is none of that name.
            IndexFormatError: it is no index, or of a format this release does not read.
            IndexUnavailableError: Milvus cannot be reached or refuses.
        """
        if not connection.call("has_collection", collection_name=name):
            raise IndexNotFoundError(f"Milvus at {connection.where} has no collection {name!r}")
        facts = _read_facts(connection, name)
        connection.call("load_collection", collection_name=name)
        return cls(connection, name, facts, limits)

    def until(self, deadline: Deadline) -> "Collection":
        """The same collection, for one answer: reads of it raise `DeadlineExceededError` once it is not wanted."""
        return Collection(self.connection, self.name, self.facts, self.limits, deadline)

    def search(
        self, queries_QD: NDArray[np.float32], k: int, where: str, fields: Sequence[str], *, exact: bool
    ) -> list[list[tuple[float, dict[str, Any]]]]:
        """The best records where an expression holds, per query: score and the fields asked for."""
        parameters = self.facts.structure.search_parameters(k, exact)
        found = self._call(
            "search",
            data=list(queries_QD),
            anns_field="vector",
            filter=where,
            limit=k,
            output_fields=list(fields),
            search_params={"metric_type": "COSINE", "params": parameters},
            consistency_level=_STRONG,
        )
        return [[(hit["distance"], dict(hit["entity"])) for hit in hits] for hits in found]

    def pages(
        self, where: str, fields: Sequence[str], after: str | None = None, page_records: int | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Records where an expression holds, in the order of their keys, some at a time; one read per page."""
        page_records = page_records or self.limits.page_records
        while True:
            follows = 'key >= ""' if after is None else f"key > {quote(after)}"
            page = [
                dict(record)
                for record in self._call(
                    "query",
                    filter=both(part for part in (follows, where) if part),
                    output_fields=["key", *fields],
                    limit=page_records,
                    iterator="True",  # what makes Milvus sort them by key
                    consistency_level=_STRONG,
                )
            ]
            if page:
                yield page
            if len(page) < page_records:
                return
            after = page[-1]["key"]

    def check(self, timeout_s: float) -> None:
        """Makes sure that Milvus answers for this collection; loads it where that was undone.

        Raises:
            IndexUnavailableError: Milvus does not answer, or has another collection of this name now.
        """
        try:
            self._probe(timeout_s)
        except IndexUnavailableError:
            self.connection.call("load_collection", collection_name=self.name, timeout_s=timeout_s)
            self._probe(timeout_s)

    def _probe(self, timeout_s: float) -> None:
        if _read_facts(self.connection, self.name, timeout_s).encoder != self.facts.encoder:
            raise IndexUnavailableError(
                f"collection {self.name!r} of Milvus at {self.connection.where} is of another encoder now"
            )
        self._call(
            "query",
            filter='key == ""',
            output_fields=["key"],
            limit=1,
            consistency_level=_STRONG,
            timeout_s=timeout_s,
        )

    def records(self, where: str, fields: Sequence[str], most: int | None = None) -> list[dict[str, Any]]:
        """Up to so many records where an expression holds, in any order."""
        return [
            dict(record)
            for record in self._call(
                "query",
                filter=where,
                output_fields=list(fields),
                limit=most or self.limits.found,
                consistency_level=_STRONG,
            )
        ]

    def record(self, key: str, fields: Sequence[str]) -> dict[str, Any]:
        """Some fields of one key's record.

        Raises:
            KeyNotFoundError: there is no such key.
        """
        found = self.records(listed("key", [key]), fields) if is_unicode(key) else []
        if not found:
            raise KeyNotFoundError(f"no key {key!r} in the index")
        return found[0]

    def count(self, where: str) -> int:
        """Number of records where an expression holds."""
        found = self._call("query", filter=where, output_fields=["count(*)"], consistency_level=_STRONG)
        return int(found[0]["count(*)"])

    def upsert(self, records: Listed[dict[str, Any]]) -> None:
        """Stores records in place of those of the same keys; no key may be there twice."""
        self._call("upsert", data=list(records))

    def delete(self, where: str) -> None:
        """Deletes the records where an expression over keys holds."""
        self._call("delete", filter=where)

    def flush(self) -> None:
        """Moves what Milvus holds in memory into files."""
        self._call("flush")

    def _call(self, method: str, **arguments: Any) -> Any:
        return self.connection.call(method, collection_name=self.name, deadline=self._deadline, **arguments)


def _schema(description: str, width: int) -> Any:
    from pymilvus import CollectionSchema, DataType, FieldSchema

    text = {"dtype": DataType.VARCHAR, "max_length": MAX_TEXT_BYTES}
    names = {"dtype": DataType.ARRAY, "element_type": DataType.VARCHAR, "max_capacity": MAX_LISTED}
    fields = [
        FieldSchema("key", is_primary=True, **text),
        FieldSchema("vector", DataType.FLOAT_VECTOR, dim=width),
        FieldSchema("modality", DataType.VARCHAR, max_length=_MODALITY_CHARS),
        FieldSchema("text", **text),
        FieldSchema("metadata", DataType.JSON),
        FieldSchema("terms", max_length=TERM_CHARS, **names),
        FieldSchema("pools", max_length=MAX_TEXT_BYTES, **names),
        FieldSchema("num_pools", DataType.INT64),
        FieldSchema("images", DataType.JSON),
    ]
    return CollectionSchema(fields, description=description, enable_dynamic_field=False)


def _add_index(connection: Connection, name: str, field: str, **parameters: Any) -> None:
    from pymilvus import MilvusClient

    indexes = MilvusClient.prepare_index_params()
    indexes.add_index(field, **parameters)
    connection.call("create_index", collection_name=name, index_params=indexes, sync=False)  # there are no records yet


def _index_filters(connection: Connection, name: str) -> None:
    """Lets a server find the keys that a filter asks for without looking at every one; Milvus Lite does anyway."""
    if connection.is_lite:
        return
    for field in ("terms", "pools", "modality"):
        try:
            _add_index(connection, name, field, index_type="INVERTED")
        except IndexUnavailableError as error:
            logger.warning("filters on %s look at every key: %s", field, error)


def _read_facts(connection: Connection, name: str, timeout_s: float | None = None) -> CollectionFacts:
    described = connection.call("describe_collection", collection_name=name, timeout_s=timeout_s)
    noted = described.get("properties", {}).get(_FACTS) or described.get("description", "")
    try:
        facts = CollectionFacts.model_validate_json(noted)
    except ValidationError as error:
        raise IndexFormatError(f"collection {name!r} of Milvus at {connection.where} is no index of ours") from error
    if facts.format_version not in READ_VERSIONS:
        raise IndexFormatError(
            f"collection {name!r} has format {facts.format_version}, this release reads formats "
            f"{' and '.join(map(str, READ_VERSIONS))}; fill a new one"
        )
    return facts
