"""A real HTTP server that searches as clip-retrieval, Qdrant and Marqo do, over a dataset's keys."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anykey.benchmark.dataset import Entry, image_bytes
from tests.unit.benchmark.endpoints.embedding_server import Said, vector_of


class EngineServer:
    """What the server answers.

    Attributes:
        requests: Path, body and key of every request that arrived.
        renamed: Keys that the engine calls otherwise.
        broken: Whether answers lack their hits.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = list(entries)
        images = [tuple(image_bytes(image) for image in entry.images) for entry in entries]
        vectors = [vector_of((entry.text or None, image)) for entry, image in zip(entries, images, strict=True)]
        self._vectors_ND = np.stack([vector / np.linalg.norm(vector) for vector in vectors])
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        self.renamed: dict[str, str] = {}
        self.broken = False
        self.url = ""

    def post(self, path: str, body: dict[str, Any], key: str | None) -> tuple[int, Any]:
        """Status and body of a POST."""
        self.requests.append((path, body, key))
        answer = {
            "/knn-service": self._clip_retrieval,
            "/collections/c/points/query": self._qdrant,
            "/indexes/c/search": self._marqo,
        }[path](body)
        return 200, {} if self.broken else answer

    def _clip_retrieval(self, body: Mapping[str, Any]) -> Any:
        assert body["modality"] == "image"
        assert body["deduplicate"] is False
        assert body["num_images"] == body["num_result_ids"]
        query: Any = (body.get("text"), (base64.b64decode(body["image"]),) if "image" in body else ())
        found = self._best(query, body["num_images"], range(len(self.entries)))
        return [{"sku": key, "id": 7, "similarity": score, "caption": "c"} for key, score in found]

    def _qdrant(self, body: Mapping[str, Any]) -> Any:
        nearest, rows = body["query"]["nearest"], list(range(len(self.entries)))
        for condition in body.get("filter", {}).get("must", []):
            rows = [row for row in rows if self._matches(self.entries[row], condition)]
        query: Any = nearest
        if isinstance(nearest, dict):
            assert nearest["model"] == "m"
            inner = nearest.get("object", nearest)
            image = (base64.b64decode(inner["image"].split(",")[1]),) if "image" in inner else ()
            query = (inner.get("text"), image)
        points = [
            {"id": number, "version": 0, "score": score, "payload": {"sku": key}}
            for number, (key, score) in enumerate(self._best(query, body["limit"], rows))
        ]
        return {"result": {"points": points}, "status": "ok", "time": 0.001}

    def _marqo(self, body: Mapping[str, Any]) -> Any:
        assert body["searchMethod"] == "TENSOR"
        found = self._best((body["q"], ()), body["limit"], range(len(self.entries)))
        return {"hits": [{"_id": key, "_score": score} for key, score in found], "limit": body["limit"], "offset": 0}

    def _matches(self, entry: Entry, condition: Mapping[str, Any]) -> bool:
        if condition["key"] == "pool":
            return condition["match"]["value"] in entry.pools
        assert condition["key"] == "sku"
        return entry.key in condition["match"]["any"]

    def _best(self, query: Said | list[float], k: int, rows: Sequence[int]) -> list[tuple[str, float]]:
        vector_D = np.array(query) if isinstance(query, list) else vector_of(query)
        scores_N = self._vectors_ND @ (vector_D / np.linalg.norm(vector_D))
        order = sorted(rows, key=lambda row: -scores_N[row])[:k]
        names = [self.entries[row].key for row in order]
        return [(self.renamed.get(name, name), float(scores_N[row])) for name, row in zip(names, order, strict=True)]
