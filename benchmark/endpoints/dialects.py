"""How searches are spelt to engines of others, and where their answers have the hits.

clip-retrieval's is that of its `clip_back.py` (2.45), Qdrant's that of `POST /collections/{c}/points/query` (1.20),
with vectors or with the objects of its inference, Marqo's that of `POST /indexes/{i}/search` (3.18).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from anykey.benchmark.dataset import Modality
from anykey.benchmark.endpoints.wires import data_uri

Found = list[tuple[str, float]]  # keys with their scores, best first
Asked = Mapping[str, Any]  # the body of a search of AnyKey


class Dialect(Protocol):
    """One kind of search engine.

    Attributes:
        path: Where searches go.
        takes: The modalities that it searches with.
        filters: Whether it can search within a pool or within some keys.
    """

    path: str
    takes: Collection[Modality]
    filters: bool

    def body(self, asked: Asked, images: Sequence[bytes], vector: list[float] | None, k: int) -> dict[str, Any]:
        """The JSON of a search for `k` hits; the vector is the query's, where the harness has it embedded."""

    def hits(self, answer: Any) -> Found:
        """The answer's hits.

        Raises:
            KeyError, TypeError, ValueError: the answer has another form.
        """


class ClipRetrieval:
    """`POST /knn-service`: a text or an image, in one index of images or of texts, without scopes."""

    path = "/knn-service"
    takes: Collection[Modality] = ("text", "image")
    filters = False

    def __init__(self, index: str, modality: str, column: str) -> None:
        """Which of its indices, whether it is searched as one of images or of texts, and which column has the keys."""
        self._index, self._modality, self._column = index, modality, column

    def body(self, asked: Asked, images: Sequence[bytes], vector: list[float] | None, k: int) -> dict[str, Any]:
        """Nothing is taken out of the hits: no copies, and nothing that its filters think unsafe."""
        query = {"embedding_input": vector} if vector is not None else {"text": asked.get("text")}
        if images and vector is None:
            query = {"image": asked["image"] if isinstance(asked["image"], str) else asked["image"][0]}
        counts = {"num_images": k, "num_result_ids": k}
        off = {"deduplicate": False, "use_safety_model": False, "use_violence_detector": False}
        return {**query, "modality": self._modality, "indice_name": self._index or None, **counts, **off}

    def hits(self, answer: Any) -> Found:
        """The rows' column of keys, and `similarity`."""
        return [(str(row[self._column]), float(row["similarity"])) for row in answer]


class Qdrant:
    """`POST /collections/{c}/points/query`."""

    takes: Collection[Modality] = ("text", "image", "fused")
    filters = True

    def __init__(self, collection: str, model: str, key_field: str, vector_name: str) -> None:
        """Which collection, model of its inference, field of the payload (or else the id), and vector of a point."""
        self.path = f"/collections/{collection}/points/query"
        self._model, self._key_field, self._vector_name = model, key_field, vector_name

    def body(self, asked: Asked, images: Sequence[bytes], vector: list[float] | None, k: int) -> dict[str, Any]:
        """A pool is a value of the payload's field `pool`; keys are ids, or values of the field of keys."""
        body: dict[str, Any] = {"query": {"nearest": vector if vector is not None else self._object(asked, images)}}
        body |= {"limit": k, "with_payload": [self._key_field] if self._key_field else False, "with_vector": False}
        must: list[dict[str, Any]] = []
        if "pool" in asked:
            must.append({"key": "pool", "match": {"value": asked["pool"]}})
        if "within" in asked:
            keys = asked["within"]
            by_field = {"key": self._key_field, "match": {"any": keys}}
            ids = [int(key) if key.isdecimal() else key for key in keys]  # numbers or UUIDs
            must.append(by_field if self._key_field else {"has_id": ids})
        if must:
            body["filter"] = {"must": must}
        if self._vector_name:
            body["using"] = self._vector_name
        if asked.get("exact"):
            body["params"] = {"exact": True}
        return body

    def hits(self, answer: Any) -> Found:
        """The points' keys and `score`."""
        points = answer["result"]["points"]
        field = self._key_field
        return [(str(p["payload"][field] if field else p["id"]), float(p["score"])) for p in points]

    def _object(self, asked: Asked, images: Sequence[bytes]) -> dict[str, Any]:
        text, pictures = asked.get("text"), [data_uri(image) for image in images]
        if not pictures:
            return {"text": text, "model": self._model}
        if not text:
            return {"image": pictures[0], "model": self._model}
        return {"object": {"text": text, "image": pictures[0]}, "model": self._model}


class Marqo:
    """`POST /indexes/{i}/search`, with texts."""

    takes: Collection[Modality] = frozenset[Modality]({"text"})
    filters = False

    def __init__(self, index: str, key_field: str) -> None:
        """Which index, and which field has the keys."""
        self.path, self._key_field = f"/indexes/{index}/search", key_field or "_id"

    def body(self, asked: Asked, images: Sequence[bytes], vector: list[float] | None, k: int) -> dict[str, Any]:
        """A search by vectors alone."""
        return {"q": asked["text"], "limit": k, "offset": 0, "searchMethod": "TENSOR", "showHighlights": False}

    def hits(self, answer: Any) -> Found:
        """The hits' keys and `_score`."""
        return [(str(hit[self._key_field]), float(hit["_score"])) for hit in answer["hits"]]
